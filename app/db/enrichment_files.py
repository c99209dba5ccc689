"""The CSV files of augments: rows that are found by the value of the first column."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import run_sql

# Rows per statement: other greenlets run between two statements.
_BATCH = 1_000

# A lookup value and the cells of its row.
LookupRow = tuple[str, Sequence[str]]


def replace_file(
    connection: sa.Connection,
    account_id: int,
    number: int,
    columns: Sequence[str],
    rows: Sequence[LookupRow],
    size: int,
    now: datetime,
) -> None:
    """Replace the rows by those of a file of `size` bytes. The caller has locked the augment."""
    key = {"account": account_id, "number": number}
    run_sql(connection, "DELETE FROM augment_rows WHERE account_id = :account AND number = :number", key)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        run_sql(
            connection,
            "INSERT INTO augment_rows (account_id, number, lookup, position, cells) "
            "SELECT :account, :number, lookup, :start + nr, CAST(cells AS text[]) "
            "FROM unnest(CAST(:lookups AS text[]), CAST(:cells AS text[])) WITH ORDINALITY AS new (lookup, cells, nr)",
            {
                **key,
                "start": start,
                "lookups": [lookup for lookup, _ in batch],
                "cells": [_array(cells) for _, cells in batch],
            },
        )
    run_sql(
        connection,
        "UPDATE augments SET columns = :columns, rows = :rows, bytes = :bytes, upload = upload + 1, updated_at = :now "
        "WHERE account_id = :account AND number = :number",
        {**key, "columns": list(columns), "rows": len(rows), "bytes": size, "now": now},
    )


def _array(cells: Sequence[str]) -> str:
    """A Postgres array literal."""
    escaped = (cell.replace("\\", "\\\\").replace('"', '\\"') for cell in cells)
    return "{" + ",".join(f'"{cell}"' for cell in escaped) + "}"


def lock_augment(connection: sa.Connection, account_id: int, number: int) -> str | None:
    """Lock an augment's row and return its type; None when it does not exist."""
    found: str | None = run_sql(
        connection,
        "SELECT type FROM augments WHERE account_id = :account AND number = :number FOR UPDATE",
        {"account": account_id, "number": number},
    ).scalar()
    return found


def find_augment_row(connection: sa.Connection, account_id: int, number: int, lookup: str) -> list[str] | None:
    """The cells of the row with this lookup value, or None."""
    cells: list[str] | None = run_sql(
        connection,
        "SELECT cells FROM augment_rows WHERE account_id = :account AND number = :number AND lookup = :lookup",
        {"account": account_id, "number": number, "lookup": lookup},
    ).scalar()
    return cells


def list_augment_rows(connection: sa.Connection, account_id: int, number: int) -> list[LookupRow]:
    """All rows of a file, in file order."""
    rows = run_sql(
        connection,
        "SELECT lookup, cells FROM augment_rows WHERE account_id = :account AND number = :number ORDER BY position",
        {"account": account_id, "number": number},
    )
    return [(row.lookup, row.cells) for row in rows]
