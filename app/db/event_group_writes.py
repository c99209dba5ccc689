"""Writes the events of concurrent requests: a single statement inserts many events with their decisions, runs and jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import psycopg2
from psycopg2.extensions import connection as RawConnection

from app.core.models import Event
from app.db.connection import Database, PgConnection, fetch_all, prepare
from app.db.event_records import EventRecord, RecordResult, decisions_json, to_json, warnings_json
from app.db.event_writes import record_event
from app.db.job_queue import enqueue_events, enqueue_runs

# The parameter is one JSON array of `_Row`. JSON columns are text in it, so that a value cannot become another column.
# Rows whose account snapshot is stale are left out.
_COLUMNS = "account_id, id, event, distinct_id, phone, data, extra, received_at, decisions, warnings, via"
_VALUES = (
    "account_id, new.id, event, distinct_id, phone, data::jsonb, extra::jsonb, received_at, decisions::jsonb, "
    "warnings::jsonb, via"
)
_NEW = (
    "account_id bigint, account_version bigint, id uuid, event text, distinct_id text, phone text, data text, extra text, "
    "received_at timestamptz, decisions text, warnings text, via text"
)
# One index look-up per row: a join might scan all accounts for five rows.
_CURRENT = "CROSS JOIN LATERAL (SELECT FROM accounts WHERE id = new.account_id AND version = new.account_version LIMIT 1) AS own"
_INSERT_EVENTS = f"""
    (json) AS
INSERT INTO events ({_COLUMNS})
SELECT {_VALUES} FROM json_to_recordset($1) AS new ({_NEW}) {_CURRENT}
"""
_INSERT_EVENTS_STARTING = f"""
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


def record_events(database: Database, records: Sequence[EventRecord]) -> list[RecordResult | Exception]:
    """Write many events in one transaction; they are committed when this returns.

    The events have no idempotency keys and no augments, and their runs are matched by the event alone. When the statement
    fails because of one event, each is written by itself: the results are what `record_event` returns or raises. Raises
    Unavailable.
    """
    try:
        return database.run_with_reconnect(lambda connection: _insert_events(connection, records))
    except (psycopg2.Error, ValueError):
        # A ValueError comes from the driver: NUL or a lone surrogate.
        return [_record_alone(database, record) for record in records]


def _record_alone(database: Database, record: EventRecord) -> RecordResult | Exception:
    try:
        return record_event(database, record)
    except Exception as exc:
        return exc


def _insert_events(connection: PgConnection, records: Sequence[EventRecord]) -> list[RecordResult | Exception]:
    name, statement = "insert_events", _INSERT_EVENTS
    if any(record.runs or record.awaited for record in records):
        name, statement = "insert_events_starting", _INSERT_EVENTS_STARTING
    rows = to_json(list(map(_row_of, records)))
    prepare(connection, name, statement)
    with connection.cursor() as cursor:
        cursor.execute(f"EXECUTE {name} (%s)", (rows,))
        if cursor.rowcount == len(records):
            return [RecordResult()] * len(records)
    # Missing rows have a stale snapshot, unless an earlier attempt was committed and its response was lost.
    written = _find_written(connection, [record.event for record in records])
    return [RecordResult(stale=str(record.event.id) not in written) for record in records]


def _find_written(connection: RawConnection, events: Sequence[Event]) -> set[str]:
    """The ids of those events that are stored."""
    rows = fetch_all(
        connection,
        "SELECT id FROM events WHERE account_id = ANY (%s) AND id = ANY (%s::uuid[]) AND received_at = ANY (%s)",
        (
            [event.account_id for event in events],
            [str(event.id) for event in events],
            [event.received_at for event in events],
        ),
    )
    return {event_id for (event_id,) in rows}


class _RunRow(msgspec.Struct, gc=False):
    """A run in the statement's parameter."""

    id: UUID
    workflow_id: UUID
    version: int


class _Row(msgspec.Struct, omit_defaults=True):
    """An event in the statement's parameter; an omitted field is null."""

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
        warnings_json(event),
        event.via,
        record.awaited,
        tuple(_RunRow(run.id, run.workflow_id, run.version) for run in record.runs),
    )
