"""Writes events: a single statement inserts one event, or those of concurrent requests, with decisions, runs and jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as RawConnection

from app.core.durations import RETENTION
from app.core.exact_json import replace_unstorable
from app.core.models import Decision, Event, NewRun
from app.db.connection import Database, PgConnection, fetch_all, prepare
from app.db.event_keys import EarlierEvent, find_earlier_events
from app.db.event_queries import find_event
from app.db.job_queue import enqueue_events, enqueue_runs

# More workflows that did nothing with an event for the same reason have one decision.
MAX_SINGLE = 20
_encoder = msgspec.json.Encoder()


class EventRecord(msgspec.Struct, frozen=True):
    """An event with its decisions and new runs. It is written only if `account_version` is the account's current version.
    `job`: the kind of a job that is enqueued for the event (CORRELATE or MATCH)."""

    account_version: int
    event: Event
    decisions: Sequence[Decision]
    runs: Sequence[NewRun]
    job: str | None = None


class RecordResult(msgspec.Struct, frozen=True):
    """Whether an event was recorded.

    `stale`: nothing was written, since the account snapshot is stale. `earlier`: nothing was written, since the idempotency
    key stands for that event. Neither: the event is recorded.
    """

    stale: bool = False
    earlier: EarlierEvent | None = None


class _DecisionRow(msgspec.Struct, omit_defaults=True, gc=False):
    """A decision in the `decisions` column."""

    workflow: str
    version: int | None
    started: bool
    reason: str
    run: UUID | None = None
    contributing: bool = False
    workflows: Mapping[str, int | None] | None = None


def decisions_json(decisions: Sequence[Decision]) -> str | None:
    """The `decisions` column: a list of objects, one per workflow that looked at the event; None when none did. More than
    MAX_SINGLE workflows that did nothing for the same reason are one object, whose `workflows` has their versions by name."""
    if not decisions:
        return None
    groups = _find_groups(decisions) if len(decisions) > MAX_SINGLE else {}
    rows = [_row_of_decision(decision) for decision in decisions if not groups or _group_of(decision) not in groups]
    for reason, members in groups.items():
        versions = {decision.workflow: decision.version for decision in members}
        rows.append(
            _DecisionRow(f"{len(members)} workflows", None, False, replace_unstorable(reason), workflows=versions)
        )
    return to_json(rows)


def _row_of_decision(decision: Decision) -> _DecisionRow:
    return _DecisionRow(
        decision.workflow,
        decision.version,
        decision.started,
        # The reason may quote an unstorable character of a filter.
        replace_unstorable(decision.reason),
        decision.run_id,
        decision.contributing and not decision.started,
    )


def _find_groups(decisions: Sequence[Decision]) -> dict[str, list[Decision]]:
    """The decisions that become one object, by their reason."""
    groups: dict[str, list[Decision]] = {}
    for decision in decisions:
        if (reason := _group_of(decision)) is not None:
            groups.setdefault(reason, []).append(decision)
    return {reason: members for reason, members in groups.items() if len(members) > MAX_SINGLE}


def _group_of(decision: Decision) -> str | None:
    """The reason of a decision that may be grouped."""
    did_nothing = decision.workflow_id is not None and not decision.started and not decision.contributing
    return decision.reason if did_nothing else None


def warnings_json(event: Event) -> str | None:
    """The `warnings` column."""
    return to_json(event.warnings) if event.warnings else None


def to_json(value: Any) -> str:
    """JSON text. Raises ValueError when `value` contains a lone surrogate."""
    return _encoder.encode(value).decode()


# One event

# An idempotency key that is older than RETENTION and not yet deleted is overwritten.
_INSERT_EVENT = f"""
    (bigint, bigint, uuid, text, text, text, jsonb, jsonb, timestamptz, jsonb, jsonb, text, text, bytea,
     uuid[], uuid[], int[], text[], text, uuid[], timestamptz[], text[], jsonb) AS
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
    {enqueue_events("(SELECT id AS account_id, $3 AS id, $19 AS job FROM fresh WHERE $19 IS NOT NULL) AS event")}
)
SELECT EXISTS (SELECT FROM account), EXISTS (SELECT FROM fresh)
"""
_EXECUTE = (
    "EXECUTE insert_event (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, "
    "%s::uuid[], %s::uuid[], %s::int[], %s::text[], %s, %s::uuid[], %s::timestamptz[], %s::text[], %s)"
)


def record_event(database: Database, record: EventRecord) -> RecordResult:
    """Write one event; it is committed when this returns.

    The statement is repeated after a lost connection. The event's id stays the same, so that an earlier commit whose
    response was lost is recognised. Raises Unavailable, or psycopg2.DataError for a value that Postgres cannot store.
    """

    def write(connection: PgConnection) -> RecordResult:
        try:
            result = insert_event(connection, record)
        except errors.UniqueViolation:
            # Ids are unique: an earlier attempt was committed and its response was lost.
            if _exists(connection, record):
                return RecordResult()
            raise
        return RecordResult() if result.stale and _exists(connection, record) else result

    return database.run_with_reconnect(write)


def insert_event(connection: PgConnection, record: EventRecord) -> RecordResult:
    """Write one event, in the connection's transaction if it has begun one."""
    event, runs = record.event, record.runs
    values = [
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
        warnings_json(event),
        event.via,
        event.idempotency_key,
        event.body_digest,
        [str(run.id) for run in runs],
        [str(run.workflow_id) for run in runs],
        [run.version for run in runs],
        [run.match_key for run in runs],
        record.job,
        [str(run.event_id) for run in runs],
        [run.event_received_at for run in runs],
        ["{" + ",".join(map(str, run.matched)) + "}" for run in runs],
        event.augmented_json,
    ]
    prepare(connection, "insert_event", _INSERT_EVENT)
    ((is_current, is_new),) = fetch_all(connection, _EXECUTE, values)
    if not is_current:
        return RecordResult(stale=True)
    if is_new:
        return RecordResult()
    key = event.idempotency_key or ""
    earlier = find_earlier_events(connection, event.account_id, [key]).get(key)
    if earlier is not None and earlier.id == event.id:
        return RecordResult()
    return RecordResult(stale=earlier is None, earlier=earlier)


def _exists(connection: PgConnection, record: EventRecord) -> bool:
    return find_event(connection, record.event.account_id, record.event.id) is not None


# The events of concurrent requests

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
    SELECT new.* FROM json_to_recordset($1) AS new ({_NEW}, job text, runs json) {_CURRENT}
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
    {enqueue_events("fresh WHERE job IS NOT NULL")}
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
    if any(record.runs or record.job for record in records):
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
    job: str | None = None
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
        record.job,
        tuple(_RunRow(run.id, run.workflow_id, run.version) for run in record.runs),
    )
