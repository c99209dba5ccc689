"""Writes one event: a single statement inserts the event with its idempotency key, decisions, runs and jobs."""

from __future__ import annotations

from psycopg2 import errors

from app.core.durations import RETENTION
from app.db.connection import Database, PgConnection, fetch_all, prepare
from app.db.event_queries import find_event
from app.db.event_records import EventRecord, RecordResult, decisions_json, warnings_json
from app.db.idempotency_keys import find_earlier_events
from app.db.job_queue import enqueue_events, enqueue_runs

# An idempotency key that is older than RETENTION and not yet deleted is overwritten.
_INSERT_EVENT = f"""
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
        record.awaited,
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
