"""Runs, their steps and attempts: how a worker claims a run and how it settles what it did.

States of a run: running → done | failed | cancelled | exited; failed → running when a person has it retried.
While it is running, exactly one queue job (number `job`) may move it, and each settled change makes `turn` one greater: a
worker that was overtaken changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg2
from psycopg2.extensions import connection as RawConnection
from psycopg2.extensions import cursor as Cursor

from app.store import events
from app.store.connections import Database, passing_trouble_as_unavailable, prepare
from app.words import Event, NewRun, Outcome, Run

# All that the next step needs, read at once. The event is found in its partition by its received_at.
_RUN = """
SELECT run.id, run.account_id, run.workflow_id, workflow.name, run.version, version.document, run.status, run.at,
    run.ordinal, run.attempt, run.forgiven, run.turn, run.job, run.step_started_at,
    event.id, event.account_id, event.event, event.distinct_id, event.phone, event.data::text, event.received_at,
    (SELECT coalesce(json_object_agg(name, output), '{}')::text FROM steps
     WHERE account_id = run.account_id AND run_id = run.id AND name IS NOT NULL AND status = 'done'),
    run.matched::text[]
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

# Compare-and-set on `turn`; the step, the attempt and the next job come with it or not at all.
# Texts see so many of the events that a pattern used, the last ones.
_MOST_MATCHED = 100

_SETTLE = """
WITH moved AS (
    UPDATE runs SET status = %(status)s, at = %(at)s, ordinal = %(ordinal)s, attempt = %(attempt)s,
        forgiven = CASE WHEN ordinal = %(ordinal)s THEN forgiven ELSE 0 END,
        turn = turn + 1, job = %(job)s, wake_at = %(wake_at)s, step_started_at = %(step_started_at)s,
        error = %(error)s, updated_at = %(now)s,
        finished_at = CASE WHEN %(status)s = 'running' THEN NULL ELSE %(now)s::timestamptz END
    WHERE account_id = %(account_id)s AND id = %(run_id)s AND turn = %(turn)s AND status = 'running'
    RETURNING 1
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
)
SELECT count(*) FROM moved
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
class Settlement:
    """Where a run stands after its worker did something: its new place, the step's row, and the attempt if one was made.

    `wake_at` with `job` greater than the run's own means: a job that is due then is enqueued along.
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


def claim_run(database: Database, account_id: int, run_id: UUID, job: int) -> Run | None:
    """The run with all that its next step needs; None when this job may not move it (ended, or moved on by another)."""

    def claim(cursor: Cursor) -> None:
        # Prepared, since planning it over the partitions costs more than carrying it out.
        prepare(database.held(), "claim_run", _CLAIM)
        cursor.execute("EXECUTE claim_run (%s, %s, %s)", (account_id, str(run_id), job))

    rows = _ask(database, claim)
    if not rows:
        return None
    run, used = _run(rows[0]), rows[0][22]
    if len(used) < 2 or "matched" not in repr(run.document):
        return run
    with passing_trouble_as_unavailable():
        return replace(run, matched=events.find_events(_living(database), account_id, used[-_MOST_MATCHED:]))


def find_running_run(database: Database, account_id: int, run_id: UUID) -> Run | None:
    """A run as it stands now; None when it has ended."""
    question = _RUN + "WHERE run.status = 'running' AND run.account_id = %s AND run.id = %s"
    rows = _ask(database, lambda cursor: cursor.execute(question, (account_id, str(run_id))))
    return _run(rows[0]) if rows else None


def find_running_runs_of_subject(database: Database, event: Event, after: UUID) -> list[Run]:
    """The runs of the event's subject that were started before it and have not ended: a hundred, those after one."""
    question = (
        _RUN + "WHERE run.status = 'running' AND run.account_id = %s AND run.distinct_id = %s AND run.event_id < %s "
        "AND run.id > %s ORDER BY run.id LIMIT 100"
    )
    values = (event.account_id, event.distinct_id, str(event.id), str(after))
    return [_run(row) for row in _ask(database, lambda cursor: cursor.execute(question, values))]


def find_event(database: Database, account_id: int, event_id: UUID) -> Event | None:
    """An event by its id."""
    with passing_trouble_as_unavailable():
        return events.find_event(_living(database), account_id, event_id)


def find_events_of_subject_since(database: Database, since: Event, names: Sequence[str]) -> list[Event]:
    """What came for the subject of `since` after it, oldest first; only these names (`*`: any)."""
    with passing_trouble_as_unavailable():
        return events.find_events_of_subject_since(_living(database), since, names)


def find_awaited_events(database: Database, run: Run) -> frozenset[UUID]:
    """The ids of the events for which the run has waited and that have come."""
    rows = _ask(
        database,
        lambda cursor: cursor.execute(
            "SELECT output ->> 'id' FROM steps WHERE account_id = %s AND run_id = %s AND action = 'wait_for' "
            "AND status = 'done' AND output ->> 'id' IS NOT NULL",
            (run.account_id, str(run.id)),
        ),
    )
    return frozenset(UUID(row[0]) for row in rows)


def _ask(database: Database, question: Callable[[Cursor], None]) -> list[tuple[Any, ...]]:
    """The rows of a question that changes nothing; asked once more on a new connection when the held one has died."""
    with passing_trouble_as_unavailable():
        for is_last in (False, True):
            try:
                with database.held().cursor() as cursor:
                    question(cursor)
                    return cursor.fetchall()
            except psycopg2.Error as trouble:
                if is_last or not database.is_lost(trouble):
                    raise
                database.let_go()
    raise AssertionError("unreachable")


