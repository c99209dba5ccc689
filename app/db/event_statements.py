"""The statements that write events: with a part for each thing that one of them has."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from app.core.durations import RETENTION
from app.db.deliveries import insert_deliveries
from app.db.job_queue import enqueue_events, enqueue_runs

# The parameter is one JSON array of `_Row`. JSON columns are text in it, so that a value cannot become another column.
# Rows whose account snapshot is stale are left out.
_COLUMNS = "account_id, id, event, distinct_id, phone, data, extra, received_at, decisions, warnings, via, occurred_at"
_VALUES = (
    "account_id, new.id, event, distinct_id, phone, data::jsonb, extra::jsonb, received_at, decisions::jsonb, "
    "warnings::jsonb, via, occurred_at"
)
_NEW = (
    "account_id bigint, account_version bigint, id uuid, event text, distinct_id text, phone text, data text, extra text, "
    "received_at timestamptz, decisions text, warnings text, via text, occurred_at timestamptz"
)
# One index look-up per row: a join might scan all accounts for five rows.
_CURRENT = "CROSS JOIN LATERAL (SELECT FROM accounts WHERE id = new.account_id AND version = new.account_version LIMIT 1) AS own"
INSERT_EVENTS = f"""
    (json) AS
INSERT INTO events ({_COLUMNS})
SELECT {_VALUES} FROM json_to_recordset($1) AS new ({_NEW}) {_CURRENT}
"""
# What a statement needs for more than the rows of events: each part costs time in Postgres also where it has no rows.
_MORE = "augmented text, idempotency_key text, body_digest text, job text, runs json"
# The delivery of an event: columns of its row, since JSON inside of JSON would be read twice more.
_DELIVERY = (
    "delivery_id uuid, source_id uuid, source_version int, delivered_at timestamptz, method text, query text, headers jsonb, "
    "body text, content_encoding text, verified boolean, result text, problems jsonb, request_id text, replayed_at timestamptz"
)
# An idempotency key that is older than RETENTION and not yet deleted is overwritten. Keys are inserted in the order of
# `claim_keys`, so that two statements with the same keys do not deadlock. `earlier_id` is null when another transaction has
# stored the key while the statement ran.
_CLAIM_KEYS = f"""
claimed AS (
    INSERT INTO idempotency_keys AS known (account_id, key, digest, event_id, received_at)
    SELECT account_id, idempotency_key, decode(body_digest, 'base64'), id, received_at
    FROM fresh WHERE idempotency_key IS NOT NULL ORDER BY account_id, idempotency_key COLLATE "C"
    ON CONFLICT (account_id, key) DO UPDATE
        SET digest = excluded.digest, event_id = excluded.event_id, received_at = excluded.received_at
        WHERE known.received_at < excluded.received_at - interval '{RETENTION.days} days'
    RETURNING event_id
), outcome AS MATERIALIZED (
    SELECT fresh.*, idempotency_key IS NULL OR claimed.event_id IS NOT NULL AS is_new, known.event_id AS earlier_id,
           known.digest AS earlier_digest, known.received_at AS earlier_at
    FROM fresh LEFT JOIN claimed ON claimed.event_id = fresh.id
    LEFT JOIN LATERAL (
        SELECT event_id, digest, received_at FROM idempotency_keys AS known
        WHERE claimed.event_id IS NULL AND known.account_id = fresh.account_id AND known.key = fresh.idempotency_key LIMIT 1
    ) AS known ON true
), written AS (
    SELECT * FROM outcome WHERE is_new
)"""
_START_RUNS = f"""
started AS MATERIALIZED (
    SELECT new.id, workflow_id, version, coalesce(match_key, written.id::text) AS match_key,
           coalesce(matched_id, written.id) AS event_id, coalesce(matched_at, received_at) AS event_at,
           coalesce(matched, ARRAY[written.id]) AS matched, account_id, distinct_id, received_at
    FROM written, json_to_recordset(runs) AS new (id uuid, workflow_id uuid, version int, match_key text, matched_id uuid,
                                                  matched_at timestamptz, matched uuid[])
), run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at)
    SELECT account_id, id, workflow_id, version, match_key, event_id, event_at, matched, distinct_id,
           'running', 'steps[0]', received_at, received_at, received_at
    FROM started
), job AS (
    {enqueue_runs("started")}
), event_job AS (
    {enqueue_events("written WHERE job IS NOT NULL")}
)"""
_DELIVERED = """
delivered AS (
    SELECT account_id, delivery_id AS id, source_id, source_version, delivered_at AS received_at, method, query, headers, body,
           data, content_encoding, verified, result, problems, request_id, replayed_at, {events}
    FROM {rows}
)"""
_REPEATED = _DELIVERED.format(
    events="jsonb_build_array(coalesce(earlier_id, id)) AS events, (NOT is_new AND earlier_id <> id)::int AS duplicates",
    rows="outcome WHERE delivery_id IS NOT NULL AND (is_new OR earlier_id IS NOT NULL)",
)
_NOT_REPEATED = _DELIVERED.format(
    events="jsonb_build_array(id) AS events, 0 AS duplicates", rows="written WHERE delivery_id IS NOT NULL"
)
# Without a body, it is the text of the data.
_STORE = f"""
stored AS ({insert_deliveries("delivered AS new", "coalesce(decode(body, 'base64'), convert_to(data, 'UTF8'))")})"""
_WRITE_EVENTS = (
    f"INSERT INTO events ({_COLUMNS}, augmented, idempotency_key) "
    f"SELECT {_VALUES}, augmented::jsonb, idempotency_key FROM written AS new"
)


class Parts(NamedTuple):
    """What the events of a statement have besides their rows: idempotency keys, runs or jobs, deliveries."""

    keys: bool
    runs: bool
    deliveries: bool

    @property
    def name(self) -> str:
        """The name of the prepared statement."""
        return "_".join(["insert_events_with_more", *(part for part, is_there in self._asdict().items() if is_there)])


@cache
def make_statement(parts: Parts) -> str:
    """The statement that writes events with these parts. With keys it gives what became of each event, otherwise it writes all
    whose snapshot is current."""
    columns = ", ".join([_NEW, _MORE, *([_DELIVERY] if parts.deliveries else [])])
    rows = f"AS MATERIALIZED (SELECT new.* FROM json_to_recordset($1) AS new ({columns}) {_CURRENT})"
    steps = [f"fresh {rows}", _CLAIM_KEYS] if parts.keys else [f"written {rows}"]
    steps += [_START_RUNS] if parts.runs else []
    if parts.deliveries:
        steps += [_REPEATED if parts.keys else _NOT_REPEATED, _STORE]
    if not parts.keys:
        return f"(json) AS WITH {', '.join(steps)} {_WRITE_EVENTS}"
    result = "SELECT id, is_new, earlier_id, earlier_digest, earlier_at FROM outcome"
    return f"(json) AS WITH {', '.join([*steps, f'event AS ({_WRITE_EVENTS})'])} {result}"
