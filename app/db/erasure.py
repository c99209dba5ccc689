"""Deletes the rows of a data subject or of a workflow, a bounded number at a time; receipts of erasures.

`erasure_texts.py` removes a subject from the texts of others. Queue jobs of deleted runs find no run and end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.ids import uuid7
from app.db.connection import run_sql
from app.db.event_queries import subject_at

# Rows of one statement.
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of each kind were deleted: without the blocks of runs. `more`: rows of other tables that were deleted, and in
    how many rows of others the subject was masked, by table."""

    events: int
    runs: int
    progress: int
    refusals: int = 0
    more: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The receipt of an erasure. `counts` are those of `Erased`."""

    id: UUID
    at: datetime
    actor: str
    subject_hash: bytes
    counts: Mapping[str, int]


_DELETE_RUNS = """
WITH deleted AS (
    DELETE FROM runs WHERE account_id = :account AND {which} RETURNING id, parent_id
), deleted_steps AS (
    DELETE FROM steps USING deleted WHERE account_id = :account AND run_id = deleted.id
), deleted_attempts AS (
    DELETE FROM attempts USING deleted WHERE account_id = :account AND run_id = deleted.id
){more}
SELECT count(*), count(*) FILTER (WHERE parent_id IS NULL) FROM deleted
"""
_BATCH_OF_SUBJECT = """id = ANY (ARRAY(
        SELECT id FROM runs WHERE account_id = :account AND distinct_id = :subject ORDER BY id LIMIT :limit))"""
# The URL of a disabled target may name the person whose run disabled it. A target that other runs call is disabled again.
_WHAT_RUNS_SAID = """, deleted_messages AS (
    DELETE FROM messages USING deleted WHERE account_id = :account AND run_id = deleted.id
), deleted_targets AS (
    DELETE FROM disabled_targets USING deleted WHERE account_id = :account AND run_id = deleted.id
)"""

# The subject's events may have advanced other keys than its distinct_id: the value under the key of any version of a workflow.
_SUBJECT = subject_at("(string_to_array(key, '.'))[2:]")
_OF_EVENTS = (
    "events.account_id = :account AND events.id = ANY (:events) AND events.received_at BETWEEN :first AND :last"
)
_DELETE_PROGRESS = f"""
WITH workflow_keys AS (
    SELECT DISTINCT workflow_id, document ->> 'key' AS key FROM workflow_versions
    WHERE account_id = :account AND document ->> 'key' <> 'distinct_id'
), states AS (
    SELECT workflow_id, CASE WHEN key = 'phone' THEN phone ELSE {_SUBJECT} END AS subject
    FROM workflow_keys, events WHERE {_OF_EVENTS}
    UNION
    SELECT workflow_id, subject FROM progress WHERE account_id = :account AND subject = :subject
), deleted AS (
    DELETE FROM progress USING states WHERE account_id = :account
    AND progress.workflow_id = states.workflow_id AND progress.subject = states.subject
    RETURNING 1
), encoded AS (
    SELECT translate(encode(convert_to(subject, 'UTF8'), 'base64'), E'+/\\n', '-_') AS text
    FROM (SELECT subject FROM states UNION SELECT :subject) AS found (subject) WHERE subject IS NOT NULL
), jobs AS (
    DELETE FROM jobs USING encoded WHERE kind = 'deadline' AND worker_id IS NULL
    AND split_part(payload, ':', 1) = CAST(:account AS text) AND split_part(payload, ':', 3) = encoded.text
)
SELECT count(*) FROM deleted
"""
_DELETE_KEYS = {
    "idempotency_keys": (
        f"DELETE FROM idempotency_keys AS known USING events WHERE {_OF_EVENTS} "
        "AND known.account_id = :account AND known.key = events.idempotency_key"
    ),
    "keyed_events": "DELETE FROM keyed_events WHERE account_id = :account AND event_id = ANY (:events)",
}


def find_phones(connection: sa.Connection, account_id: int, subject: str, limit: int) -> list[str]:
    """At most `limit` phone numbers of a subject's events."""
    found = run_sql(
        connection,
        "SELECT DISTINCT phone FROM events WHERE account_id = :account AND distinct_id = :subject AND phone IS NOT NULL "
        "LIMIT :limit",
        {"account": account_id, "subject": subject, "limit": limit},
    )
    return list(found.scalars())


def erase_runs(connection: sa.Connection, account_id: int, subject: str) -> tuple[int, int]:
    """Delete a batch of a subject's runs with their steps, attempts and messages, and the targets that they disabled; how many
    rows, and how many of them are no blocks. Repeat until it finds none: a block may start while its parent is deleted."""
    statement = _DELETE_RUNS.format(which=_BATCH_OF_SUBJECT, more=_WHAT_RUNS_SAID)
    rows, runs = run_sql(connection, statement, {"account": account_id, "subject": subject, "limit": _BATCH}).one()
    return rows, runs


