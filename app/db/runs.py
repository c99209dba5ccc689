"""Runs and run trees: claiming, starting, reading and ending them. `run_updates.py` writes what a worker did.

States of a run: running → done | failed | cancelled | exited; failed → running when it is retried.
While a run is running, exactly one queue job (number `job`) may advance it. Each update increments `turn`: a worker that
claimed an earlier turn writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.core.models import Event, NewRun, Run
from app.db import event_queries
from app.db.connection import Database, PgConnection, execute, fetch_all, prepare
from app.db.job_queue import enqueue_runs

# Everything that the next step needs. The condition on received_at selects the partition of the event.
_RUN = """
SELECT run.id, run.account_id, run.workflow_id, workflow.name, run.version, version.document, run.status, run.at,
    run.ordinal, run.attempt, run.forgiven, run.turn, run.job, run.step_started_at,
    event.id, event.account_id, event.event, event.distinct_id, event.phone,
    coalesce(event.data || event.augmented, event.data)::text, event.received_at,
    (SELECT coalesce(json_object_agg(name, output), '{}')::text FROM (
        SELECT DISTINCT ON (name) name, CASE WHEN status = 'done' THEN output
            ELSE coalesce(output, '{}') || jsonb_build_object('error', error) END AS output
        FROM steps WHERE account_id = run.account_id AND run_id = run.id AND name IS NOT NULL
            AND status IN ('done', 'failed')
        ORDER BY name, ordinal DESC) AS named),
    run.matched::text[], run.updated_at, run.rounds, run.root_id, run.parent_id, run.blocks_left,
    run.subject
FROM runs AS run
JOIN workflows AS workflow ON workflow.account_id = run.account_id AND workflow.id = run.workflow_id
JOIN workflow_versions AS version ON version.account_id = run.account_id AND version.workflow_id = run.workflow_id
    AND version.version = run.version
JOIN events AS event ON event.account_id = run.account_id AND event.id = run.event_id
    AND event.received_at = run.event_received_at
"""

_CLAIM = f"""(bigint, uuid, int) AS
{_RUN} WHERE run.status = 'running' AND run.account_id = $1 AND run.id = $2 AND run.job = $3
"""

# Templates can read the last events of a match, at most this many.
_MAX_MATCHED = 100


def claim_run(database: Database, account_id: int, run_id: UUID, job: int) -> Run | None:
    """The run with everything that its next step needs; None when it has ended or another job may advance it."""

    def claim(connection: PgConnection) -> list[tuple[Any, ...]]:
        # Prepared, since planning it over all partitions takes longer than executing it.
        prepare(connection, "claim_run", _CLAIM)
        return fetch_all(connection, "EXECUTE claim_run (%s, %s, %s)", (account_id, str(run_id), job))

    rows = database.run_with_reconnect(claim)
    return _run(rows[0]) if rows else None


def find_matched(database: Database, run: Run) -> tuple[Event, ...]:
    """The events of the run's match in order; the last `_MAX_MATCHED` of them."""
    if len(run.used) < 2:
        return run.matched
    ids = run.used[-_MAX_MATCHED:]
    return database.run_with_reconnect(lambda connection: event_queries.find_events(connection, run.account_id, ids))


def find_running_run(database: Database, account_id: int, run_id: UUID) -> Run | None:
    """The current state of a run; None when it has ended."""
    query = _RUN + "WHERE run.status = 'running' AND run.account_id = %s AND run.id = %s"
    rows = database.fetch_all(query, (account_id, str(run_id)))
    return _run(rows[0]) if rows else None


def find_running_runs_of_subject(database: Database, event: Event, subjects: Sequence[str], after: UUID) -> list[Run]:
    """The running runs that an event may concern: started before it, for its distinct_id or for one of the `subjects` under
    other keys. A page of 100 by id, those after the id `after`."""
    of_subject = "(run.distinct_id = %s OR run.subject = ANY (%s))" if subjects else "run.distinct_id = %s"
    query = (
        _RUN + f"WHERE run.status = 'running' AND run.account_id = %s AND {of_subject} AND run.event_id < %s "
        "AND run.id > %s ORDER BY run.id LIMIT 100"
    )
    subject_values = (event.distinct_id, list(subjects)) if subjects else (event.distinct_id,)
    values = (event.account_id, *subject_values, str(event.id), str(after))
    rows = database.fetch_all(query, values)
    return [_run(row) for row in rows]


def find_event(database: Database, account_id: int, event_id: UUID) -> Event | None:
    """An event by its id."""
    return database.run_with_reconnect(lambda connection: event_queries.find_event(connection, account_id, event_id))


def find_events_of_subject_since(database: Database, since: Event, names: Sequence[str]) -> list[Event]:
    """The events of the subject of `since` after it, oldest first; only these names (`*`: any)."""
    return database.run_with_reconnect(
        lambda connection: event_queries.find_events_of_subject_since(connection, since, names)
    )


