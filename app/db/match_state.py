"""How far each subject has come in each workflow whose pattern is more than one event.

Comes in: places (workflow, subject). Goes out: what is kept of them, locked for the calling transaction. Two transactions
that move the same subject wait for each other.
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

from app.db.connection import begin_with, commit_with

Place = tuple[UUID, str]

# Each account has so many locks, however many subjects and workflows: a batch of thousands of subjects takes them all and
# is far from what Postgres has room for (some thousands). Now and then two subjects share one and wait for each other.
_LOCKS_OF_ACCOUNT = 256
# A deadline is past a moment after it: an event at the very moment of the deadline still disarms it.
_JUST_AFTER = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """One subject's progress in one workflow: the pattern's own JSON, since which enablement, and two moments."""

    enablement: int | None = None
    progress: Mapping[str, Any] | None = None
    deadline: datetime | None = None
    last_event_at: datetime | None = None
    last_started_at: datetime | None = None
    lapses_at: datetime | None = None


NOTHING = Kept()


def begin_and_lock(connection: RawConnection, account_id: int, places: Sequence[Place]) -> dict[Place, Kept]:
    """Begin a transaction on the (autocommitting) connection, lock the places, and read them: one round trip.

    Locks are advisory ones, taken in the order of their numbers, so that no two transactions can wait for each other in
    a circle; a place need not have a row yet. The rows are read after the locks are held.
    """
    numbers = sorted({lock_number(account_id, place) for place in places})
    locks = "".join(f"SELECT pg_advisory_xact_lock({number});" for number in numbers)
    rows = begin_with(
        connection,
        locks + "SELECT workflow_id, subject, enablement, progress, deadline, last_event_at, last_started_at "
        "FROM progress JOIN unnest(%s::uuid[], %s::text[]) AS place (workflow_id, subject) "
        "USING (workflow_id, subject) WHERE account_id = %s",
        ([str(workflow) for workflow, _ in places], [subject for _, subject in places], account_id),
    )
    return {(UUID(row[0]), row[1]): Kept(*row[2:]) for row in rows}


def lock_number(account_id: int, place: Place) -> int:
    """The number of the advisory lock on a place: all places of a subject have the same."""
    share = zlib.crc32(place[1].encode()) % _LOCKS_OF_ACCOUNT
    digest = hashlib.blake2b(f"{account_id}:{share}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def write_and_commit(connection: RawConnection, account_id: int, kept: Mapping[Place, tuple[Kept, Kept]]) -> None:
    """Keep what became of each place (before, after), enqueue jobs for new deadlines, and commit: one round trip."""
    rows = [(place, after) for place, (_, after) in kept.items()]
    due = [
        (place, after.deadline)
        for place, (before, after) in kept.items()
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
        "payloads": [deadline_payload(account_id, place) for place, _ in due],
        "due": [moment + _JUST_AFTER for _, moment in due],
    }
    commit_with(connection, _WRITE, values)


_WRITE = """
INSERT INTO progress AS known (account_id, workflow_id, subject, enablement, progress, deadline, last_event_at,
                               last_started_at, lapses_at)
SELECT %(account)s, *
FROM unnest(%(workflows)s::uuid[], %(subjects)s::text[], %(enablements)s::int[], %(progresses)s::jsonb[],
            %(deadlines)s::timestamptz[], %(seen)s::timestamptz[], %(started)s::timestamptz[], %(lapses)s::timestamptz[])
ON CONFLICT (account_id, workflow_id, subject) DO UPDATE
    SET enablement = excluded.enablement, progress = excluded.progress, deadline = excluded.deadline,
        last_event_at = excluded.last_event_at, last_started_at = excluded.last_started_at, lapses_at = excluded.lapses_at;
INSERT INTO pgqueuer (priority, entrypoint, status, payload, execute_after)
SELECT 0, 'deadline', 'queued', convert_to(payload, 'UTF8'), due
FROM unnest(%(payloads)s::text[], %(due)s::timestamptz[]) AS job (payload, due)"""


def deadline_payload(account_id: int, place: Place) -> str:
    """The payload of a deadline's job: `account:workflow:subject`, the subject in URL-safe base64."""
    workflow, subject = place
    return f"{account_id}:{workflow}:{base64.urlsafe_b64encode(subject.encode()).decode()}"


def subject_of_payload(text: str) -> str:
    """The subject in the payload of a deadline's job."""
    return base64.urlsafe_b64decode(text).decode()


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """What is kept of a subject in one workflow, with the workflow's enabled document (None: disabled)."""

    workflow: str
    enabled_version: int | None
    enablement: int
    document: Mapping[str, Any]
    kept: Kept


def find_progress_of_subject(connection: sa.Connection, account_id: int, subject: str) -> list[ProgressRow]:
    """A subject's progress in every workflow, by the workflow's name."""
    rows = connection.execute(
        sa.text(
            "SELECT workflow.name, enabled_version, workflow.enablement, coalesce(document, '{}'), progress.enablement, "
            "progress, deadline, "
            "last_event_at, last_started_at FROM progress "
            "JOIN workflows AS workflow ON workflow.account_id = progress.account_id AND workflow.id = workflow_id "
            "LEFT JOIN workflow_versions AS version ON version.account_id = workflow.account_id "
            "AND version.workflow_id = workflow.id AND version.version = workflow.enabled_version "
            "WHERE progress.account_id = :account AND subject = :subject ORDER BY workflow.name"
        ),
        {"account": account_id, "subject": subject},
    )
    return [ProgressRow(row[0], row[1], row[2], row[3], Kept(*row[4:])) for row in rows]


def forget_stale_progress(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of rows in which nothing stands, or nothing that can still count, and nothing has to be remembered
    for `again`; how many."""
    return connection.execute(
        sa.text(
            "DELETE FROM progress WHERE ctid = ANY (ARRAY(SELECT ctid FROM progress WHERE last_started_at IS NULL "
            "AND (progress = '{}' AND last_event_at < :before OR lapses_at < :before) LIMIT 10000))"
        ),
        {"before": now - timedelta(days=1)},
    ).rowcount
