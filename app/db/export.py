"""All rows of an account as lines of JSON, from one snapshot, a bounded number in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP

from app.db.connection import driver_connection, limit_statements, run_sql
from app.db.roles import SECRET_COLUMNS
from app.db.tables import metadata

# Rows in memory at a time: an event may be half a MiB.
_FETCHED = 100
# Seconds that the next rows may take.
_TIMEOUT = 60.0


def begin_snapshot(connection: sa.Connection) -> None:
    """Let the transaction, which has to be new, read one snapshot. The caller may read the rows slowly."""
    run_sql(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    run_sql(connection, "SET LOCAL idle_in_transaction_session_timeout = 0")
    limit_statements(connection, _TIMEOUT)


def tables_of_accounts() -> list[str]:
    """The tables that have rows of accounts, `accounts` first."""
    names = [name for name, table in metadata.tables.items() if "account_id" in table.columns]
    return ["accounts", *sorted(names)]


def read_rows(connection: sa.Connection, table_name: str, account_id: int) -> Iterator[str]:
    """An account's rows of a table, `{"kind": table, "row": {column: value}}` each, in the order of the primary key.

    Secrets are left out. Numbers are exact. Times are UTC with microseconds, bytes are base64.
    """
    table = metadata.tables[table_name]
    secret = SECRET_COLUMNS.get(table_name, frozenset())
    columns = ", ".join(_value(column) for column in table.columns if column.name not in secret)
    owner = "id" if table_name == "accounts" else "account_id"
    order = ", ".join(column.name for column in table.primary_key if column.name != owner) or owner
    with driver_connection(connection).cursor(name="export") as cursor:
        cursor.itersize = _FETCHED
        cursor.execute(
            f"SELECT json_build_object('kind', %(table)s, 'row', row_to_json(one))::text FROM (SELECT {columns} "
            f"FROM {table_name} WHERE {owner} = %(account)s ORDER BY {order}) AS one",
            {"table": table_name, "account": account_id},
        )
        for (line,) in cursor:
            yield line


def _value(column: sa.Column[object]) -> str:
    """SQL for a column in JSON."""
    name = f'"{column.name}"'
    if isinstance(column.type, TIMESTAMP):
        return f"""to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS {name}"""
    if isinstance(column.type, BYTEA):
        return f"translate(encode({name}, 'base64'), E'\\n', '') AS {name}"
    return name
