"""Runs: claiming, starting and reading them. `run_updates.py` writes what a worker did, `run_trees.py` ends them.

States of a run: running → done | failed | cancelled | exited; failed → running when it is retried.
While a run is running, exactly one queue job (number `job`) may advance it. Each update increments `turn`: a worker that
claimed an earlier turn writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import connection as RawConnection

from app.core.models import Event, NewRun, Run
from app.db import event_queries
from app.db.connection import Database, PgConnection, execute, fetch_all, prepare
from app.db.job_queue import ISOLATED_AFTER, enqueue_runs

# Everything that the next step needs. The condition on received_at selects the partition of the event.
_RUN = f"""
SELECT run.id, run.account_id, run.workflow_id, workflow.name, run.version, version.document, run.status, run.at,
    run.ordinal, run.attempt, run.forgiven, run.turn, run.job, run.step_started_at,
    event.id, event.account_id, event.event, run.distinct_id, event.phone,
    coalesce(event.data || event.augmented, event.data)::text, event.received_at, event.occurred_at,
    (SELECT coalesce(json_object_agg(name, output), '{{}}')::text FROM (
        SELECT DISTINCT ON (name) name, CASE WHEN status = 'done' THEN output
            ELSE coalesce(output, '{{}}') || jsonb_build_object('error', error) END AS output
        FROM steps WHERE account_id = run.account_id AND run_id = run.id AND name IS NOT NULL
            AND status IN ('done', 'failed')
        ORDER BY name, ordinal DESC) AS named),
    run.matched::text[], run.updated_at, run.rounds, run.root_id, run.parent_id, run.blocks_left, run.subject,
    CASE WHEN workflow.isolated_until > now() THEN 'killed'
        WHEN cardinality(workflow.dead_workers) >= {ISOLATED_AFTER} THEN 'suspected' END
FROM runs AS run
JOIN workflows AS workflow ON workflow.account_id = run.account_id AND workflow.id = run.workflow_id
JOIN workflow_versions AS version ON version.account_id = run.account_id AND version.workflow_id = run.workflow_id
    AND version.version = run.version
JOIN events AS event ON event.account_id = run.account_id AND event.id = run.event_id
    AND event.received_at = run.event_received_at
"""

# The same without the event and the outputs.
_BARE_RUN = """
SELECT run.id, run.account_id, run.workflow_id, workflow.name, run.version, version.document, run.status, run.at,
    run.ordinal, run.attempt, run.forgiven, run.turn, run.job, run.step_started_at,
    run.event_id, run.account_id, '', run.distinct_id, NULL, '{}', run.event_received_at, NULL,
    '{}', run.matched::text[], run.updated_at, run.rounds, run.root_id, run.parent_id, run.blocks_left, run.subject, NULL
FROM runs AS run
JOIN workflows AS workflow ON workflow.account_id = run.account_id AND workflow.id = run.workflow_id
JOIN workflow_versions AS version ON version.account_id = run.account_id AND version.workflow_id = run.workflow_id
    AND version.version = run.version
WHERE run.status = 'running' AND run.account_id = %s AND run.id = %s AND run.job = %s
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


def find_bare_run(database: Database, account_id: int, run_id: UUID, job: int) -> Run | None:
    """The run that this job may advance, with neither its event nor its outputs: enough to end it."""
    rows = database.fetch_all(_BARE_RUN, (account_id, str(run_id), job))
    return _run(rows[0]) if rows else None


def find_run_without_event(database: Database, account_id: int, run_id: UUID, job: int) -> Run | None:
    """The run that this job may advance, if its event is no longer stored: its partition was dropped."""
    missing = (
        "AND NOT EXISTS (SELECT FROM events WHERE events.account_id = run.account_id AND events.id = run.event_id "
        "AND events.received_at = run.event_received_at)"
    )
    rows = database.fetch_all(_BARE_RUN + missing, (account_id, str(run_id), job))
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
    event = event_queries.event_of(row[14:22])
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
        outputs=event_queries.read_exactly(row[22]),
        matched=(event,),
        step_started_at=step_started_at,
        updated_at=row[24],
        used=tuple(row[23]),
        rounds=row[25],
        root_id=UUID(row[26]) if row[26] else None,
        parent_id=UUID(row[27]) if row[27] else None,
        blocks_left=row[28],
        subject=row[29],
        isolation=row[30],
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
