"""Events in Postgres: one statement records an event with its decisions, its runs and their jobs.

Comes in: verified events with their decisions and new runs. Goes out: what was recorded, or which earlier event an
idempotency key stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as RawConnection

from app.core.durations import RETENTION
from app.core.models import Decision, Event, NewRun
from app.core.unstorable import replace_unstorable
from app.db.connection import Database, PgConnection, prepare
from app.db.event_queries import find_event
from app.db.job_queue import enqueue_events, enqueue_runs

# Many events at once, each with the runs that it starts: one statement, hence one transaction and one round trip, and
# nothing is written of those whose caller's copy of the account is not the current one. They come as one text, an array of
# `_Row`; `data` and what else is JSON is text in it, so that nothing but its own column is made of it.
_COLUMNS = "account_id, id, event, distinct_id, phone, data, extra, received_at, decisions, warnings, via"
_VALUES = (
    "account_id, new.id, event, distinct_id, phone, data::jsonb, extra::jsonb, received_at, decisions::jsonb, "
    "warnings::jsonb, via"
)
_NEW = (
    "account_id bigint, account_version bigint, id uuid, event text, distinct_id text, phone text, data text, extra text, "
    "received_at timestamptz, decisions text, warnings text, via text"
)
# One look-up a row: it is not known how many rows come, and a join might read all accounts for five of them.
_CURRENT = "CROSS JOIN LATERAL (SELECT FROM accounts WHERE id = new.account_id AND version = new.account_version LIMIT 1) AS own"
_RECORD_MANY = f"""
    (json) AS
INSERT INTO events ({_COLUMNS})
SELECT {_VALUES} FROM json_to_recordset($1) AS new ({_NEW}) {_CURRENT}
"""
_RECORD_MANY_STARTING = f"""
    (json) AS
WITH fresh AS MATERIALIZED (
    SELECT new.* FROM json_to_recordset($1) AS new ({_NEW}, awaited bool, runs json) {_CURRENT}
), started AS MATERIALIZED (
    SELECT new.*, account_id, fresh.id AS event_id, distinct_id, received_at
    FROM fresh, json_to_recordset(runs) AS new (id uuid, workflow_id uuid, version int)
), run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at)
    SELECT account_id, id, workflow_id, version, event_id::text, event_id, received_at, ARRAY[event_id], distinct_id,
           'running', 'steps[0]', received_at, received_at, received_at
    FROM started
), job AS (
    {enqueue_runs("started")}
), event_job AS (
    {enqueue_events("fresh WHERE awaited")}
)
INSERT INTO events ({_COLUMNS}) SELECT {_VALUES} FROM fresh AS new
"""

# One event with everything that may come with it.
# An idempotency key that is older than RETENTION but not swept yet is taken over as if it were not there.
_RECORD_ALL = f"""
    (bigint, bigint, uuid, text, text, text, jsonb, jsonb, timestamptz, jsonb, jsonb, text, text, bytea,
     uuid[], uuid[], int[], text[], bool, uuid[], timestamptz[], text[], jsonb) AS
