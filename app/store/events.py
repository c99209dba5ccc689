"""Events in Postgres: one statement records an event with its decisions, its runs and their jobs.

Comes in: verified events with their decisions and new runs. Goes out: what was recorded, or which earlier event an
idempotency key stands for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg2
import sqlalchemy as sa
from psycopg2 import errors
from psycopg2.extensions import connection as RawConnection

from app.identifiers import moment_of
from app.store.connections import Database, passing_trouble_as_unavailable, prepare
from app.words import Decision, Event, NewRun

# The path of most events: nothing starts, no idempotency key. One insert that happens only while the caller's copy of
# the account is the current one.
_RECORD = """(bigint, bigint, uuid, text, text, text, jsonb, jsonb, timestamptz, jsonb, jsonb) AS
INSERT INTO events (account_id, id, event, distinct_id, phone, data, extra, received_at, decisions, warnings)
SELECT id, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM accounts WHERE id = $1 AND version = $2
"""

# The same with everything that may come with it: all in one statement, hence in one transaction and one round trip.
# An idempotency key that is older than 30 days but not swept yet is taken over as if it were not there.
_RECORD_ALL = """
    (bigint, bigint, uuid, text, text, text, jsonb, jsonb, timestamptz, jsonb, jsonb, text, bytea,
     uuid[], uuid[], int[], text[], text, uuid[], timestamptz[], text[]) AS
