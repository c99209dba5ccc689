"""SQL that is the same for several tables: bounded counts, the accounts that have rows, and rows by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql

# Rows that are counted at most, so that a count reads a bounded part of an index.
MAX_COUNTED = 10_000


def count_of(source: str, limit: str = ":max_rows") -> str:
    """SQL that counts the rows of `source`, a FROM clause with its conditions; at most `limit`."""
    return f"(SELECT count(*) FROM (SELECT FROM {source} LIMIT {limit}) AS counted)"


def find_accounts_with_rows(
    connection: sa.Connection, table: str, condition: str = "TRUE", values: Mapping[str, Any] | None = None
) -> list[int]:
    """The accounts that have rows of a table that meet a condition: one look-up for each account, however many rows it has."""
    query = f"""
        WITH RECURSIVE found (account_id) AS (
            (SELECT account_id FROM {table} WHERE {condition} ORDER BY account_id LIMIT 1)
            UNION ALL
            SELECT (SELECT {table}.account_id FROM {table} WHERE {condition} AND {table}.account_id > found.account_id
                ORDER BY {table}.account_id LIMIT 1)
            FROM found WHERE found.account_id IS NOT NULL
        )
        SELECT account_id FROM found WHERE account_id IS NOT NULL
    """
    return list(run_sql(connection, query, values).scalars())


def find_owners(
    connection: sa.Connection,
    table: str,
    row_id: UUID,
    condition: str = "TRUE",
    values: Mapping[str, Any] | None = None,
) -> list[int]:
    """The ids of the accounts that have a row of this id in a table; almost always none or one."""
    query = (
        f"SELECT accounts.id FROM accounts JOIN {table} AS found ON account_id = accounts.id "
        f"WHERE found.id = :id AND {condition} ORDER BY accounts.id"
    )
    return list(run_sql(connection, query, {**(values or {}), "id": str(row_id)}).scalars())


def delete_by_ids(connection: sa.Connection, table: str, account_id: int, row_ids: Sequence[UUID]) -> int:
    """Delete rows of an account by their ids; how many."""
    query = f"DELETE FROM {table} WHERE account_id = :account AND id = ANY (CAST(:ids AS uuid[]))"
    return run_sql(connection, query, {"account": account_id, "ids": [str(one) for one in row_ids]}).rowcount
