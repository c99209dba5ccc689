"""Sources and their versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.db.accounts import increment_version
from app.db.connection import run_sql
from app.db.document_versions import SOURCE_VERSIONS, NewVersion


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source with its latest version, which is in use: its text (`source`) and its data (`document`)."""

    account_id: int
    id: UUID
    name: str
    enabled: bool
    latest_version: int
    created_at: datetime
    updated_at: datetime
    source: str
    document: Mapping[str, Any]


_ROWS = """
SELECT sources.account_id, sources.id, sources.name, enabled, latest_version, sources.created_at, updated_at, source, document
FROM sources JOIN source_versions AS version ON version.account_id = sources.account_id AND version.source_id = sources.id
    AND version.version = latest_version
WHERE sources.account_id = :account
"""


def list_sources(
    connection: sa.Connection, account_id: int, after: str = "", limit: int | None = None
) -> list[SourceRow]:
    """Sources of an account by name: those after `after`, at most `limit` (None: all)."""
    query = _ROWS + "AND name > :after ORDER BY name LIMIT :limit"
    rows = run_sql(connection, query, {"account": account_id, "after": after, "limit": limit})
    return [SourceRow(*row) for row in rows]


def count_sources(connection: sa.Connection, account_id: int) -> int:
    """How many sources an account has."""
    query = "SELECT count(*) FROM sources WHERE account_id = :account"
    return int(run_sql(connection, query, {"account": account_id}).scalar_one())


def find_source(connection: sa.Connection, account_id: int, name: str) -> SourceRow | None:
    """A source of an account by its name."""
    row = run_sql(connection, _ROWS + "AND name = :name", {"account": account_id, "name": name}).one_or_none()
    return None if row is None else SourceRow(*row)


def save_version(connection: sa.Connection, account_id: int, new: NewVersion, now: datetime) -> None:
    """Save a version, which is in use from now on; version 1 creates the source."""
    increment_version(connection, account_id)
    SOURCE_VERSIONS.save(connection, account_id, new, now)


def set_enabled(connection: sa.Connection, account_id: int, source_id: UUID, enabled: bool, now: datetime) -> None:
    """Enable or disable a source."""
    increment_version(connection, account_id)
    run_sql(
        connection,
        "UPDATE sources SET enabled = :enabled, updated_at = :now WHERE account_id = :account AND id = :source",
        {"account": account_id, "source": source_id, "enabled": enabled, "now": now},
    )


def delete_source(connection: sa.Connection, account_id: int, source_id: UUID) -> None:
    """Delete a source with its versions."""
    increment_version(connection, account_id)
    run_sql(
        connection,
        "DELETE FROM sources WHERE account_id = :account AND id = :source",
        {"account": account_id, "source": source_id},
    )
