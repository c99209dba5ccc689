"""Versions of workflows and of sources: texts (`source`) with their data (`document`), numbered from 1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to save of the workflow or source `owner_id`."""

    owner_id: UUID
    name: str
    version: int
    source: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """A version without its document."""

    version: int
    created_at: datetime


class DocumentVersions:
    """The versions in the table `KIND_versions`, each of a row of the table `KINDs`."""

    def __init__(self, kind: str) -> None:
        self._owners, self._table, self._owner_id = f"{kind}s", f"{kind}_versions", f"{kind}_id"

    def find(
        self, connection: sa.Connection, account_id: int, owner_id: UUID, version: int
    ) -> tuple[str, Mapping[str, Any]] | None:
        """(source, document) of one version, or None."""
        row = run_sql(
            connection,
            f"SELECT source, document FROM {self._table} "
            f"WHERE account_id = :account AND {self._owner_id} = :owner AND version = :version",
            {"account": account_id, "owner": owner_id, "version": version},
        ).one_or_none()
        return None if row is None else (row.source, row.document)

    def list_latest(
        self, connection: sa.Connection, account_id: int, owner_id: UUID, limit: int, before: int | None = None
    ) -> list[Version]:
        """Versions, the newest first: those before `before`."""
        rows = run_sql(
            connection,
            f"SELECT version, created_at FROM {self._table} WHERE account_id = :account AND {self._owner_id} = :owner "
            "AND (CAST(:before AS int) IS NULL OR version < :before) ORDER BY version DESC LIMIT :limit",
            {"account": account_id, "owner": owner_id, "before": before, "limit": limit},
        )
        return [Version(*row) for row in rows]

    def save(self, connection: sa.Connection, account_id: int, new: NewVersion, now: datetime) -> None:
        """Save a version, which is the latest then; version 1 creates its owner."""
        document = json.dumps(new.document, ensure_ascii=False)
        values = {**asdict(new), "account": account_id, "document": document, "now": now}
        run_sql(
            connection,
            f"INSERT INTO {self._owners} (account_id, id, name, latest_version, created_at, updated_at) "
            "VALUES (:account, :owner_id, :name, :version, :now, :now) "
            "ON CONFLICT (account_id, id) DO UPDATE SET latest_version = :version, updated_at = :now",
            values,
        )
        run_sql(
            connection,
            f"INSERT INTO {self._table} (account_id, {self._owner_id}, version, source, document, created_at) "
            "VALUES (:account, :owner_id, :version, :source, CAST(:document AS jsonb), :now)",
            values,
        )


WORKFLOW_VERSIONS, SOURCE_VERSIONS = DocumentVersions("workflow"), DocumentVersions("source")