WITH account AS (
    SELECT id FROM accounts WHERE id = $1 AND version = $2
), ledger AS (
    INSERT INTO idempotency_keys AS known (account_id, key, digest, event_id, received_at)
    SELECT id, $13, $14, $3, $9 FROM account WHERE $13 IS NOT NULL
    ON CONFLICT (account_id, key) DO UPDATE
        SET digest = excluded.digest, event_id = excluded.event_id, received_at = excluded.received_at
        WHERE known.received_at < excluded.received_at - interval '{RETENTION.days} days'
    RETURNING 1
), fresh AS (
    SELECT id FROM account WHERE $13 IS NULL OR EXISTS (SELECT FROM ledger)
), event AS (
    INSERT INTO events (account_id, id, event, distinct_id, phone, data, extra, received_at, decisions, warnings,
                        via, idempotency_key, augmented)
    SELECT id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $23 FROM fresh
), run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at)
    SELECT fresh.id, new.id, new.workflow_id, new.version, new.match_key, new.event_id, new.event_at,
           new.matched::uuid[], $5, 'running', 'steps[0]', $9, $9, $9
    FROM fresh, unnest($15, $16, $17, $18, $20, $21, $22)
        AS new (id, workflow_id, version, match_key, event_id, event_at, matched)
), job AS (
    {enqueue_runs("(SELECT fresh.id AS account_id, run_id AS id FROM fresh, unnest($15) AS run_id) AS started")}
), event_job AS (
    {enqueue_events("(SELECT id AS account_id, $3 AS id FROM fresh WHERE $19) AS awaited")}
)
SELECT EXISTS (SELECT FROM account), EXISTS (SELECT FROM fresh)
"""

_EXECUTE = {
    "record_events": "EXECUTE record_events (%s)",
    "record_events_starting": "EXECUTE record_events_starting (%s)",
    "record_event_with_all": "EXECUTE record_event_with_all (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, "
    "%s::uuid[], %s::uuid[], %s::int[], %s::text[], %s, %s::uuid[], %s::timestamptz[], %s::text[], %s)",
}


@dataclass(frozen=True, slots=True)
class RecordResult:
    """What became of the attempt to record an event.

    `stale`: nothing was written, the caller's copy of the account is out of date. `earlier`: nothing was written, the
    idempotency key stands for that event already. Neither: it is recorded.
    """

    stale: bool = False
    earlier: EarlierEvent | None = None


@dataclass(frozen=True, slots=True)
class EarlierEvent:
    """The event that an idempotency key stands for, and the SHA-256 digest of the body that it came with."""

    id: UUID
    digest: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class EventRecord:
    """What is to be written of one event, if `account_version` is the current one. `awaited`: a job is enqueued that looks
    for runs which the event wakes or ends."""

    account_version: int
    event: Event
    decisions: Sequence[Decision]
    runs: Sequence[NewRun]
    awaited: bool = False


def record_events(database: Database, records: Sequence[EventRecord]) -> list[RecordResult | Exception]:
    """Write all that follows from accepting these events, committed when this returns; they have no idempotency keys,
    augments added nothing to them, and their runs are for themselves alone.

    All are one transaction. Where that does not work because of one of them each is written by itself: its answer is
    what `record_event` returns or raises. Raises Unavailable.
    """
    try:
        return database.run_with_reconnect(lambda connection: _record_many(connection, records))
    except (psycopg2.Error, ValueError):
        # Postgres, or its driver, refuses one of them: NUL or half a surrogate pair is a ValueError before anything is sent.
        return [_record_alone(database, record) for record in records]


def _is_there(connection: RawConnection, record: EventRecord) -> bool:
    return find_event(connection, record.event.account_id, record.event.id) is not None


def _record_alone(database: Database, record: EventRecord) -> RecordResult | Exception:
    try:
        return record_event(database, record)
    except Exception as trouble:
        return trouble


def record_event(database: Database, record: EventRecord) -> RecordResult:
    """The same for one event, which may have an idempotency key, and what augments added.

    A connection that turns out to be dead is opened anew and the statement sent once more: the event's id is the same,
    so that a commit whose answer got lost is recognised instead of repeated. Raises Unavailable, or psycopg2.DataError
    when Postgres cannot hold a value.
    """

    def write(connection: PgConnection) -> RecordResult:
        try:
            recorded = insert_event(connection, record)
        except errors.UniqueViolation:
            # Ids are unique: the event is there when an earlier attempt was committed and only its answer was lost.
            if _is_there(connection, record):
                return RecordResult()
            raise
        return RecordResult() if recorded.stale and _is_there(connection, record) else recorded

    return database.run_with_reconnect(write)


class _RunRow(msgspec.Struct, gc=False):
    """A run that an event starts, as the statement reads it."""

    id: UUID
    workflow_id: UUID
    version: int


class _Row(msgspec.Struct, omit_defaults=True):
    """An event as the statement reads it; what is left out is null there."""

    account_id: int
    account_version: int
    id: UUID
    received_at: datetime
    event: str
    distinct_id: str
    data: str
    phone: str | None = None
    extra: str | None = None
    decisions: str | None = None
    warnings: str | None = None
    via: str | None = None
    awaited: bool = False
    runs: tuple[_RunRow, ...] = ()


def _record_many(connection: PgConnection, records: Sequence[EventRecord]) -> list[RecordResult | Exception]:
    name, statement = "record_events", _RECORD_MANY
    if any(record.runs or record.awaited for record in records):
        name, statement = "record_events_starting", _RECORD_MANY_STARTING
    rows = _json(list(map(_row_of, records)))
    prepare(connection, name, statement)
    with connection.cursor() as cursor:
        cursor.execute(_EXECUTE[name], (rows,))
        if cursor.rowcount == len(records):
            return [RecordResult()] * len(records)
    # Those of which the copy was not the current one are not there: now, or when an answer got lost.
    there = _find_written(connection, [record.event for record in records])
    return [RecordResult(stale=str(record.event.id) not in there) for record in records]


def _find_written(connection: RawConnection, events: Sequence[Event]) -> set[str]:
    """The ids of those events that are in the table."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM events WHERE account_id = ANY (%s) AND id = ANY (%s::uuid[]) AND received_at = ANY (%s)",
            [list(column) for column in zip(*((e.account_id, str(e.id), e.received_at) for e in events), strict=True)],
        )
        return {row[0] for row in cursor}


