"""Writes what a worker did to a run, by one statement: the run, its step, the attempt, and the next jobs. At the end: what
people do to runs, retry failed ones and start missed ones; `run_trees.py` ends them.

The blocks of a `par` are runs with a parent. The statement that updates the parent starts them, and the parent has no job
while it waits for `blocks_left` blocks. The statement that ends a block decrements `blocks_left` and enqueues the parent's
job when none is left. Two blocks that end at the same time lock the parent's row one after the other, so exactly one of them
is the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import msgspec
import psycopg2
import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.core.exact_json import make_storable
from app.core.ids import uuid7
from app.core.models import NewRun, Outcome, Run
from app.db.connection import Database, PgConnection, fetch_all, run_sql
from app.db.job_queue import enqueue_runs
from app.db.match_state import StateKey, lock_number
from app.db.runs import START_RUN, start_run_values

# Compare-and-set on `turn`: the step, the attempt and the next job are written only with the run.
_UPDATE_RUN = f"""
WITH updated AS (
    UPDATE runs SET status = %(status)s, at = %(at)s, ordinal = %(ordinal)s, attempt = %(attempt)s,
        forgiven = CASE WHEN ordinal = %(ordinal)s THEN forgiven ELSE 0 END,
        turn = turn + 1, job = %(job)s, wake_at = %(wake_at)s, step_started_at = %(step_started_at)s,
        blocks_left = %(blocks_left)s, rounds = %(rounds)s, error = %(error)s, error_target = %(error_target)s,
        error_class = %(failure_class)s, held_by = %(held_by)s, updated_at = %(now)s,
        finished_at = CASE WHEN %(status)s = 'running' THEN NULL ELSE %(now)s::timestamptz END
    WHERE account_id = %(account_id)s AND id = %(run_id)s AND turn = %(turn)s AND status = 'running'
    RETURNING account_id, id, root_id, parent_id, workflow_id, version, match_key, event_id, event_received_at, matched,
        distinct_id, subject
), step AS (
    INSERT INTO steps (account_id, run_id, ordinal, path, name, action, status, started_at, finished_at, output, error)
    SELECT %(account_id)s, %(run_id)s, %(step_ordinal)s, %(step_path)s, %(step_name)s, %(step_action)s,
        %(step_status)s, %(step_began)s, %(step_ended)s, %(step_output)s::jsonb, %(step_error)s
    FROM updated
    ON CONFLICT (account_id, run_id, ordinal) DO UPDATE
        SET status = excluded.status, finished_at = excluded.finished_at, output = excluded.output,
            error = excluded.error
), attempt AS (
    INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, error_class, error, request, response,
                          started_at, finished_at)
    SELECT %(account_id)s, %(run_id)s, %(step_ordinal)s, %(attempt_number)s, %(outcome)s, %(error_class)s, %(outcome_error)s,
        %(request)s::jsonb, %(response)s::jsonb, %(tried_at)s, %(now)s
    FROM updated WHERE %(attempt_number)s IS NOT NULL
), job AS (
    {enqueue_runs("updated WHERE %(is_enqueued)s", number="%(job)s", due_at="%(wake_at)s")}
)"""

_COUNT = "\nSELECT count(*) FROM updated"

# Fork: the blocks of a `par` start, each with its own job.
_FORK = f""", block AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at, root_id, parent_id, parent_ordinal,
                      subject)
    SELECT account_id, new.id, workflow_id, version, match_key || '/' || new.suffix, event_id, event_received_at, matched,
        distinct_id, 'running', new.at, %(now)s, %(now)s, %(now)s, coalesce(root_id, updated.id), updated.id, %(step_ordinal)s,
        subject
    FROM updated, unnest(%(block_ids)s::uuid[], %(block_suffixes)s, %(block_starts)s) AS new (id, suffix, at)
    RETURNING account_id, id
), block_job AS (
    {enqueue_runs("block")}
)
"""

# Join: a block has ended; its parent waits for one block less, and gets a job when none is left. The parent's row is joined
# and not tested with EXISTS, so that Postgres reads it again after another block has released its lock.
_JOIN = f""", joined AS (
    UPDATE runs AS parent SET blocks_left = parent.blocks_left - 1,
        wake_at = CASE WHEN parent.blocks_left = 1 THEN %(now)s::timestamptz END,
        updated_at = greatest(parent.updated_at, %(now)s)
    FROM updated WHERE parent.account_id = updated.account_id AND parent.id = updated.parent_id AND parent.status = 'running'
    RETURNING parent.account_id, parent.id, parent.job, parent.blocks_left
), parent_job AS (
    {enqueue_runs("joined WHERE blocks_left = 0", number="job")}
)
"""

_INSERT_ATTEMPT = """
INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, error_class, error, request, response,
                      started_at, finished_at)
SELECT account_id, id, %(step_ordinal)s, %(attempt_number)s, %(outcome)s, %(error_class)s, %(outcome_error)s,
       %(request)s::jsonb, %(response)s::jsonb, %(tried_at)s, %(now)s
