"""Augments: what is known beside the events. Whatever is changed here counts for the very next event.

The augment's row is locked first and the account's after it, everywhere, and the account's as late as can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.errors import Problem, ProblemType
from app.db import accounts, cxengage_resources, enrichment_files
from app.db.cxengage_resources import AUGMENTS, AugmentRow
from app.services.context import AppContext
from app.services.cxengage import crud
from app.services.cxengage.csv_file import BrokenFile, CsvFile, read_csv, write_csv


def create_augment(context: AppContext, account_id: int, values: Mapping[str, Any]) -> AugmentRow:
    """Make an augment; one of the type file waits for its file."""
    with context.database.transaction() as connection:
        crud.check_room(connection, account_id, AUGMENTS)
        number = cxengage_resources.add(connection, AUGMENTS, account_id, values, context.clock())
        accounts.increment_version(connection, account_id)
        row = cxengage_resources.find(connection, AUGMENTS, account_id, number)
        assert row is not None
    return row


def change_augment(context: AppContext, account_id: int, name: str, changes: Mapping[str, Any]) -> AugmentRow:
    """Put other values into an augment; raises Problem 404, or 400 for what its type does not have."""
    with context.database.transaction() as connection:
        row = crud.find_on(connection, account_id, AUGMENTS, name)
        if changes.get("type", row.type) != row.type:
            raise Problem(ProblemType.VALIDATION_FAILED, f"type: is {row.type} and stays so; make another augment")
        check_url(row.type, changes.get("url", row.url))
        if changes:
            cxengage_resources.change(connection, AUGMENTS, account_id, row.number, changes, context.clock())
            accounts.increment_version(connection, account_id)
        return crud.find_on(connection, account_id, AUGMENTS, name)


def check_url(kind: str, url: str | None) -> None:
    """Raise Problem 400 for an API without a URL, or a file with one."""
    if kind == "api" and url is None:
        raise Problem(ProblemType.VALIDATION_FAILED, "url: is missing: where the API is asked")
    if kind == "file" and url is not None:
        raise Problem(
            ProblemType.VALIDATION_FAILED, "url: an augment of the type file has none; post its CSV to …/file"
        )


def remove_augment(context: AppContext, account_id: int, name: str) -> None:
    """Delete an augment with its file; raises Problem 404."""
    with context.database.transaction() as connection:
        row = crud.find_on(connection, account_id, AUGMENTS, name)
        cxengage_resources.remove(connection, AUGMENTS, account_id, row.number)
        accounts.increment_version(connection, account_id)


def put_file(context: AppContext, account_id: int, name: str, raw: bytes) -> AugmentRow:
    """Put a CSV file in the place of the one there is; raises Problem 404, and 400 with the line that is wrong."""
    row = crud.find_resource(context, account_id, AUGMENTS, name)
    if row.type != "file":
        raise Problem(ProblemType.VALIDATION_FAILED, f"{name} is of the type {row.type} and has no file")
    try:
        file = read_csv(raw)
    except BrokenFile as wrong:
        raise Problem(ProblemType.VALIDATION_FAILED, str(wrong)) from None
    with context.database.transaction() as connection:
        if not enrichment_files.lock_augment(connection, account_id, row.number):
            raise crud.missing(AUGMENTS, name)
        enrichment_files.replace_file(
            connection, account_id, row.number, file.columns, file.rows, len(raw), context.clock()
        )
        accounts.increment_version(connection, account_id)
        return crud.find_on(connection, account_id, AUGMENTS, name)


def read_file(context: AppContext, account_id: int, name: str) -> str:
    """The file as CSV; raises Problem 404."""
    with context.database.transaction() as connection:
        row = crud.find_on(connection, account_id, AUGMENTS, name)
        if row.columns is None:
            raise Problem(ProblemType.NOT_FOUND, f"{name} has no file")
        rows = enrichment_files.list_augment_rows(connection, account_id, row.number)
    return write_csv(CsvFile(row.columns, rows))
