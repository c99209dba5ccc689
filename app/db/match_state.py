"""Match state in the database: how far each subject has come in each workflow that needs more than one event.

Rows are read and written under advisory locks: two transactions that advance the same subject wait for each other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.db.connection import begin_with, commit_with, delete_batch, run_sql
from app.db.job_queue import DEADLINE, enqueue

# Workflow and subject.
StateKey = tuple[UUID, str]

# Advisory locks per account. A batch of thousands of subjects takes all of them at most, which is far below what Postgres has
# room for; the price is that two subjects may share a lock and wait for each other.
_LOCKS_PER_ACCOUNT = 256
# The job of a deadline is due a little later, since an event with the very timestamp of the deadline still disarms it.
_JUST_AFTER = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class StoredState:
    """The match state of one subject in one workflow, as stored: `progress` as JSON, valid for one `enablement`."""

    enablement: int | None = None
    progress: Mapping[str, Any] | None = None
    deadline: datetime | None = None
    last_event_at: datetime | None = None
    last_started_at: datetime | None = None
    lapses_at: datetime | None = None


NO_STATE = StoredState()


def begin_and_lock(connection: RawConnection, account_id: int, keys: Sequence[StateKey]) -> dict[StateKey, StoredState]:
    """Begin a transaction, lock the states and read those that exist: one round trip.

    Locks are taken in the order of their numbers, so that transactions never deadlock. The rows are read after all locks are
    held.
    """
    numbers = sorted({lock_number(account_id, key) for key in keys})
    locks = "".join(f"SELECT pg_advisory_xact_lock({number});" for number in numbers)
    rows = begin_with(
        connection,
        locks + "SELECT workflow_id, subject, enablement, progress, deadline, last_event_at, last_started_at "
        "FROM progress JOIN unnest(%s::uuid[], %s::text[]) AS key (workflow_id, subject) "
        "USING (workflow_id, subject) WHERE account_id = %s",
        ([str(workflow) for workflow, _ in keys], [subject for _, subject in keys], account_id),
    )
    return {(UUID(row[0]), row[1]): StoredState(*row[2:]) for row in rows}


def lock_number(account_id: int, key: StateKey) -> int:
    """The number of the advisory lock of a state. All states of a subject have the same."""
    share = zlib.crc32(key[1].encode()) % _LOCKS_PER_ACCOUNT
    digest = hashlib.blake2b(f"{account_id}:{share}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def write_and_commit(
    connection: RawConnection, account_id: int, changes: Mapping[StateKey, tuple[StoredState, StoredState]]
) -> None:
    """Write changed states (before, after), enqueue the jobs of new deadlines, and commit: one round trip."""
    rows = [(key, after) for key, (_, after) in changes.items()]
    due = [
        (key, after.deadline)
        for key, (before, after) in changes.items()
        if after.deadline is not None and after.deadline != before.deadline
    ]
    values = {
        "account": account_id,
        "workflows": [str(workflow) for (workflow, _), _ in rows],
        "subjects": [subject for (_, subject), _ in rows],
        "enablements": [after.enablement for _, after in rows],
        "progresses": [json.dumps(after.progress or {}) for _, after in rows],
        "deadlines": [after.deadline for _, after in rows],
        "seen": [after.last_event_at for _, after in rows],
        "started": [after.last_started_at for _, after in rows],
        "lapses": [after.lapses_at for _, after in rows],
        "payloads": [deadline_payload(account_id, key) for key, _ in due],
        "due": [deadline + _JUST_AFTER for _, deadline in due],
    }
    commit_with(connection, _WRITE, values)


_WRITE = f"""
INSERT INTO progress AS known (account_id, workflow_id, subject, enablement, progress, deadline, last_event_at,
                               last_started_at, lapses_at)
SELECT %(account)s, *
FROM unnest(%(workflows)s::uuid[], %(subjects)s::text[], %(enablements)s::int[], %(progresses)s::jsonb[],
            %(deadlines)s::timestamptz[], %(seen)s::timestamptz[], %(started)s::timestamptz[], %(lapses)s::timestamptz[])
ON CONFLICT (account_id, workflow_id, subject) DO UPDATE
    SET enablement = excluded.enablement, progress = excluded.progress, deadline = excluded.deadline,
        last_event_at = excluded.last_event_at, last_started_at = excluded.last_started_at, lapses_at = excluded.lapses_at;
{enqueue(DEADLINE, "payload", "unnest(%(payloads)s::text[], %(due)s::timestamptz[]) AS job (payload, due)", due_at="due")}"""


def deadline_payload(account_id: int, key: StateKey) -> str:
    """The payload of a deadline's job: `account:workflow:subject`, the subject in URL-safe base64."""
    workflow, subject = key
    return f"{account_id}:{workflow}:{base64.urlsafe_b64encode(subject.encode()).decode()}"


def subject_of_payload(text: str) -> str:
    """The subject in the payload of a deadline's job."""
    return base64.urlsafe_b64decode(text).decode()


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """The match state of a subject in one workflow, with the workflow's enabled version and document (`{}`: disabled)."""

    workflow: str
    enabled_version: int | None
    enablement: int
    document: Mapping[str, Any]
    state: StoredState


def find_progress_of_subject(connection: sa.Connection, account_id: int, subject: str) -> list[ProgressRow]:
    """A subject's match state in every workflow, ordered by the workflow's name."""
    rows = run_sql(
        connection,
        "SELECT workflow.name, enabled_version, workflow.enablement, coalesce(document, '{}'), progress.enablement, "
        "progress, deadline, "
        "last_event_at, last_started_at FROM progress "
        "JOIN workflows AS workflow ON workflow.account_id = progress.account_id AND workflow.id = workflow_id "
        "LEFT JOIN workflow_versions AS version ON version.account_id = workflow.account_id "
        "AND version.workflow_id = workflow.id AND version.version = workflow.enabled_version "
        "WHERE progress.account_id = :account AND subject = :subject ORDER BY workflow.name",
        {"account": account_id, "subject": subject},
    )
    return [ProgressRow(row[0], row[1], row[2], row[3], StoredState(*row[4:])) for row in rows]


def forget_stale_progress(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of rows without progress, or whose progress has lapsed, and without a start that `again` counts from;
    how many."""
    condition = "last_started_at IS NULL AND (progress = '{}' AND last_event_at < :before OR lapses_at < :before)"
    return delete_batch(connection, "progress", condition, {"before": now - timedelta(days=1)})
