"""Deletes all rows of a data subject or of a workflow. Queue jobs of deleted runs find no run and end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.db import audit
from app.db.connection import run_sql
from app.db.event_queries import subject_at
from app.db.job_queue import has_previous_jobs


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of each kind were deleted."""

    events: int
    runs: int
    progress: int
    refusals: int = 0


_DELETE_RUNS = """
WITH deleted AS (
    DELETE FROM runs WHERE account_id = :account AND {which} RETURNING id, parent_id
), deleted_steps AS (
    DELETE FROM steps USING deleted WHERE account_id = :account AND run_id = deleted.id
), deleted_attempts AS (
    DELETE FROM attempts USING deleted WHERE account_id = :account AND run_id = deleted.id
)
SELECT count(*), count(*) FILTER (WHERE parent_id IS NULL) FROM deleted
"""

# The subject's events may have advanced other keys than its distinct_id: the value under the key of any version of a workflow.
_SUBJECT = subject_at("(string_to_array(key, '.'))[2:]")
_DELETE_PROGRESS = """
WITH workflow_keys AS (
    SELECT DISTINCT workflow_id, document ->> 'key' AS key FROM workflow_versions
    WHERE account_id = :account AND document ->> 'key' <> 'distinct_id'
), states AS (
    SELECT workflow_id, CASE WHEN key = 'phone' THEN phone ELSE {subject} END AS subject
    FROM workflow_keys, events WHERE events.account_id = :account AND distinct_id = :subject
    UNION
    SELECT workflow_id, subject FROM progress WHERE account_id = :account AND subject = :subject
), deleted AS (
    DELETE FROM progress USING states WHERE account_id = :account
    AND progress.workflow_id = states.workflow_id AND progress.subject = states.subject
    RETURNING 1
), encoded AS (
    SELECT translate(encode(convert_to(subject, 'UTF8'), 'base64'), E'+/\n', '-_') AS text
    FROM (SELECT subject FROM states UNION SELECT :subject) AS found (subject) WHERE subject IS NOT NULL
), jobs AS (
    DELETE FROM jobs USING encoded WHERE kind = 'deadline' AND worker_id IS NULL
    AND split_part(payload, ':', 1) = CAST(:account AS text) AND split_part(payload, ':', 3) = encoded.text
){previous}
SELECT count(*) FROM deleted
"""
_DELETE_PREVIOUS_JOBS = """, previous_jobs AS (
    DELETE FROM pgqueuer USING encoded WHERE entrypoint = 'deadline' AND status <> 'picked'
    AND split_part(convert_from(payload, 'UTF8'), ':', 1) = CAST(:account AS text)
    AND split_part(convert_from(payload, 'UTF8'), ':', 3) = encoded.text
)"""

# The URL of a disabled target may name the person whose run disabled it. A target that other runs call is disabled again.
_DELETE_TARGETS = """
DELETE FROM disabled_targets AS target USING runs
WHERE target.account_id = :account AND runs.account_id = :account AND runs.id = target.run_id AND distinct_id = :subject
"""


def find_phones(connection: sa.Connection, account_id: int, subject: str) -> list[str]:
    """The phone numbers of a subject's events."""
    query = (
        "SELECT DISTINCT phone FROM events WHERE account_id = :account AND distinct_id = :subject AND phone IS NOT NULL"
    )
    return list(run_sql(connection, query, {"account": account_id, "subject": subject}).scalars())


def erase_subject(connection: sa.Connection, account_id: int, subject: str) -> Erased:
    """Delete a subject's events, idempotency keys, messages, progress with its deadlines, and runs with the targets that they
    disabled."""
    values = {"account": account_id, "subject": subject}
    audit.erase_subject(connection, account_id, subject)
    run_sql(connection, _DELETE_TARGETS, values)
    previous = _DELETE_PREVIOUS_JOBS if has_previous_jobs(connection) else ""
    progress = run_sql(connection, _DELETE_PROGRESS.format(previous=previous, subject=_SUBJECT), values).scalar_one()
    runs = _erase_runs(connection, "distinct_id = :subject", values)
    # Also those of workflows that were deleted.
    run_sql(connection, "DELETE FROM messages WHERE account_id = :account AND distinct_id = :subject", values)
    run_sql(
        connection,
        "DELETE FROM idempotency_keys AS known USING events WHERE events.account_id = :account "
        "AND distinct_id = :subject AND known.account_id = :account AND known.key = events.idempotency_key",
        values,
    )
    run_sql(
        connection,
        "DELETE FROM keyed_events AS known USING events WHERE events.account_id = :account "
        "AND distinct_id = :subject AND known.account_id = :account AND known.event_id = events.id "
        "AND known.received_at = events.received_at",
        values,
    )
    events = run_sql(
        connection, "DELETE FROM events WHERE account_id = :account AND distinct_id = :subject", values
    ).rowcount
    return Erased(events, runs, progress)


def erase_workflow(connection: sa.Connection, account_id: int, workflow_id: UUID) -> Erased:
    """Delete a workflow with its versions, progress and runs. The messages of its runs stay: their readers may not have
    read them yet."""
    values = {"account": account_id, "workflow": workflow_id}
    runs = _erase_runs(connection, "workflow_id = :workflow", values)
    progress = run_sql(
        connection, "DELETE FROM progress WHERE account_id = :account AND workflow_id = :workflow", values
    ).rowcount
    run_sql(connection, "DELETE FROM workflows WHERE account_id = :account AND id = :workflow", values)
    return Erased(0, runs, progress)


def _erase_runs(connection: sa.Connection, which: str, values: Mapping[str, Any]) -> int:
    """Delete runs with their blocks; how many, without blocks. Repeats until it finds none, since a block may start while
    its parent is deleted."""
    erased = 0
    while True:
        rows, runs = run_sql(connection, _DELETE_RUNS.format(which=which), values).one()
        if not rows:
            return erased
        erased += runs