def find_awaited_events(database: Database, run: Run) -> frozenset[UUID]:
    """The ids of the events that any `wait_for` of the run has taken, not counting its blocks and its parent."""
    query = (
        "SELECT output ->> 'id' FROM steps WHERE account_id = %s AND run_id = %s AND action = 'wait_for' "
        "AND status = 'done' AND output ->> 'id' IS NOT NULL"
    )
    values = (run.account_id, str(run.id))
    rows = database.fetch_all(query, values)
    return frozenset(UUID(row[0]) for row in rows)


def _run(row: Sequence[Any]) -> Run:
    run_id, account_id, workflow_id, workflow, version, document, status, at, ordinal, attempt, forgiven = row[:11]
    turn, job, step_started_at = row[11:14]
    event = event_queries.event_of(row[14:21])
    return Run(
        id=UUID(run_id),
        account_id=account_id,
        workflow_id=UUID(workflow_id),
        workflow=workflow,
        version=version,
        document=document,
        status=status,
        at=at,
        ordinal=ordinal,
        attempt=attempt,
        forgiven=forgiven,
        turn=turn,
        job=job,
        event=event,
        outputs=event_queries.read_exactly(row[21]),
        matched=(event,),
        step_started_at=step_started_at,
        updated_at=row[23],
        used=tuple(row[22]),
        rounds=row[24],
        root_id=UUID(row[25]) if row[25] else None,
        parent_id=UUID(row[26]) if row[26] else None,
        blocks_left=row[27],
        subject=row[28],
    )


# Starts a run for a past event, unless the match already has a run; the subject is the event's.
START_RUN = f"""
WITH run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at)
    SELECT account_id, %(id)s, %(workflow_id)s, %(version)s, %(match_key)s, id, received_at, %(matched)s::uuid[],
           distinct_id, 'running', 'steps[0]', %(now)s, %(now)s, %(now)s
    FROM events WHERE account_id = %(account_id)s AND id = %(event_id)s AND received_at = %(event_at)s
    ON CONFLICT (account_id, workflow_id, match_key) DO NOTHING
    RETURNING account_id, id
), job AS (
    {enqueue_runs("run")}
)
SELECT count(*) FROM run
"""


def start_run_values(account_id: int, new: NewRun, now: datetime) -> dict[str, Any]:
    """The values of START_RUN."""
    return {
        "account_id": account_id,
        "id": str(new.id),
        "workflow_id": str(new.workflow_id),
        "version": new.version,
        "match_key": new.match_key,
        "matched": [str(event_id) for event_id in new.matched],
        "event_id": str(new.event_id),
        "event_at": new.event_received_at,
        "now": now,
    }


def start_run(connection: RawConnection, account_id: int, new: NewRun, now: datetime) -> None:
    """Start a run for a deadline, inside a transaction, unless its match already has a run."""
    execute(connection, START_RUN, start_run_values(account_id, new, now))


# A run with all its blocks is a run tree; the run without a parent is its root.


@dataclass(frozen=True, slots=True)
class RunResults:
    """What the steps of a run tree have recorded: `outputs` by step id, `variables` by name, and the result of the `last`
    action before the run's current step (its parent's, if it has none of its own)."""

    outputs: Mapping[str, Any]
    variables: Mapping[str, Any]
    last: Mapping[str, Any] | None = field(default=None)


# Of steps that were entered several times, the last time counts. `past` are the runs whose steps came before the run's
# current step: the run itself, its blocks, and of each ancestor the steps before the `par` that it is in. The other blocks
# of that `par` run concurrently and are not part of it.
_RESULTS = """
WITH RECURSIVE recorded AS (
    SELECT run_id, ordinal, path, name, action, status, finished_at, output, error FROM steps
    WHERE account_id = %(account)s AND status IN ('done', 'failed') AND (name IS NOT NULL OR action = 'set')
        AND run_id IN (SELECT id FROM runs WHERE account_id = %(account)s AND id = %(root)s
                       UNION ALL SELECT id FROM runs WHERE account_id = %(account)s AND root_id = %(root)s)
), ancestors (id, parent, before) AS (
    SELECT id, parent_id, NULL::int FROM runs WHERE account_id = %(account)s AND id = %(run)s
    UNION ALL
    SELECT above.id, above.parent_id, (SELECT parent_ordinal FROM runs WHERE account_id = %(account)s AND id = ancestors.id)
    FROM ancestors JOIN runs AS above ON above.account_id = %(account)s AND above.id = ancestors.parent
), past (id, before) AS (
    SELECT id, before FROM ancestors
    UNION ALL
    SELECT block.id, NULL FROM past JOIN runs AS block ON block.account_id = %(account)s AND block.parent_id = past.id
        AND (past.before IS NULL OR block.parent_ordinal < past.before)
        AND block.id NOT IN (SELECT id FROM ancestors)
)
SELECT
    (SELECT json_object_agg(name, CASE WHEN status = 'done' THEN output
         ELSE coalesce(output, '{}') || jsonb_build_object('error', error) END)::text
     FROM (SELECT DISTINCT ON (name) * FROM recorded WHERE name IS NOT NULL
           ORDER BY name, finished_at DESC, run_id DESC, ordinal DESC) AS named),
    (SELECT jsonb_object_agg(variable.key, variable.value ORDER BY finished_at, run_id, ordinal)::text
     FROM (SELECT DISTINCT ON (path) * FROM recorded WHERE action = 'set'
           ORDER BY path, finished_at DESC, run_id DESC, ordinal DESC) AS given, jsonb_each(output) AS variable),
    (SELECT jsonb_build_object('status', status, 'output', output, 'error', error)::text
     FROM past JOIN steps ON account_id = %(account)s AND run_id = past.id AND (before IS NULL OR ordinal < before)
     WHERE status IN ('done', 'failed') AND action <> ALL (%(control_steps)s)
     ORDER BY finished_at DESC, run_id DESC, ordinal DESC LIMIT 1)
"""


