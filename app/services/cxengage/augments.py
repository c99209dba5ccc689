"""Augments. Each change applies from the next event, because it raises the account's version.

All functions lock the augment's row first and the account's row last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.errors import Problem, ProblemType
from app.db import accounts, cxengage_resources
from app.db.cxengage_resources import AUGMENTS, AugmentRow
from app.services.context import AppContext
from app.services.cxengage import crud
from app.services.cxengage.csv_file import CsvFile, InvalidFile, read_csv, write_csv


def create_augment(context: AppContext, account_id: int, values: Mapping[str, Any]) -> AugmentRow:
    """Create an augment; one of the type `file` adds nothing until its file is uploaded. Raises Problem 422."""
    _check_url(values["type"], values.get("url"))
    with context.database.transaction() as connection:
        row = crud.insert(connection, account_id, AUGMENTS, values, context.clock())
        accounts.increment_version(connection, account_id)
    return row


def change_augment(context: AppContext, account_id: int, name: str, changes: Mapping[str, Any]) -> AugmentRow:
    """Change an augment; raises Problem 404, or 422 for a value that its type does not allow."""
    with context.database.transaction() as connection:
        row = crud.find(connection, account_id, AUGMENTS, name)
        if changes.get("type", row.type) != row.type:
            raise Problem(
                ProblemType.VALIDATION_FAILED, f"type: cannot be changed from {row.type}; create another augment"
            )
        _check_url(row.type, changes.get("url", row.url))
        if changes:
            cxengage_resources.update(connection, AUGMENTS, account_id, row.number, changes, context.clock())
            accounts.increment_version(connection, account_id)
        return crud.find(connection, account_id, AUGMENTS, name)


def _check_url(kind: str, url: str | None) -> None:
    if kind == "api" and url is None:
        raise Problem(ProblemType.VALIDATION_FAILED, "url: is required for an augment of the type api")
    if kind == "file" and url is not None:
        raise Problem(
            ProblemType.VALIDATION_FAILED, "url: is not allowed for an augment of the type file; post its CSV to …/file"
        )


def delete_augment(context: AppContext, account_id: int, name: str) -> None:
    """Delete an augment with its file; raises Problem 404."""
    with context.database.transaction() as connection:
        row = crud.find(connection, account_id, AUGMENTS, name)
        cxengage_resources.delete(connection, AUGMENTS, account_id, row.number)
        accounts.increment_version(connection, account_id)


def put_file(context: AppContext, account_id: int, name: str, raw: bytes) -> AugmentRow:
    """Upload or replace the CSV file; raises Problem 404, or 422 with the number of the invalid line."""
    row = crud.find_resource(context, account_id, AUGMENTS, name)
    if row.type != "file":
        raise Problem(ProblemType.VALIDATION_FAILED, f"{name} is of the type {row.type}, which has no file")
    try:
        file = read_csv(raw)
    except InvalidFile as exc:
        raise Problem(ProblemType.VALIDATION_FAILED, str(exc)) from None
    with context.database.transaction() as connection:
        if not cxengage_resources.lock_augment(connection, account_id, row.number):
            raise crud.not_found(AUGMENTS, name)
        cxengage_resources.replace_file(
            connection, account_id, row.number, file.columns, file.rows, len(raw), context.clock()
        )
        accounts.increment_version(connection, account_id)
        return crud.find(connection, account_id, AUGMENTS, name)


def read_file(context: AppContext, account_id: int, name: str) -> str:
    """The file as CSV text; raises Problem 404."""
    with context.database.transaction() as connection:
        row = crud.find(connection, account_id, AUGMENTS, name)
        if row.columns is None:
            raise Problem(ProblemType.NOT_FOUND, f"{name} has no file")
        rows = cxengage_resources.list_augment_rows(connection, account_id, row.number)
    return write_csv(CsvFile(row.columns, rows))
