"""What a worker did to a run, written by one statement: the run's new place, its step, the attempt, and the next jobs.

Comes in: a claimed run and a `Settlement`. Goes out: whether it was written, or another worker was faster.

The blocks of a `par` are runs with a parent. The statement that settles the parent starts them, and the parent has no job
while it waits for `blocks_left`. The statement that ends a block takes one off; where that leaves none it enqueues the
parent's job. Two blocks that end at once wait for each other at the parent's row, so that one of them is the last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import psycopg2
from psycopg2.extensions import connection as RawConnection

from app.core.ids import uuid7
from app.core.models import Outcome, Run
from app.db.connection import Database, PgConnection, fetch_all
from app.db.runs import job_key

# Compare-and-set on `turn`; the step, the attempt and the next job come with it or not at all.
_MOVED = """
WITH moved AS (
    UPDATE runs SET status = %(status)s, at = %(at)s, ordinal = %(ordinal)s, attempt = %(attempt)s,
        forgiven = CASE WHEN ordinal = %(ordinal)s THEN forgiven ELSE 0 END,
        turn = turn + 1, job = %(job)s, wake_at = %(wake_at)s, step_started_at = %(step_started_at)s,
        blocks_left = %(blocks_left)s, rounds = %(rounds)s, error = %(error)s, updated_at = %(now)s,
        finished_at = CASE WHEN %(status)s = 'running' THEN NULL ELSE %(now)s::timestamptz END
    WHERE account_id = %(account_id)s AND id = %(run_id)s AND turn = %(turn)s AND status = 'running'
    RETURNING account_id, id, root_id, parent_id, workflow_id, version, match_key, event_id, event_received_at, matched,
        distinct_id, subject
), step AS (
    INSERT INTO steps (account_id, run_id, ordinal, path, name, action, status, started_at, finished_at, output, error)
    SELECT %(account_id)s, %(run_id)s, %(step_ordinal)s, %(step_path)s, %(step_name)s, %(step_action)s,
        %(step_status)s, %(step_began)s, %(step_ended)s, %(step_output)s::jsonb, %(step_error)s
    FROM moved
    ON CONFLICT (account_id, run_id, ordinal) DO UPDATE
        SET status = excluded.status, finished_at = excluded.finished_at, output = excluded.output,
            error = excluded.error
), tried AS (
    INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, error_class, error, request, response,
                          started_at, finished_at)
    SELECT %(account_id)s, %(run_id)s, %(step_ordinal)s, %(tried)s, %(outcome)s, %(error_class)s, %(outcome_error)s,
        %(request)s::jsonb, %(response)s::jsonb, %(tried_at)s, %(now)s
    FROM moved WHERE %(tried)s IS NOT NULL
), queued AS (
    INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload, execute_after)
    SELECT 0, 'run', 'queued', %(job_key)s, convert_to(%(job_key)s, 'UTF8'), %(wake_at)s
    FROM moved WHERE %(job_key)s IS NOT NULL
)"""

_SETTLED = "\nSELECT count(*) FROM moved"

# The run has come to a `par`: its blocks start, each with a job of its own.
_BLOCKS = """, block AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at, root_id, parent_id, parent_ordinal,
                      subject)
    SELECT account_id, new.id, workflow_id, version, match_key || '/' || new.place, event_id, event_received_at, matched,
        distinct_id, 'running', new.at, %(now)s, %(now)s, %(now)s, coalesce(root_id, moved.id), moved.id, %(step_ordinal)s,
        subject
    FROM moved, unnest(%(block_ids)s::uuid[], %(block_places)s, %(block_starts)s) AS new (id, place, at)
    RETURNING account_id, id
), block_job AS (
    INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload)
    SELECT 0, 'run', 'queued', name.text, convert_to(name.text, 'UTF8')
    FROM block, LATERAL (SELECT account_id || ':' || id || ':1') AS name (text)
)
"""

# A block has ended: its parent waits for one less, and has a job once it waits for none. The parent's row comes in by a
# join and not by EXISTS: Postgres looks at it anew when another block had it locked.
_JOINED = """, joined AS (
    UPDATE runs AS parent SET blocks_left = parent.blocks_left - 1,
        wake_at = CASE WHEN parent.blocks_left = 1 THEN %(now)s::timestamptz END,
        updated_at = greatest(parent.updated_at, %(now)s)
    FROM moved WHERE parent.account_id = moved.account_id AND parent.id = moved.parent_id AND parent.status = 'running'
    RETURNING parent.account_id, parent.id, parent.job, parent.blocks_left
), parent_job AS (
    INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload)
    SELECT 0, 'run', 'queued', name.text, convert_to(name.text, 'UTF8')
    FROM joined, LATERAL (SELECT account_id || ':' || id || ':' || job) AS name (text) WHERE blocks_left = 0
    ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL DO NOTHING
)
"""

_NOTE = """
INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, error_class, error, request, response,
                      started_at, finished_at)
SELECT account_id, id, %(step_ordinal)s, %(tried)s, %(outcome)s, %(error_class)s, %(outcome_error)s,
       %(request)s::jsonb, %(response)s::jsonb, %(tried_at)s, %(now)s
