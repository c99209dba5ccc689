"""What explains whether workflows have started for a subject: the workflows, its latest events with their decisions, and who
disabled a workflow. Reads a bounded number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class WorkflowState:
    """A workflow: its `document` is that of the enabled version, or of the latest one while it is disabled. `names`: the events
    that it looks at (`*`: any)."""

    id: UUID
    name: str
    enabled_version: int | None
    enablement: int
    document: Mapping[str, Any]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class DecidedEvent:
    """An event and what each workflow decided about it."""

    id: UUID
    event: str
    received_at: datetime
    decisions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Disabled:
    """When a workflow was last disabled, and who did that."""

    at: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class StepFault:
    """A step of a run that did not do what it should."""

    run_id: UUID
    path: str
    action: str
    status: str
    error: str | None


def list_workflow_states(
    connection: sa.Connection, account_id: int, name: str | None, limit: int
) -> list[WorkflowState]:
    """Workflows of an account by name, at most `limit`; with a `name` that one only."""
    rows = run_sql(
        connection,
        "SELECT workflow.id, workflow.name, enabled_version, enablement, document, ARRAY(SELECT event FROM workflow_triggers "
        "AS trigger WHERE trigger.account_id = :account AND trigger.workflow_id = workflow.id ORDER BY event) "
        "FROM workflows AS workflow JOIN workflow_versions AS version ON version.account_id = workflow.account_id "
        "AND version.workflow_id = workflow.id AND version.version = coalesce(enabled_version, latest_version) "
        "WHERE workflow.account_id = :account AND (CAST(:name AS text) IS NULL OR workflow.name = :name) "
        "ORDER BY workflow.name LIMIT :limit",
        {"account": account_id, "name": name, "limit": limit},
    )
    return [WorkflowState(*row) for row in rows]


def find_decided_events(connection: sa.Connection, account_id: int, subject: str, limit: int) -> list[DecidedEvent]:
    """The latest events of a subject, newest first."""
    rows = run_sql(
        connection,
        "SELECT id, event, received_at, coalesce(decisions, '[]') FROM events "
        "WHERE account_id = :account AND distinct_id = :subject ORDER BY id DESC LIMIT :limit",
        {"account": account_id, "subject": subject, "limit": limit},
    )
    return [DecidedEvent(*row) for row in rows]


def find_disabled(connection: sa.Connection, account_id: int, names: Sequence[str]) -> dict[str, Disabled]:
    """For each of these workflows when it was last disabled, as far as the audit log knows it."""
    rows = run_sql(
        connection,
        "SELECT name, entry.at, entry.actor FROM unnest(CAST(:names AS text[])) AS name CROSS JOIN LATERAL ("
        "SELECT at, actor FROM audit_log WHERE account_id = :account AND object_id = name AND action = 'workflow.disable' "
        "ORDER BY id DESC LIMIT 1) AS entry",
        {"account": account_id, "names": list(names)},
    )
    return {name: Disabled(at, actor) for name, at, actor in rows}


def find_faults(connection: sa.Connection, account_id: int, run_ids: Sequence[UUID], limit: int) -> list[StepFault]:
    """The failed and skipped steps of these runs, in order."""
    rows = run_sql(
        connection,
        "SELECT run_id, path, action, status, error FROM steps WHERE account_id = :account "
        "AND run_id = ANY (CAST(:runs AS uuid[])) AND status IN ('failed', 'skipped') ORDER BY run_id, ordinal LIMIT :limit",
        {"account": account_id, "runs": [str(one) for one in run_ids], "limit": limit},
    )
    return [StepFault(*row) for row in rows]