def _row_of(record: EventRecord) -> _Row:
    event = record.event
    return _Row(
        event.account_id,
        record.account_version,
        event.id,
        event.received_at,
        event.event,
        event.distinct_id,
        event.data_json,
        event.phone,
        event.extra_json,
        decisions_json(record.decisions),
        _json(event.warnings) if event.warnings else None,
        event.via,
        record.awaited,
        tuple(_RunRow(run.id, run.workflow_id, run.version) for run in record.runs),
    )


def _row(record: EventRecord) -> tuple[Any, ...]:
    event = record.event
    return (
        event.account_id,
        record.account_version,
        str(event.id),
        event.event,
        event.distinct_id,
        event.phone,
        event.data_json,
        event.extra_json,
        event.received_at,
        decisions_json(record.decisions),
        _json(event.warnings) if event.warnings else None,
        event.via,
    )


def insert_event(connection: PgConnection, record: EventRecord) -> RecordResult:
    """`record_event` on a connection that may be in a transaction, once: dead connections are the caller's business."""
    event, runs = record.event, record.runs
    values = [
        *_row(record),
        event.idempotency_key,
        event.body_digest,
        [str(run.id) for run in runs],
        [str(run.workflow_id) for run in runs],
        [run.version for run in runs],
        [run.match_key for run in runs],
        record.awaited,
        [str(run.event_id) for run in runs],
        [run.event_received_at for run in runs],
        ["{" + ",".join(map(str, run.matched)) + "}" for run in runs],
        event.augmented_json,
    ]
    prepare(connection, "record_event_with_all", _RECORD_ALL)
    with connection.cursor() as cursor:
        cursor.execute(_EXECUTE["record_event_with_all"], values)
        known, fresh = cursor.fetchone() or (False, False)
        if not known:
            return RecordResult(stale=True)
        if fresh:
            return RecordResult()
        earlier = _find_earlier_event(cursor, event)
        if earlier is not None and earlier.id == event.id:
            return RecordResult()
        return RecordResult(stale=earlier is None, earlier=earlier)


def _find_earlier_event(cursor: psycopg2.extensions.cursor, event: Event) -> EarlierEvent | None:
    cursor.execute(
        "SELECT event_id, digest, received_at FROM idempotency_keys WHERE account_id = %s AND key = %s",
        (event.account_id, event.idempotency_key),
    )
    row = cursor.fetchone()
    return EarlierEvent(UUID(row[0]), bytes(row[1]), row[2]) if row else None


class _DecisionRow(msgspec.Struct, omit_defaults=True, gc=False):
    """A decision as it is kept."""

    workflow: str
    version: int | None
    started: bool
    reason: str
    run: UUID | None = None
    contributing: bool = False


def decisions_json(decisions: Sequence[Decision]) -> str | None:
    """The `decisions` column: a list of objects, one a workflow that looked; None when none did."""
    if not decisions:
        return None
    return _json(
        [
            _DecisionRow(
                decision.workflow,
                decision.version,
                decision.started,
                replace_unstorable(decision.reason),
                decision.run_id,
                decision.contributing and not decision.started,
            )
            for decision in decisions
        ]
    )


def _json(value: Any) -> str:
    """JSON text; ValueError where `value` has half a surrogate pair."""
    return _encoder.encode(value).decode()


_encoder = msgspec.json.Encoder()
