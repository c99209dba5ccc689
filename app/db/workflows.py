"""Workflows and their versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.db.accounts import increment_version
from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A workflow with its latest version. `enabled_version` is None while it is disabled."""

    account_id: int
    id: UUID
    name: str
    enabled_version: int | None
    latest_version: int
    created_at: datetime
    updated_at: datetime
    source: str
    document: Mapping[str, Any]


_ROWS = """
SELECT workflow.account_id, workflow.id, workflow.name, enabled_version, latest_version, workflow.created_at, updated_at,
    source, document
FROM workflows AS workflow
JOIN workflow_versions AS version ON version.account_id = workflow.account_id AND version.workflow_id = workflow.id
    AND version.version = workflow.latest_version
WHERE workflow.account_id = :account
"""


def list_workflows(
    connection: sa.Connection, account_id: int, after: str = "", limit: int | None = None
) -> list[WorkflowRow]:
    """Workflows of an account by name: those after `after`, at most `limit` (None: all)."""
    query = sa.text(_ROWS + "AND name > :after ORDER BY name LIMIT :limit")
    values = {"account": account_id, "after": after, "limit": limit}
    return [WorkflowRow(*row) for row in connection.execute(query, values)]


def find_workflow(connection: sa.Connection, account_id: int, name: str) -> WorkflowRow | None:
    """A workflow of an account by its name."""
    row = run_sql(connection, _ROWS + "AND name = :name", {"account": account_id, "name": name}).one_or_none()
    return None if row is None else WorkflowRow(*row)


def write_awaits(
    connection: sa.Connection, account_id: int, workflow_id: UUID, version: int, names: Sequence[str]
) -> None:
    """Store the names of the events that runs of a version may wait for or end by."""
    run_sql(
        connection,
        "UPDATE workflow_versions SET awaits = :names "
        "WHERE account_id = :account AND workflow_id = :workflow AND version = :version",
        {"account": account_id, "workflow": workflow_id, "version": version, "names": list(names)},
    )


def enable_version(
    connection: sa.Connection, account_id: int, workflow_id: UUID, version: int, triggers: Sequence[str], now: datetime
) -> None:
    """Enable a version in place of any other. `triggers`: the event names that it looks at."""
    _set_enabled_version(connection, account_id, workflow_id, version, now)
    write_triggers(connection, account_id, workflow_id, version, triggers)


def disable_workflow(connection: sa.Connection, account_id: int, workflow_id: UUID, now: datetime) -> None:
    """Disable a workflow. Its runs go on."""
    _set_enabled_version(connection, account_id, workflow_id, None, now)


def write_triggers(
    connection: sa.Connection, account_id: int, workflow_id: UUID, version: int, triggers: Sequence[str]
) -> None:
    """Store the event names that a workflow's enabled version looks at; nothing if that is another version by now.

    Rows of an earlier version are replaced: a process of the previous release enables a version without deleting them.
    """
    run_sql(
        connection,
        "WITH workflow AS (SELECT id FROM workflows WHERE account_id = :account AND id = :workflow "
        "AND enabled_version = :version FOR NO KEY UPDATE), "
        "stale AS (DELETE FROM workflow_triggers USING workflow WHERE account_id = :account AND workflow_id = workflow.id "
        "AND NOT event = ANY (CAST(:triggers AS text[]))) "
        "INSERT INTO workflow_triggers (account_id, event, workflow_id, version) "
        "SELECT :account, event, id, :version FROM workflow, unnest(CAST(:triggers AS text[])) AS event "
        "ON CONFLICT (account_id, event, workflow_id) DO UPDATE SET version = excluded.version",
        {"account": account_id, "workflow": workflow_id, "version": version, "triggers": list(triggers)},
    )


def _set_enabled_version(
    connection: sa.Connection, account_id: int, workflow_id: UUID, version: int | None, now: datetime
) -> None:
    """Set the enabled version and delete the triggers of the one before. The workflow's row is locked first."""
    increment_version(connection, account_id)
    values = {"account": account_id, "workflow": workflow_id, "version": version, "now": now}
    run_sql(
        connection,
        "UPDATE workflows SET enabled_version = :version, enablement = enablement + 1, updated_at = :now "
        "WHERE account_id = :account AND id = :workflow",
        values,
    )
    run_sql(connection, "DELETE FROM workflow_triggers WHERE account_id = :account AND workflow_id = :workflow", values)


def find_enabled_patterns(connection: sa.Connection, account_id: int, except_for: UUID) -> list[Any]:
    """The patterns of the account's other enabled workflows, except those of one event."""
    return list(
        run_sql(
            connection,
            "SELECT document -> 'on' " + _ENABLED + "WHERE workflow.account_id = :account AND workflow.id <> :id "
            "AND jsonb_typeof(document -> 'on') = 'object' AND NOT document -> 'on' ? 'event'",
            {"account": account_id, "id": except_for},
        ).scalars()
    )


_ENABLED = """
FROM workflows AS workflow JOIN workflow_versions AS version ON version.account_id = workflow.account_id
    AND version.workflow_id = workflow.id AND version.version = workflow.enabled_version
"""


def measure_enabled(connection: sa.Connection, account_id: int, except_for: UUID) -> tuple[int, int, int]:
    """How many other workflows of the account are enabled, and of their patterns the characters of the filters, and how many
    texts (event names, filters and durations) they have."""
    row = run_sql(
        connection,
        "SELECT count(*), coalesce(sum(filters.characters), 0), coalesce(sum(texts.number), 0) "
        + _ENABLED
        + "CROSS JOIN LATERAL (SELECT sum(length(filter #>> '{}')) AS characters "
        "FROM jsonb_path_query(document -> 'on', 'strict $.**.where') AS filter) AS filters "
        "CROSS JOIN LATERAL (SELECT count(*) AS number "
        "FROM jsonb_path_query(document -> 'on', 'strict $.** ? (@.type() == \"string\")')) AS texts "
        "WHERE workflow.account_id = :account AND workflow.id <> :id",
        {"account": account_id, "id": except_for},
    ).one()
    return int(row[0]), int(row[1]), int(row[2])


def count_triggers(connection: sa.Connection, account_id: int, except_for: UUID) -> dict[str, int]:
    """How many other enabled workflows look at each event name (`*`: at any)."""
    rows = run_sql(
        connection,
        "SELECT event, count(*) FROM workflow_triggers WHERE account_id = :account AND workflow_id <> :id GROUP BY event",
        {"account": account_id, "id": except_for},
    )
    return {row.event: int(row[1]) for row in rows}


def find_enabled_by_event(
    connection: sa.Connection, account_id: int, except_for: UUID, events: Sequence[str]
) -> list[tuple[Any, Any]]:
    """`on` and `again` of the other enabled workflows that look at events of these names."""
    rows = run_sql(
        connection,
        "SELECT document -> 'on', document -> 'again' "
        + _ENABLED
        + "WHERE workflow.account_id = :account AND workflow.id <> :id AND EXISTS (SELECT FROM workflow_triggers AS trigger "
        "WHERE trigger.account_id = workflow.account_id AND trigger.workflow_id = workflow.id AND event = ANY (:events))",
        {"account": account_id, "id": except_for, "events": list(events)},
    )
    return [(on, again) for on, again in rows]