WITH account AS (
    SELECT id FROM accounts WHERE id = $1 AND version = $2
), ledger AS (
    INSERT INTO idempotency_keys AS known (account_id, key, digest, event_id, received_at)
    SELECT id, $12, $13, $3, $9 FROM account WHERE $12 IS NOT NULL
    ON CONFLICT (account_id, key) DO UPDATE
        SET digest = excluded.digest, event_id = excluded.event_id, received_at = excluded.received_at
        WHERE known.received_at < excluded.received_at - interval '30 days'
    RETURNING 1
), fresh AS (
    SELECT id FROM account WHERE $12 IS NULL OR EXISTS (SELECT FROM ledger)
), event AS (
    INSERT INTO events (account_id, id, event, distinct_id, phone, data, extra, received_at, decisions, warnings,
                        idempotency_key)
    SELECT id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM fresh
), run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at)
    SELECT fresh.id, new.id, new.workflow_id, new.version, new.match_key, new.event_id, new.event_at,
           new.matched::uuid[], $5, 'running', 'steps[0]', $9, $9, $9
    FROM fresh, unnest($14, $15, $16, $17, $19, $20, $21)
        AS new (id, workflow_id, version, match_key, event_id, event_at, matched)
), job AS (
    INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload)
    SELECT 0, 'run', 'queued'::pgqueuer_status, name.text, convert_to(name.text, 'UTF8')
    FROM fresh, unnest($14) AS new (id), LATERAL (SELECT fresh.id || ':' || new.id || ':1') AS name (text)
    UNION ALL
    SELECT 0, 'event', 'queued'::pgqueuer_status, NULL, convert_to($18, 'UTF8') FROM fresh WHERE $18 IS NOT NULL
)
SELECT EXISTS (SELECT FROM account), EXISTS (SELECT FROM fresh)
"""

_EXECUTE = "EXECUTE record_event (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_EXECUTE_ALL = (
    "EXECUTE record_event_with_all (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, "
    "%s::uuid[], %s::uuid[], %s::int[], %s::text[], %s, %s::uuid[], %s::timestamptz[], %s::text[])"
)


@dataclass(frozen=True, slots=True)
class Recorded:
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


def record_event(
    database: Database,
    account_version: int,
    event: Event,
    decisions: Sequence[Decision],
    runs: Sequence[NewRun],
    *,
    awaited: bool = False,
) -> Recorded:
    """Write all that follows from accepting `event`, in one transaction that is committed when this returns.

    A connection that turns out to be dead is opened anew and the statement sent once more: the event's id is the same,
    so that a commit whose answer got lost is recognised instead of repeated. Raises Unavailable, or psycopg2.DataError
    when Postgres cannot hold a value. `awaited`: a job is enqueued that looks for runs which the event wakes or ends.
    """
    with passing_trouble_as_unavailable():
        try:
            return record_on(prepared(database), account_version, event, decisions, runs, awaited=awaited)
        except errors.UniqueViolation as trouble:
            return _recorded_before(trouble)
        except psycopg2.Error as trouble:
            if not database.is_lost(trouble):
                raise
            database.let_go()
        try:
            recorded = record_on(prepared(database), account_version, event, decisions, runs, awaited=awaited)
        except errors.UniqueViolation as trouble:
            return _recorded_before(trouble)
        if recorded.stale and find_event(database.held(), event.account_id, event.id) is not None:
            return Recorded()
        return recorded


def _recorded_before(trouble: errors.UniqueViolation) -> Recorded:
    """Ids are never made twice: where one is there already, it is this very event, and only the answer got lost."""
    if not (trouble.diag.table_name or "").startswith("events"):
        raise trouble
    return Recorded()


def record_on(
    connection: RawConnection,
    account_version: int,
    event: Event,
    decisions: Sequence[Decision],
    runs: Sequence[NewRun],
    *,
    awaited: bool,
) -> Recorded:
    """`record_event` on a connection that may be in a transaction, once: dead connections are the caller's business."""
    values = [
        event.account_id,
        account_version,
        str(event.id),
        event.event,
        event.distinct_id,
        event.phone,
        event.data_json,
        event.extra_json,
        event.received_at,
        decisions_json(decisions),
        json.dumps(event.warnings, ensure_ascii=False) if event.warnings else None,
    ]
    with connection.cursor() as cursor:
        if not runs and not awaited and event.idempotency_key is None:
            cursor.execute(_EXECUTE, values)
            return Recorded(stale=cursor.rowcount == 0)
        values += [event.idempotency_key, event.body_digest]
        values += [
            [str(run.id) for run in runs],
            [str(run.workflow_id) for run in runs],
            [run.version for run in runs],
            [run.match_key for run in runs],
            f"{event.account_id}:{event.id}" if awaited else None,
            [str(run.event_id) for run in runs],
            [run.event_received_at for run in runs],
            ["{" + ",".join(map(str, run.matched)) + "}" for run in runs],
        ]
        cursor.execute(_EXECUTE_ALL, values)
        known, fresh = cursor.fetchone() or (False, False)
        if not known:
            return Recorded(stale=True)
        if fresh:
            return Recorded()
        earlier = _find_earlier_event(cursor, event)
        if earlier is not None and earlier.id == event.id:
            return Recorded()
        return Recorded(stale=earlier is None, earlier=earlier)


def prepared(database: Database) -> RawConnection:
    """The calling thread's held connection, knowing the statements that record events."""
    connection = database.held()
    prepare(connection, "record_event", _RECORD)
    prepare(connection, "record_event_with_all", _RECORD_ALL)
    return connection


def _find_earlier_event(cursor: psycopg2.extensions.cursor, event: Event) -> EarlierEvent | None:
    cursor.execute(
        "SELECT event_id, digest, received_at FROM idempotency_keys WHERE account_id = %s AND key = %s",
        (event.account_id, event.idempotency_key),
    )
    row = cursor.fetchone()
    return EarlierEvent(UUID(row[0]), bytes(row[1]), row[2]) if row else None


# So many at once.
PAGE = 1_000
_EVENT = "id, account_id, event, distinct_id, phone, data::text, received_at"


