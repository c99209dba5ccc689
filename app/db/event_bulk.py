"""Writes the events of a batch or of an import, with runs and jobs, as whole columns in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.core.models import Event, NewRun
from app.db.connection import array_literal, driver_connection, execute, fetch_all
from app.db.event_writes import warnings_json
from app.db.job_queue import enqueue_events, enqueue_runs

# Rows, or about so many characters, per statement: memory does not grow with the number of events.
_ROWS_PER_STATEMENT = 1_000
_CHARACTERS_PER_STATEMENT = 1 << 20
# Separates JSON texts; no JSON text contains it.
_SEPARATOR = "\x1e"
# Arrays of columns are about as fast as COPY, which psycopg2 does not support under gevent.
_INSERT_EVENTS = """
INSERT INTO events (account_id, id, received_at, event, distinct_id, phone, idempotency_key, via, occurred_at, decisions, data,
                    extra, warnings)
SELECT %s, new.id, new.received_at, new.event, new.distinct_id, new.phone, new.idempotency_key, new.via, new.occurred_at,
       new.decisions::jsonb, new.data::jsonb, new.extra::jsonb, new.warnings::jsonb
FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[],
            string_to_array(%s, E'\\x1e', ''), string_to_array(%s, E'\\x1e', ''), string_to_array(%s, E'\\x1e', ''),
            string_to_array(%s, E'\\x1e', ''))
    AS new (id, received_at, event, distinct_id, phone, idempotency_key, via, occurred_at, decisions, data, extra, warnings)
"""
_INSERT_RUNS = f"""
WITH new AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(workflows)s::uuid[], %(versions)s::int[], %(keys)s::text[], %(events)s::uuid[],
                         %(received)s::timestamptz[], %(matched)s::text[], %(subjects)s::text[], %(started)s::timestamptz[])
        AS new (id, workflow_id, version, match_key, event_id, event_at, matched, subject, now)
), run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
                      status, at, wake_at, created_at, updated_at)
    SELECT %(account)s, id, workflow_id, version, match_key, event_id, event_at, matched::uuid[], subject, 'running', 'steps[0]',
           now, now, now
    FROM new RETURNING account_id, id
)
{enqueue_runs("run")}
"""

# Name, subject, phone, data, extra, warnings, idempotency key, via and occurred_at of an event; JSON and times as text.
EventColumns = tuple[str, str, str | None, str, str | None, str | None, str | None, str | None, str | None]
# A run, its subject, and when it starts.
StartedRun = tuple[NewRun, str, datetime]


class EventInserter:
    """Inserts rows into `events`, many per statement; `flush` inserts the last ones. With `skip_existing`, rows whose id exists
    are skipped. `inserted` counts the others."""

    def __init__(self, connection: RawConnection, account_id: int, *, skip_existing: bool = False) -> None:
        self.inserted = 0
        self._statement = _INSERT_EVENTS + ("ON CONFLICT DO NOTHING" if skip_existing else "")
        self._connection = connection
        self._account_id = account_id
        self._rows: list[tuple[str | None, ...]] = []
        self._size = 0

    def add(self, event_id: UUID, received_at: datetime, decisions: str | None, columns: EventColumns) -> None:
        """Insert a row, now or with later ones. `decisions`: JSON text."""
        self._rows.append((str(event_id), received_at.isoformat(), decisions, *columns))
        self._size += len(columns[3]) + len(decisions or "")
        if len(self._rows) >= _ROWS_PER_STATEMENT or self._size >= _CHARACTERS_PER_STATEMENT:
            self.flush()

    def flush(self) -> None:
        """Insert the rows that have been added and not inserted."""
        if not self._rows:
            return
        ids, received, decisions, names, subjects, phones, data, extra, warnings, keys, via, times = zip(
            *self._rows, strict=True
        )
        self._rows, self._size = [], 0
        with self._connection.cursor() as cursor:
            cursor.execute(
                self._statement,
                (
                    self._account_id,
                    # Ids and timestamps need no quotes in an array literal.
                    f"{{{','.join(ids)}}}",
                    f"{{{','.join(received)}}}",
                    *map(array_literal, (names, subjects, phones, keys, via)),
                    # An empty array is one of nulls for unnest.
                    array_literal(times if any(times) else ()),
                    *map(_joined, (decisions, data, extra, warnings)),
                ),
            )
            self.inserted += cursor.rowcount


def columns_of(event: Event) -> EventColumns:
    """The columns of an event's row except id, received_at and decisions."""
    texts = (event.event, event.distinct_id, event.phone, event.data_json, event.extra_json)
    occurred_at = None if event.occurred_at is None else event.occurred_at.isoformat()
    return *texts, warnings_json(event), event.idempotency_key, event.via, occurred_at