def find_results(database: Database, run: Run, control_steps: Sequence[str]) -> RunResults:
    """The recorded results of the run and its blocks. `control_steps` are the steps that are not actions. `last` has the
    members status, output and error."""
    values = {
        "account": run.account_id,
        "run": str(run.id),
        "root": str(run.root_id or run.id),
        "control_steps": list(control_steps),
    }
    ((outputs, variables, last),) = database.fetch_all(_RESULTS, values)
    return RunResults(
        event_queries.read_exactly(outputs or "{}"),
        event_queries.read_exactly(variables or "{}"),
        event_queries.read_exactly(last) if last else None,
    )


# A run and its blocks, by the id of the root.
_TREE = """WITH tree AS (
    SELECT id FROM runs WHERE account_id = %(account)s AND id = %(root)s
    UNION ALL SELECT id FROM runs WHERE account_id = %(account)s AND root_id = %(root)s
)"""

_AWAITED_EVENTS = f"""
{_TREE}
SELECT output ->> 'id' FROM tree JOIN steps ON account_id = %(account)s AND run_id = tree.id
WHERE action = 'wait_for' AND status = 'done' AND output ->> 'id' IS NOT NULL
"""


def find_awaited_events_of_tree(database: Database, run: Run) -> frozenset[UUID]:
    """The ids of the events that any `wait_for` of the run tree has taken."""
    values = {"account": run.account_id, "root": str(run.root_id or run.id)}
    return frozenset(UUID(row[0]) for row in database.fetch_all(_AWAITED_EVENTS, values))


@dataclass(frozen=True, slots=True)
class FailedBlock:
    """A block that was not done: its number in its `par`, and its error or status."""

    number: int
    error: str


def find_failed_blocks(database: Database, run: Run) -> list[FailedBlock]:
    """The blocks of the run's current `par` that were not done, in order."""
    rows = database.fetch_all(
        "SELECT substring(match_key FROM '[0-9]+$')::int, coalesce(error, status) FROM runs WHERE account_id = %s "
        "AND parent_id = %s AND parent_ordinal = %s AND status <> 'done' ORDER BY id",
        (run.account_id, str(run.id), run.ordinal),
    )
    return [FailedBlock(*row) for row in rows]


# Runs of a tree are locked the latest first, in the order of a block that ends: the block, then its parent.
_LOCK = f"""
{_TREE}
SELECT id FROM runs WHERE account_id = %(account)s AND id IN (SELECT id FROM tree) AND status = 'running'
ORDER BY id DESC FOR UPDATE
"""

_END = f"""
{_TREE}, run AS (
    UPDATE runs SET status = %(status)s, turn = turn + 1, wake_at = NULL, blocks_left = NULL, error = %(reason)s,
        updated_at = greatest(updated_at, %(now)s), finished_at = %(now)s
    WHERE account_id = %(account)s AND id IN (SELECT id FROM tree) AND status = 'running'
    RETURNING account_id, id, ordinal
), step AS (
    UPDATE steps SET status = 'skipped', finished_at = %(now)s, error = %(reason)s
    FROM run WHERE steps.account_id = run.account_id AND run_id = run.id AND steps.ordinal = run.ordinal
        AND steps.status = 'waiting'
)
SELECT count(*) FROM run
"""


def end_run_tree(
    connection: sa.Connection,
    account_id: int,
    root_id: UUID,
    status: str,
    reason: str,
    now: datetime,
    *,
    unless_taken: UUID | None = None,
) -> int:
    """End the running runs of a tree; how many. None is ended if a `wait_for` of the tree has taken the event
    `unless_taken`."""
    values = {"account": account_id, "root": str(root_id), "status": status, "reason": reason, "now": now}
    connection.exec_driver_sql(_LOCK, values)
    # A separate statement, which sees what the previous holders of the locks have written.
    if unless_taken is not None:
        taken = connection.exec_driver_sql(_AWAITED_EVENTS, values).scalars()
        if str(unless_taken) in taken:
            return 0
    ended = 0
    # The next statement sees blocks that were started while the first one waited for their parent.
    while count := connection.exec_driver_sql(_END, values).scalar_one():
        ended += count
    return ended