FROM runs WHERE account_id = %(account_id)s AND id = %(run_id)s
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class StepRow:
    """What is kept of the step that was just worked on."""

    path: str
    name: str | None
    action: str
    status: str
    started_at: datetime
    output: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A block that starts: its number in its `par`, and the path of its first step."""

    number: int
    at: str


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """Where a run stands after its worker did something: its new place, the step's row, and the attempt if one was made.

    `wake_at` with `job` greater than the run's own means: a job that is due then is enqueued along. Without `wake_at` that
    job comes when all `blocks`, which start now, have ended.
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


def moment_after(run: Run, now: datetime) -> datetime:
    """`now`, or just after the run's last change where this machine's clock is behind that."""
    return now if run.updated_at is None else max(now, run.updated_at + timedelta(microseconds=1))


def update_run(database: Database, run: Run, update: RunUpdate, now: datetime) -> bool:
    """Write what happened, committed when this returns; False when another worker was faster and nothing is written.

    `now` is later than the run's last change, whatever the clocks of its workers say, so that what was settled in a run
    and its blocks can be put in order.

    A statement whose answer got lost with the connection is sent once more: when the run stands one turn further, and
    exactly where this settlement puts it, it is taken for our own doing.
    """
    values = _settle_values(run, update, now)
    statement = _statement(run, update)
    attempts = count(1)

    def settle(connection: PgConnection) -> bool:
        is_repeated = next(attempts) > 1
        return _settle(connection, statement, values) or (is_repeated and _is_updated(connection, run, update))

    return database.run_with_reconnect(settle)


def _is_updated(connection: RawConnection, run: Run, update: RunUpdate) -> bool:
    """Whether the run stands one turn further, exactly where the update puts it."""
    query = "SELECT turn, status, at, ordinal, job FROM runs WHERE account_id = %s AND id = %s"
    rows = fetch_all(connection, query, (run.account_id, str(run.id)))
    return rows == [(run.turn + 1, update.status, update.at, update.ordinal, update.job)]


def record_attempt(database: Database, run: Run, update: RunUpdate, now: datetime) -> None:
    """Keep the attempt of a step whose run was ended by somebody else meanwhile; what was sent must not be forgotten."""
    values = _settle_values(run, update, now)
    if values["tried"] is None:
        return
    database.execute(_NOTE, values)


def _statement(run: Run, update: RunUpdate) -> str:
    """Most runs have no blocks and are none: what these take stays out of their way."""
    starts = _BLOCKS if update.blocks else ""
    joins = _JOINED if run.parent_id is not None and update.status != "running" else ""
    return _MOVED + starts + joins + _SETTLED


def _settle(connection: RawConnection, statement: str, values: Mapping[str, Any]) -> bool:
    with connection.cursor() as cursor:
        try:
            cursor.execute(statement, values)
        except psycopg2.DataError:
            # A destination may answer with what jsonb cannot hold (1e999999): it is left out, the step is settled.
            cursor.execute(statement, {**values, "response": None, "step_output": None})
        row = cursor.fetchone()
    return bool(row and row[0])


def _settle_values(run: Run, update: RunUpdate, now: datetime) -> dict[str, Any]:
    step, outcome, blocks = update.step, update.outcome, update.blocks
    enqueued = update.job > run.job and update.wake_at is not None
    return {
        "account_id": run.account_id,
        "run_id": str(run.id),
        "turn": run.turn,
        "status": update.status,
        "at": update.at,
        "ordinal": update.ordinal,
        "attempt": update.attempt,
        "job": update.job,
        "job_key": job_key(run.account_id, run.id, update.job) if enqueued else None,
        "wake_at": update.wake_at,
        "step_started_at": update.step_started_at,
        "error": _storable(update.error),
        "now": now,
        "step_ordinal": run.ordinal,
        "step_path": step.path,
        "step_name": step.name,
        "step_action": step.action,
        "step_status": step.status,
        "step_began": step.started_at,
        "step_ended": None if step.status == "waiting" else now,
        "step_output": _json(step.output),
        "step_error": _storable(step.error),
        "tried": run.attempt + 1 if outcome else None,
        "outcome": outcome.kind if outcome else None,
        "error_class": outcome.error_class if outcome else None,
        "outcome_error": _storable(outcome.error) if outcome else None,
        "request": _json(outcome.request) if outcome else None,
        "response": _json(outcome.response) if outcome else None,
        "tried_at": update.tried_at,
        "rounds": update.rounds,
        "blocks_left": len(blocks) or None,
        # Later than their parent's own id, in the order of their numbers.
        "block_ids": [str(uuid7(now + timedelta(microseconds=block.number))) for block in blocks],
        "block_places": [f"{run.ordinal}.{block.number}" for block in blocks],
        "block_starts": [block.at for block in blocks],
    }


def _json(value: Mapping[str, Any] | None) -> str | None:
    """JSON text with every number exact, in characters that jsonb can hold."""
    return None if value is None else _EXACT_JSON.encode(_storable(value)).decode()


_EXACT_JSON = msgspec.json.Encoder(decimal_format="number")
_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")


def _storable(value: Any) -> Any:
    """`value` with U+FFFD in place of the characters that Postgres refuses (NUL and lone surrogates)."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_storable(name): _storable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(member) for member in value]
    return value