def _joined(texts: Sequence[str | None]) -> str:
    """JSON texts with separators; nothing for None."""
    return _SEPARATOR.join([text or "" for text in texts])


def insert_past_events(connection: sa.Connection, account_id: int, events: Sequence[Event]) -> int:
    """Insert the events that are not stored yet, without decisions; how many."""
    inserter = EventInserter(driver_connection(connection), account_id, skip_existing=True)
    for event in events:
        inserter.add(event.id, event.received_at, None, columns_of(event))
    inserter.flush()
    return inserter.inserted


# A body that came again: its number, the event that its idempotency key stands for, and the columns of the event that it makes.
Repeat = tuple[int, UUID, datetime, EventColumns]


def find_same_events(connection: RawConnection, account_id: int, repeats: Sequence[Repeat]) -> set[int]:
    """The numbers of those repeats that are the same JSON as the stored events. Postgres compares: white space, the order of
    members and the spelling of numbers do not matter, every digit does."""
    if not repeats:
        return set()
    numbers, ids, timestamps, columns = zip(*repeats, strict=True)
    names, subjects, phones, data, extra, *_, times = zip(*columns, strict=True)
    rows = fetch_all(
        connection,
        "SELECT number FROM unnest(%s::int[], %s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], "
        "%s::text[], %s::timestamptz[]) AS new (number, id, received_at, event, distinct_id, phone, data, extra, occurred_at) "
        "JOIN events AS known ON known.account_id = %s AND known.id = new.id AND known.received_at = new.received_at "
        "WHERE known.event = new.event AND known.distinct_id = new.distinct_id AND known.phone IS NOT DISTINCT FROM new.phone "
        "AND known.data = new.data::jsonb AND known.extra IS NOT DISTINCT FROM new.extra::jsonb "
        "AND known.occurred_at IS NOT DISTINCT FROM new.occurred_at",
        (
            list(numbers),
            list(map(str, ids)),
            list(timestamps),
            *map(list, (names, subjects, phones, data, extra, times)),
            account_id,
        ),
    )
    return {number for (number,) in rows}


def is_current(connection: RawConnection, account_id: int, account_version: int, batch: int) -> bool:
    """Whether `account_version` is the account's current one.

    Waits for an earlier transaction of the same `batch` (a random number), should one still be open.
    """
    fetch_all(connection, "SELECT pg_advisory_xact_lock(%s)", (batch,))
    rows = fetch_all(connection, "SELECT version FROM accounts WHERE id = %s", (account_id,))
    return rows == [(account_version,)]


def start_runs(connection: RawConnection, account_id: int, runs: Sequence[StartedRun]) -> None:
    """Insert runs and enqueue their jobs."""
    for first in range(0, len(runs), _ROWS_PER_STATEMENT):
        execute(connection, _INSERT_RUNS, _run_columns(account_id, runs[first : first + _ROWS_PER_STATEMENT]))


def _run_columns(account_id: int, runs: Sequence[StartedRun]) -> Mapping[str, object]:
    return {
        "account": account_id,
        "ids": [str(run.id) for run, _, _ in runs],
        "workflows": [str(run.workflow_id) for run, _, _ in runs],
        "versions": [run.version for run, _, _ in runs],
        "keys": [run.match_key for run, _, _ in runs],
        "events": [str(run.event_id) for run, _, _ in runs],
        "received": [run.event_received_at for run, _, _ in runs],
        "matched": ["{" + ",".join(map(str, run.matched)) + "}" for run, _, _ in runs],
        "subjects": [subject for _, subject, _ in runs],
        "started": [started_at for _, _, started_at in runs],
    }


def enqueue_event_jobs(connection: RawConnection, account_id: int, kinds: Mapping[UUID, str]) -> None:
    """Enqueue a job of this kind for each event."""
    statement = enqueue_events(
        "(SELECT %s AS account_id, unnest(%s::uuid[]) AS id, unnest(%s::text[]) AS job) AS event"
    )
    execute(connection, statement, (account_id, list(map(str, kinds)), list(kinds.values())))
