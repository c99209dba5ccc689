"""Secrets of accounts. Values are encrypted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A secret without its value."""

    name: str
    created_at: datetime
    updated_at: datetime


def list_secrets(
    connection: sa.Connection, account_id: int, after: str = "", limit: int | None = None
) -> list[SecretRow]:
    """An account's secrets by name: those after `after`, at most `limit` (None: all)."""
    rows = run_sql(
        connection,
        "SELECT name, created_at, updated_at FROM secrets WHERE account_id = :account AND name > :after "
        "ORDER BY name LIMIT :limit",
        {"account": account_id, "after": after, "limit": limit},
    )
    return [SecretRow(*row) for row in rows]


def find_names(connection: sa.Connection, account_id: int) -> frozenset[str]:
    """The names of an account's secrets."""
    query = "SELECT name FROM secrets WHERE account_id = :account"
    return frozenset(run_sql(connection, query, {"account": account_id}).scalars())


def save_secret(connection: sa.Connection, account_id: int, name: str, value: bytes, now: datetime) -> None:
    """Insert a secret, or replace its value."""
    run_sql(
        connection,
        "INSERT INTO secrets (account_id, name, value, created_at, updated_at) VALUES (:account, :name, :value, :now, :now) "
        "ON CONFLICT (account_id, name) DO UPDATE SET value = :value, updated_at = :now",
        {"account": account_id, "name": name, "value": value, "now": now},
    )


def remove_secret(connection: sa.Connection, account_id: int, name: str) -> bool:
    """Delete a secret; False when there is none."""
    removed = run_sql(
        connection,
        "DELETE FROM secrets WHERE account_id = :account AND name = :name",
        {"account": account_id, "name": name},
    )
    return bool(removed.rowcount)


def list_values(connection: sa.Connection) -> list[tuple[int, str, bytes]]:
    """(account id, name, encrypted value) of the secrets of all accounts."""
    rows = run_sql(connection, "SELECT account_id, name, value FROM secrets ORDER BY account_id, name")
    return [(row.account_id, row.name, bytes(row.value)) for row in rows]


def replace_value(connection: sa.Connection, account_id: int, name: str, old: bytes, new: bytes) -> None:
    """Replace a value by the same value with another encryption, unless it has changed since."""
    run_sql(
        connection,
        "UPDATE secrets SET value = :new WHERE account_id = :account AND name = :name AND value = :old",
        {"account": account_id, "name": name, "old": old, "new": new},
    )


def find_workflows_with_secrets(connection: sa.Connection, account_id: int) -> list[tuple[str, Any]]:
    """(name, document) of the account's enabled workflows whose documents may read a secret, by name."""
    rows = run_sql(
        connection,
        "SELECT name, document FROM workflows AS workflow JOIN workflow_versions AS version "
        "ON version.account_id = workflow.account_id AND version.workflow_id = workflow.id AND version.version = enabled_version "
        "WHERE workflow.account_id = :account AND position('secrets' IN CAST(document AS text)) > 0 ORDER BY name",
        {"account": account_id},
    )
    return [(row.name, row.document) for row in rows]


def find_values(connection: sa.Connection, account_id: int, names: Iterable[str]) -> dict[str, bytes]:
    """The encrypted values of these of an account's secrets, by name."""
    query = "SELECT name, value FROM secrets WHERE account_id = :account AND name = ANY (CAST(:names AS text[]))"
    rows = run_sql(connection, query, {"account": account_id, "names": list(names)})
    return {row.name: bytes(row.value) for row in rows}