def _living(database: Database) -> RawConnection:
    """The thread's held connection, opened anew when it has died since its last use."""
    _ask(database, lambda cursor: cursor.execute("SELECT 1"))
    return database.held()


def _run(row: Sequence[Any]) -> Run:
    run_id, account_id, workflow_id, workflow, version, document, status, at, ordinal, attempt, forgiven = row[:11]
    turn, job, step_started_at = row[11:14]
    event = events.event_of(row[14:21])
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
        outputs=events.read_exactly(row[21]),
        matched=(event,),
        step_started_at=step_started_at,
    )


# A run that the clock starts: its event, and with it the subject, lie in the past.
_START = """
WITH run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at)
    SELECT account_id, %(id)s, %(workflow_id)s, %(version)s, %(match_key)s, id, received_at, %(matched)s::uuid[],
           distinct_id, 'running', 'steps[0]', %(now)s, %(now)s, %(now)s
    FROM events WHERE account_id = %(account_id)s AND id = %(event_id)s AND received_at = %(event_at)s
    ON CONFLICT (account_id, workflow_id, match_key) DO NOTHING
    RETURNING 1
)
INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload)
SELECT 0, 'run', 'queued', %(job)s, convert_to(%(job)s, 'UTF8') FROM run
"""


def start_run(connection: RawConnection, account_id: int, new: NewRun, now: datetime) -> None:
    """Start a run for a deadline, on a connection that is in a transaction; one that is there already is left alone."""
    with connection.cursor() as cursor:
        cursor.execute(
            _START,
            {
                "account_id": account_id,
                "id": str(new.id),
                "workflow_id": str(new.workflow_id),
                "version": new.version,
                "match_key": new.match_key,
                "matched": [str(event_id) for event_id in new.matched],
                "event_id": str(new.event_id),
                "event_at": new.event_received_at,
                "job": job_key(account_id, new.id, 1),
                "now": now,
            },
        )


def settle_run(database: Database, run: Run, settlement: Settlement, now: datetime) -> bool:
    """Write what happened, committed when this returns; False when another worker was faster and nothing is written.

    A statement whose answer got lost with the connection is sent once more: when the run stands one turn further, and
    exactly where this settlement puts it, it is taken for our own doing.
    """
    values = _settle_values(run, settlement, now)
    with passing_trouble_as_unavailable():
        try:
            return _settle(database.held(), values)
        except psycopg2.Error as trouble:
            if not database.is_lost(trouble):
                raise
            database.let_go()
        connection = database.held()
        if _settle(connection, values):
            return True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT turn, status, at, ordinal, job FROM runs WHERE account_id = %s AND id = %s",
                (run.account_id, str(run.id)),
            )
            row = cursor.fetchone()
        ours = (run.turn + 1, settlement.status, settlement.at, settlement.ordinal, settlement.job)
        return row == ours


def note_attempt(database: Database, run: Run, settlement: Settlement, now: datetime) -> None:
    """Keep the attempt of a step whose run was ended by somebody else meanwhile; what was sent must not be forgotten."""
    values = _settle_values(run, settlement, now)
    if values["tried"] is None:
        return
    with passing_trouble_as_unavailable(), _living(database).cursor() as cursor:
        cursor.execute(_NOTE, values)


def _settle(connection: RawConnection, values: Mapping[str, Any]) -> bool:
    with connection.cursor() as cursor:
        try:
            cursor.execute(_SETTLE, values)
        except psycopg2.DataError:
            # A destination may answer with what jsonb cannot hold (1e999999): it is left out, the step is settled.
            cursor.execute(_SETTLE, {**values, "response": None, "step_output": None})
        row = cursor.fetchone()
    return bool(row and row[0])


def _settle_values(run: Run, settlement: Settlement, now: datetime) -> dict[str, Any]:
    step, outcome = settlement.step, settlement.outcome
    return {
        "account_id": run.account_id,
        "run_id": str(run.id),
        "turn": run.turn,
        "status": settlement.status,
        "at": settlement.at,
        "ordinal": settlement.ordinal,
        "attempt": settlement.attempt,
        "job": settlement.job,
        "job_key": job_key(run.account_id, run.id, settlement.job) if settlement.job > run.job else None,
        "wake_at": settlement.wake_at,
        "step_started_at": settlement.step_started_at,
        "error": settlement.error,
        "now": now,
        "step_ordinal": run.ordinal,
        "step_path": step.path,
        "step_name": step.name,
        "step_action": step.action,
        "step_status": step.status,
        "step_began": step.started_at,
        "step_ended": None if step.status == "waiting" else now,
        "step_output": _json(step.output),
        "step_error": step.error,
        "tried": run.attempt + 1 if outcome else None,
        "outcome": outcome.kind if outcome else None,
        "error_class": outcome.error_class if outcome else None,
        "outcome_error": outcome.error if outcome else None,
        "request": _json(outcome.request) if outcome else None,
        "response": _json(outcome.response) if outcome else None,
        "tried_at": settlement.tried_at,
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


def job_key(account_id: int, run_id: UUID, job: int) -> str:
    """Name of a queue job: payload and dedupe key alike."""
    return f"{account_id}:{run_id}:{job}"