def erase_events(connection: sa.Connection, account_id: int, subject: str) -> Counter[str]:
    """Delete a batch of a subject's events with what is found through them: idempotency keys, correlation keys, progress with
    its deadlines, also under the keys of workflows. How many rows of each table; repeat until there are no `events`."""
    found = run_sql(
        connection,
        "SELECT id, received_at FROM events WHERE account_id = :account AND distinct_id = :subject ORDER BY id LIMIT :limit",
        {"account": account_id, "subject": subject, "limit": _BATCH},
    ).all()
    times = [row.received_at for row in found]
    values: dict[str, Any] = {
        "account": account_id,
        "subject": subject,
        "events": [row.id for row in found],
        "first": min(times, default=None),
        "last": max(times, default=None),
    }
    deleted = Counter(progress=run_sql(connection, _DELETE_PROGRESS, values).scalar_one())
    for table, statement in _DELETE_KEYS.items():
        deleted[table] = run_sql(connection, statement, values).rowcount
    deleted["events"] = run_sql(connection, f"DELETE FROM events WHERE {_OF_EVENTS}", values).rowcount
    return deleted


def insert_receipt(
    connection: sa.Connection, account_id: int, subject_hash: bytes, counts: str, actor: str, now: datetime
) -> None:
    """Insert the receipt of an erasure; `counts` is a JSON object."""
    run_sql(
        connection,
        "INSERT INTO erasure_receipts (account_id, id, subject_hash, counts, at, actor) "
        "VALUES (:account, :id, :hash, CAST(:counts AS jsonb), :now, :actor)",
        {"account": account_id, "id": uuid7(now), "hash": subject_hash, "counts": counts, "now": now, "actor": actor},
    )


def list_receipts(
    connection: sa.Connection, account_id: int, subject_hash: bytes | None, before: UUID | None, limit: int
) -> Sequence[Receipt]:
    """At most `limit` receipts of an account, newest first: those of a subject (None: of all) with ids before one."""
    rows = run_sql(
        connection,
        "SELECT id, at, actor, subject_hash, counts FROM erasure_receipts WHERE account_id = :account "
        "AND (CAST(:hash AS bytea) IS NULL OR subject_hash = :hash) AND (CAST(:before AS uuid) IS NULL OR id < :before) "
        "ORDER BY id DESC LIMIT :limit",
        {"account": account_id, "hash": subject_hash, "before": before, "limit": limit},
    )
    return [Receipt(row.id, row.at, row.actor, bytes(row.subject_hash), row.counts) for row in rows]


# Each batch begins after the last one: those before it are deleted, but may not be vacuumed yet.
_LAST_OF_BATCH = """
SELECT max({key}) FROM (SELECT {key} FROM {table} WHERE account_id = :account AND workflow_id = :workflow AND {key} > :after
    ORDER BY {key} LIMIT :limit) AS batch
"""
_RUNS_OF_BATCH = "workflow_id = :workflow AND match_key > :after AND match_key <= :last"
_DELETE_PROGRESS_OF_WORKFLOW = """
DELETE FROM progress WHERE account_id = :account AND workflow_id = :workflow AND subject > :after AND subject <= :last
"""


def erase_runs_of_workflow(
    connection: sa.Connection, account_id: int, workflow_id: UUID, after: str
) -> tuple[int, str | None]:
    """Delete the next batch of a workflow's runs, those after a match key, with their steps and attempts: how many, without
    blocks, and the last match key (None: there was none)."""
    values = _batch_of_workflow(
        connection, _LAST_OF_BATCH.format(table="runs", key="match_key"), account_id, workflow_id, after
    )
    rows = run_sql(connection, _DELETE_RUNS.format(which=_RUNS_OF_BATCH, more=""), values).one()
    return rows[1], values["last"]


def erase_progress_of_workflow(
    connection: sa.Connection, account_id: int, workflow_id: UUID, after: str
) -> tuple[int, str | None]:
    """The same for a workflow's progress, after a subject."""
    values = _batch_of_workflow(
        connection, _LAST_OF_BATCH.format(table="progress", key="subject"), account_id, workflow_id, after
    )
    return run_sql(connection, _DELETE_PROGRESS_OF_WORKFLOW, values).rowcount, values["last"]


def _batch_of_workflow(
    connection: sa.Connection, find_last: str, account_id: int, workflow_id: UUID, after: str
) -> dict[str, Any]:
    values = {"account": account_id, "workflow": workflow_id, "after": after, "limit": _BATCH}
    return {**values, "last": run_sql(connection, find_last, values).scalar()}


def erase_workflow(connection: sa.Connection, account_id: int, workflow_id: UUID) -> Erased:
    """Delete a workflow with its versions, and what there is of its progress and runs. The messages of its runs stay: their
    readers may not have read them yet."""
    values = {"account": account_id, "workflow": workflow_id}
    statement = _DELETE_RUNS.format(which="workflow_id = :workflow", more="")
    erased = 0
    # A block may start while its parent is deleted.
    while rows := run_sql(connection, statement, values).one():
        if not rows[0]:
            break
        erased += rows[1]
    progress = run_sql(
        connection, "DELETE FROM progress WHERE account_id = :account AND workflow_id = :workflow", values
    ).rowcount
    run_sql(connection, "DELETE FROM workflows WHERE account_id = :account AND id = :workflow", values)
    return Erased(0, erased, progress)