def find_event(connection: RawConnection, account_id: int, event_id: UUID) -> Event | None:
    """An event by its id, which tells the partition."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_EVENT} FROM events WHERE account_id = %s AND id = %s AND received_at = %s",  # noqa: S608
            (account_id, str(event_id), moment_of(event_id)),
        )
        row = cursor.fetchone()
    return None if row is None else event_of(row)


def find_events(connection: RawConnection, account_id: int, event_ids: Sequence[str]) -> tuple[Event, ...]:
    """Events by their ids, in the order of acceptance."""
    moments = [moment_of(UUID(event_id)) for event_id in event_ids]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_EVENT} FROM events WHERE account_id = %s AND id = ANY (%s::uuid[]) "  # noqa: S608
            "AND received_at BETWEEN %s AND %s ORDER BY id",
            (account_id, list(event_ids), min(moments), max(moments)),
        )
        return tuple(event_of(row) for row in cursor)


def find_events_of_subject_since(connection: RawConnection, since: Event, names: Sequence[str]) -> list[Event]:
    """What came for the subject of `since` after it, oldest first; only these names (`*`: any). At most 1,000:
    go on after the last one for more."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_EVENT} FROM events WHERE account_id = %s AND distinct_id = %s AND id > %s "  # noqa: S608
            "AND received_at >= %s AND (event = ANY (%s) OR '*' = ANY (%s)) ORDER BY id LIMIT %s",
            (since.account_id, since.distinct_id, str(since.id), since.received_at, list(names), list(names), PAGE),
        )
        return [event_of(row) for row in cursor]


def read_by_subject(
    connection: sa.Connection,
    account_id: int,
    key: str,
    names: Sequence[str] | None,
    since: datetime,
    after: str | None,
) -> Iterator[tuple[Any, ...]]:
    """Stored events since a moment, ordered by subject and within it by acceptance; `names` None: of any name.

    Rows are (subject, id, event, distinct_id, phone, data, received_at). Read in pieces through a server-side cursor:
    memory does not grow with their number. `key` is a column or a path into data such as data.order_id.
    """
    root, *path = key.split(".")
    subject = "data #>> %(path)s" if root == "data" else root
    if root not in ("distinct_id", "phone", "data"):
        raise ValueError(f"{key} is no key")
    raw: Any = connection.connection.driver_connection
    with raw.cursor(name="read_by_subject") as cursor:
        cursor.itersize = 5_000
        cursor.execute(
            f"SELECT {subject}, id::text, event, distinct_id, phone, data::text, received_at FROM events "  # noqa: S608
            "WHERE account_id = %(account)s AND received_at >= %(since)s "
            "AND (%(names)s::text[] IS NULL OR event = ANY (%(names)s)) "
            f"AND {subject} IS NOT NULL AND (%(after)s::text IS NULL OR {subject} > %(after)s) ORDER BY {subject}, id",
            {
                "account": account_id,
                "since": since,
                "names": None if names is None else list(names),
                "after": after,
                "path": path,
            },
        )
        yield from cursor


def event_of(row: Sequence[Any]) -> Event:
    """A stored event; fractions in its `data` are decimals with all their digits."""
    event_id, account_id, name, distinct_id, phone, data_json, received_at = row
    return Event(
        id=UUID(event_id),
        account_id=account_id,
        event=name,
        distinct_id=distinct_id,
        phone=phone,
        data=read_exactly(data_json),
        data_json=data_json,
        extra_json=None,
        received_at=received_at,
    )


def read_exactly(text: str) -> Any:
    """JSON text as values with every digit: fractions, and integers too long for Python's own reader, as decimals."""
    return json.loads(text, parse_float=Decimal, parse_int=_read_whole)


def read_lightly(text: str) -> Any:
    """The same for matching, where fractions may be binary."""
    try:
        return json.loads(text)
    except ValueError:
        return read_exactly(text)


def _read_whole(text: str) -> int | Decimal:
    return int(text) if len(text) < 4_000 else Decimal(text)


# What jsonb refuses: a filter may name it, and its reason repeats it.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def decisions_json(decisions: Sequence[Decision]) -> str | None:
    """The `decisions` column: a list of objects, one a workflow that looked; None when none did."""
    if not decisions:
        return None
    return json.dumps(
        [
            {
                "workflow": decision.workflow,
                "version": decision.version,
                "started": decision.started,
                "reason": _UNSTORABLE.sub("\ufffd", decision.reason),
                **({"run": str(decision.run_id)} if decision.run_id else {}),
            }
            for decision in decisions
        ],
        ensure_ascii=False,
    )
