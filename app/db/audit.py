"""The audit log: who changed what. Rows are added and read; the owner's functions of migration 0018 delete and mask them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.ids import first_id_at, uuid7
from app.core.models import Actor
from app.db.connection import run_sql

# Nothing younger is deleted, whoever calls the function of the database.
MIN_RETENTION_DAYS = 30


@dataclass(frozen=True, slots=True)
class Change:
    """What was changed: the members of an object that differ, `before` and `after`. `object_id` is None for several objects,
    `account_id` for what concerns no single account."""

    action: str
    account_id: int | None
    object_id: str | None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the log; `account` is the slug, or None where no account was changed."""

    id: UUID
    at: datetime
    account_id: int | None
    account: str | None
    actor: str
    via: str
    action: str
    object_type: str
    object_id: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Filters entries; None: all. `action`: an action, or a type of objects for all of its actions. `before`: only entries with a
    smaller id."""

    account_id: int | None = None
    actor: str | None = None
    action: str | None = None
    object_id: str | None = None
    since: datetime | None = None
    before: UUID | None = None


def insert_change(connection: sa.Connection, actor: Actor, change: Change, now: datetime) -> None:
    """Add a row."""
    run_sql(
        connection,
        "INSERT INTO audit_log "
        "(id, account_id, at, actor, via, action, object_type, object_id, before, after, request_id) VALUES (:id, "
        ":account_id, :now, :name, :via, :action, :type, :object_id, CAST(:before AS jsonb), CAST(:after AS jsonb), :request_id)",
        {
            **asdict(actor),
            **asdict(change),
            "id": uuid7(now),
            "now": now,
            "type": change.action.partition(".")[0],
            "before": _json(change.before),
            "after": _json(change.after),
        },
    )


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


# Filters that are null are constants to the planner, which drops them.
_ENTRIES = """
SELECT entry.id, at, account_id, slug, actor, via, action, object_type, object_id, before, after, request_id
FROM audit_log AS entry LEFT JOIN accounts ON accounts.id = account_id
WHERE (CAST(:account_id AS bigint) IS NULL OR account_id = :account_id)
    AND (CAST(:actor AS text) IS NULL OR actor = :actor)
    AND (CAST(:action AS text) IS NULL OR action = :action OR object_type = :action)
    AND (CAST(:object_id AS text) IS NULL OR object_id = :object_id)
    AND (CAST(:since AS timestamptz) IS NULL OR at >= :since AND entry.id >= :first)
    AND (CAST(:before AS uuid) IS NULL OR entry.id < :before)
ORDER BY entry.id DESC LIMIT :limit
"""


def list_entries(connection: sa.Connection, wanted: EntryFilter, limit: int) -> list[Entry]:
    """At most `limit` entries that pass the filter, newest first."""
    first = None if wanted.since is None else first_id_at(wanted.since)
    rows = run_sql(connection, _ENTRIES, {**asdict(wanted), "first": first, "limit": limit})
    return [Entry(*row) for row in rows]


def delete_older(connection: sa.Connection, account_id: int | None, before: datetime, limit: int) -> int:
    """Delete at most `limit` rows of an account (None: those of no account) that are older than `before`, and than
    MIN_RETENTION_DAYS, the oldest first; how many."""
    values = {"account": account_id, "before": before, "limit": limit}
    deleted: int = run_sql(connection, "SELECT delete_audit_log(:account, :before, :limit)", values).scalar_one()
    return deleted


def erase_subject(connection: sa.Connection, account_id: int, subject: str) -> int:
    """Mask a subject's id in the log of an account, and the targets that its runs disabled; how many rows changed. Call it before
    the runs are deleted."""
    values = {"account": account_id, "subject": subject}
    changed: int = run_sql(connection, "SELECT erase_from_audit_log(:account, :subject)", values).scalar_one()
    return changed