FROM runs WHERE account_id = %(account_id)s AND id = %(run_id)s
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class StepRow:
    """The row of the step that was executed."""

    path: str
    name: str | None
    action: str
    status: str
    started_at: datetime
    output: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A block that starts: its number in the `par`, and the path of its first step."""

    number: int
    at: str


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """The new state of a run, the row of its step, and the outcome of an attempt if one was made.

    `held_by` is the target or host whose open circuit defers the run. Failures are grouped by `error_target`, the target of the
    call that failed (None: none did), and `error_class`.

    `wake_at` with a `job` greater than the run's own enqueues that job, due then. Without `wake_at` the job is enqueued when
    all `blocks`, which start now, have ended.
    """

    status: str
    at: str | None
    ordinal: int
    attempt: int
    job: int
    wake_at: datetime | None
    step_started_at: datetime | None
    error: str | None
    step: StepRow
    outcome: Outcome | None = None
    tried_at: datetime | None = None
    rounds: int = 0
    blocks: Sequence[NewBlock] = ()
    held_by: str | None = None
    error_target: str | None = None
    error_class: str | None = None


def update_time(run: Run, now: datetime) -> datetime:
    """`now`, or just after the run's last update when this machine's clock is behind."""
    return now if run.updated_at is None else max(now, run.updated_at + timedelta(microseconds=1))


def update_run(database: Database, run: Run, update: RunUpdate, now: datetime) -> bool:
    """Write and commit an update; False when another worker was faster, and then nothing is written.

    `now` comes from `update_time`, so that the steps of a run and its blocks can be ordered whatever the workers' clocks say.

    The statement is repeated after a lost connection. If the first one was committed, the run is one turn further and in
    exactly the state of this update.
    """
    values = _values(run, update, now)
    statement = _statement(run, update)
    attempts = count(1)

    def write(connection: PgConnection) -> bool:
        is_repeated = next(attempts) > 1
        return _execute(connection, statement, values) or (is_repeated and _is_updated(connection, run, update))

    return database.run_with_reconnect(write)


def _is_updated(connection: RawConnection, run: Run, update: RunUpdate) -> bool:
    """Whether the run is one turn further and in the state of the update."""
    query = "SELECT turn, status, at, ordinal, job FROM runs WHERE account_id = %s AND id = %s"
    rows = fetch_all(connection, query, (run.account_id, str(run.id)))
    return rows == [(run.turn + 1, update.status, update.at, update.ordinal, update.job)]


def record_attempt(database: Database, run: Run, update: RunUpdate, now: datetime) -> None:
    """Insert the attempt of an update that was not written because the run was ended meanwhile."""
    values = _values(run, update, now)
    if values["attempt_number"] is not None:
        database.execute(_INSERT_ATTEMPT, values)


def _statement(run: Run, update: RunUpdate) -> str:
    """The fork and the join are left out for the many runs without blocks."""
    fork = _FORK if update.blocks else ""
    join = _JOIN if run.parent_id is not None and update.status != "running" else ""
    return _UPDATE_RUN + fork + join + _COUNT


def _execute(connection: RawConnection, statement: str, values: Mapping[str, Any]) -> bool:
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement, values)
        except psycopg2.DataError:
            # A response may contain what jsonb cannot store (1e999999): it is left out.
            cursor.execute(statement, {**values, "response": None, "step_output": None})
        row = cursor.fetchone()
    return bool(row and row[0])


def _values(run: Run, update: RunUpdate, now: datetime) -> dict[str, Any]:
    is_enqueued = update.job > run.job and update.wake_at is not None
    return {
        "account_id": run.account_id,
        "run_id": str(run.id),
        "turn": run.turn,
        "status": update.status,
        "at": update.at,
        "ordinal": update.ordinal,
        "attempt": update.attempt,
        "job": update.job,
        "is_enqueued": is_enqueued,
        "wake_at": update.wake_at,
        "step_started_at": update.step_started_at,
        "error": make_storable(update.error),
        "error_target": make_storable(update.error_target),
        "failure_class": make_storable(update.error_class),
        "now": now,
        "rounds": update.rounds,
        "held_by": make_storable(update.held_by),
        **_step_values(run, update.step, now),
        **_attempt_values(run, update),
        **_block_values(run, update.blocks, now),
    }


def _step_values(run: Run, step: StepRow, now: datetime) -> dict[str, Any]:
    return {
        "step_ordinal": run.ordinal,
        "step_path": step.path,
        "step_name": step.name,
        "step_action": step.action,
        "step_status": step.status,
        "step_began": step.started_at,
        "step_ended": None if step.status == "waiting" else now,
        "step_output": _json(step.output),
        "step_error": make_storable(step.error),
    }


def _attempt_values(run: Run, update: RunUpdate) -> dict[str, Any]:
    outcome = update.outcome
    return {
        "attempt_number": run.attempt + 1 if outcome else None,
        "outcome": outcome.kind if outcome else None,
        "error_class": outcome.error_class if outcome else None,
        "outcome_error": make_storable(outcome.error) if outcome else None,
        "request": _json(outcome.request) if outcome else None,
        "response": _json(outcome.response) if outcome else None,
        "tried_at": update.tried_at,
    }


def _block_values(run: Run, blocks: Sequence[NewBlock], now: datetime) -> dict[str, Any]:
    return {
        "blocks_left": len(blocks) or None,
        # Greater than the parent's id, in the order of their numbers.
        "block_ids": [str(uuid7(now + timedelta(microseconds=block.number))) for block in blocks],
        "block_suffixes": [f"{run.ordinal}.{block.number}" for block in blocks],
        "block_starts": [block.at for block in blocks],
    }


def _json(value: Mapping[str, Any] | None) -> str | None:
    """JSON text with exact numbers, without characters that jsonb cannot store."""
    return None if value is None else _EXACT_JSON.encode(make_storable(value)).decode()


_EXACT_JSON = msgspec.json.Encoder(decimal_format="number")


# The run continues at the step that failed, with the same idempotency key. Earlier attempts and the time that the step has
# taken no longer count. The new job number fences off the failed job, which may still be queued. Failed blocks continue, and
# their parents wait for them again.
_RETRY = f"""
WITH root AS (
    SELECT id FROM runs
    WHERE account_id = :account AND id = ANY (CAST(:runs AS uuid[])) AND status = 'failed' AND parent_id IS NULL
), failed AS (
    SELECT found.id, (SELECT count(*) FROM runs AS block WHERE block.account_id = :account AND block.parent_id = found.id
        AND block.parent_ordinal = found.ordinal AND block.status = 'failed')::int AS blocks
    FROM (SELECT runs.* FROM root JOIN runs ON account_id = :account AND runs.id = root.id
          UNION ALL SELECT runs.* FROM root JOIN runs ON account_id = :account AND root_id = root.id) AS found
    WHERE status = 'failed'
), run AS (
    UPDATE runs SET status = 'running', forgiven = attempt, turn = turn + 1, job = job + 1,
        wake_at = CASE WHEN blocks = 0 THEN CAST(:now AS timestamptz) END, blocks_left = nullif(blocks, 0),
        error = NULL, error_target = NULL, error_class = NULL, step_started_at = :now,
        updated_at = greatest(updated_at, :now), finished_at = NULL
    FROM failed WHERE account_id = :account AND runs.id = failed.id AND status = 'failed'
    RETURNING account_id, runs.id, ordinal, job, parent_id, blocks
), step AS (
    UPDATE steps SET status = 'waiting', finished_at = NULL
    FROM run WHERE steps.account_id = run.account_id AND run_id = run.id AND steps.ordinal = run.ordinal
), job AS (
    {enqueue_runs("run WHERE blocks = 0", number="job")}
)
SELECT id FROM run WHERE parent_id IS NULL
"""


def retry_runs(connection: sa.Connection, account_id: int, run_ids: Iterable[UUID], now: datetime) -> set[UUID]:
    """Retry failed runs where they or their blocks failed, at once. Returns the runs that were failed; others are unchanged."""
    found = run_sql(connection, _RETRY, {"account": account_id, "runs": [str(run) for run in run_ids], "now": now})
    return {row.id for row in found}


def start_past_run(connection: sa.Connection, account_id: int, new: NewRun, now: datetime) -> bool:
    """Start a run for a past event; False when the match already has a run."""
    return bool(connection.exec_driver_sql(START_RUN, start_run_values(account_id, new, now)).scalar())


def find_run_of_match(connection: sa.Connection, account_id: int, workflow_id: UUID, match_key: str) -> UUID | None:
    """The run of a match."""
    found: UUID | None = run_sql(
        connection,
        "SELECT id FROM runs WHERE account_id = :account AND workflow_id = :workflow AND match_key = :match_key",
        {"account": account_id, "workflow": workflow_id, "match_key": match_key},
    ).scalar()
    return found


def lock_match_state(connection: sa.Connection, account_id: int, key: StateKey) -> datetime | None:
    """Lock the match state of a subject of a workflow until the transaction ends. Returns when the subject last started the
    workflow; None if no start is recorded."""
    number = lock_number(account_id, key)
    run_sql(connection, "SELECT pg_advisory_xact_lock(:number)", {"number": number})
    last: datetime | None = run_sql(
        connection,
        "SELECT last_started_at FROM progress "
        "WHERE account_id = :account AND workflow_id = :workflow AND subject = :subject",
        {"account": account_id, "workflow": key[0], "subject": key[1]},
    ).scalar()
    return last


def record_start(connection: sa.Connection, account_id: int, key: StateKey, enablement: int, now: datetime) -> None:
    """Record that a subject has started a workflow, for `again`; its match state is unchanged."""
    run_sql(
        connection,
        "INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, last_event_at, last_started_at) "
        "VALUES (:account, :workflow, :subject, :enablement, '{}', :now, :now) "
        "ON CONFLICT (account_id, workflow_id, subject) DO UPDATE SET last_started_at = :now",
        {"account": account_id, "workflow": key[0], "subject": key[1], "enablement": enablement, "now": now},
    )
