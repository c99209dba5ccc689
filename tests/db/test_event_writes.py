"""Concurrent events are written together: an event that cannot be written does not affect the others."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import product
from typing import Any
from uuid import UUID

import psycopg2
import psycopg2.extras
import pytest
from msgspec.structs import replace
from psycopg2.extras import RealDictCursor

from app.core.ids import now, uuid7
from app.core.models import Decision, Event, NewRun
from app.db import accounts, deliveries, event_queries, event_writes
from app.db.connection import Database
from app.db.deliveries import NewDelivery
from app.db.event_keys import EarlierEvent
from app.db.event_statements import INSERT_EVENTS, Parts, make_statement
from app.db.event_writes import EventRecord, RecordResult
from app.services.context import AppContext
from tests.support.acceptance import accept, current_account
from tests.support.builders import Sender


def records(context: AppContext, sender: Sender) -> list[EventRecord]:
    """Three records with the account's current version."""
    account = current_account(context, sender.token)
    received_at = now()
    event = Event(
        id=uuid7(received_at),
        account_id=sender.account_id,
        event="product_view",
        distinct_id="someone",
        phone=None,
        data={},
        data_json="{}",
        extra_json=None,
        received_at=received_at,
    )
    each = [replace(event, id=uuid7(received_at), distinct_id=f"someone {number}") for number in range(3)]
    return [EventRecord(account.snapshot.version, one, [], []) for one in each]


UNWRITABLE = [
    {"distinct_id": "a\0b"},
    {"event": "\ud800"},
    {"data_json": "{"},
    {"data_json": '{"text": "\\u0000"}'},
    {"data_json": '{}", "distinct_id": "somebody else", "phone": "'},
    {"extra_json": '{}, "distinct_id": "somebody else"'},
]


@pytest.mark.parametrize("changes", UNWRITABLE, ids=str)
def test_an_event_that_cannot_be_written_leaves_the_others_written(
    context: AppContext, acme: Sender, globex: Sender, changes: dict[str, str]
) -> None:
    first, unwritable, last = records(context, acme)
    unwritable = replace(unwritable, event=replace(unwritable.event, **changes))
    other = records(context, globex)[0]
    results = event_writes.record_events(context.database, [first, unwritable, last, other])
    assert [results[index] for index in (0, 2, 3)] == [RecordResult()] * 3
    assert isinstance(results[1], Exception)
    with context.database.autocommit_connection() as connection:
        for one in (first, last, other):
            stored = event_queries.find_event(connection, one.event.account_id, one.event.id)
            assert stored is not None
            assert stored.distinct_id == one.event.distinct_id


# Text with characters that are special in JSON, in SQL, or in both.
ODD = "'; \\ \\u0041 \\\\ \" $1 {} \x01\x1f\x7f\u2028 é 😀 %s \t\n"


def test_events_are_written_exactly_to_the_last_character_and_digit(context: AppContext, acme: Sender) -> None:
    data = '{"n": [9007199254740993, 12345678901234567890123456789.10, 0.1000, 1e-20, -0.0], "o\\\\d\'": "\\u00e9\\""}'
    stored = data.replace("1e-20", "0.00000000000000000001").replace("-0.0", "0.0").replace("\\u00e9", "é")
    first, second, _ = records(context, acme)
    odd = replace(
        second.event,
        event=ODD,
        distinct_id=ODD,
        phone=ODD,
        via=ODD,
        data_json=data,
        extra_json=data,
        warnings=(ODD, ODD),
    )
    decision = Decision(None, ODD, None, started=False, contributing=False, reason=ODD)
    assert (
        event_writes.record_events(context.database, [first, replace(second, event=odd, decisions=[decision])])
        == [RecordResult()] * 2
    )
    (row,) = rows_of(context, odd.id)
    assert [row[name] for name in ("event", "distinct_id", "phone", "via")] == [ODD] * 4
    assert [row["data"], row["extra"]] == [stored] * 2
    assert json.loads(row["warnings"]) == [ODD, ODD]
    assert json.loads(row["decisions"]) == [{"workflow": ODD, "version": None, "started": False, "reason": ODD}]
    assert row["received_at"] == odd.received_at
    (plain,) = rows_of(context, first.event.id)
    assert [plain[name] for name in ("phone", "extra", "decisions", "warnings", "via", "augmented")] == [None] * 6


def rows_of(context: AppContext, event_id: UUID, table: str = "events") -> list[dict[str, Any]]:
    """The rows of an event in a table: all columns, JSON as text; from `jobs`, those of the event and its runs."""
    where = {"events": "id = %(id)s", "runs": "event_id = %(id)s"}.get(
        table,
        "payload LIKE '%%:' || %(id)s "
        "OR dedupe_key IN (SELECT account_id || ':' || id || ':1' FROM runs WHERE event_id = %(id)s)",
    )
    with (
        context.database.autocommit_connection() as connection,
        connection.cursor(cursor_factory=RealDictCursor) as cursor,
    ):
        psycopg2.extras.register_default_jsonb(cursor, loads=str)
        cursor.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY id", {"id": str(event_id)})
        return [dict(row) for row in cursor]


def test_events_are_written_identically_together_and_alone(context: AppContext, acme: Sender) -> None:
    one, other, third = (starting(record, runs) for record, runs in zip(records(context, acme), (2, 0, 1), strict=True))
    batch = [one, replace(other, job="event"), replace(third, job="event")]
    assert event_writes.record_events(context.database, batch) == [RecordResult()] * 3
    together = [all_of(context, record) for record in batch]
    assert [[len(rows) for rows in found] for found in together] == [[1, 2, 2], [1, 0, 1], [1, 1, 2]]
    with context.database.autocommit_connection() as connection, connection.cursor() as cursor:
        for record in batch:
            cursor.execute("DELETE FROM events WHERE id = %s", (str(record.event.id),))
            cursor.execute("DELETE FROM jobs WHERE payload LIKE %s", (f"{acme.account_id}:%",))
            cursor.execute("DELETE FROM runs WHERE event_id = %s", (str(record.event.id),))
    assert [event_writes.record_event(context.database, record) for record in batch] == [RecordResult()] * 3
    assert [all_of(context, record) for record in batch] == together


def starting(record: EventRecord, number: int) -> EventRecord:
    """The record with `number` runs that its event starts."""
    event = record.event
    runs = [
        NewRun(uuid7(), uuid7(), version, str(event.id), event.id, event.received_at, (event.id,))
        for version in range(1, number + 1)
    ]
    return replace(record, runs=runs)


def all_of(context: AppContext, record: EventRecord) -> list[list[dict[str, Any]]]:
    """The rows of an event, its runs and their jobs, without generated columns."""
    jobs = [
        {name: value for name, value in job.items() if name not in _GENERATED}
        for job in rows_of(context, record.event.id, "jobs")
    ]
    jobs.sort(key=lambda job: job["payload"])
    return [rows_of(context, record.event.id), rows_of(context, record.event.id, "runs"), jobs]


_GENERATED = ("id", "created_at", "due_at")


@pytest.mark.parametrize("runs", [0, 1])
def test_events_with_a_stale_snapshot_are_not_written(
    context: AppContext, acme: Sender, globex: Sender, runs: int
) -> None:
    mine = [starting(record, runs) for record in records(context, acme)]
    theirs = [starting(record, runs) for record in records(context, globex)]
    mine[2] = replace(mine[2], job="event")
    with context.database.transaction() as connection:
        accounts.increment_version(connection, acme.account_id)
    of_no_account = replace(theirs[2], event=replace(theirs[2].event, account_id=0))
    batch = [mine[0], theirs[0], mine[1], of_no_account, theirs[1], mine[2]]
    stale, written = RecordResult(stale=True), RecordResult()
    assert event_writes.record_events(context.database, batch) == [stale, written, stale, stale, written, stale]
    rows = [[len(rows) for rows in all_of(context, record)] for record in batch]
    assert rows == [[0, 0, 0] if record not in theirs else [1, runs, runs] for record in batch]


@pytest.mark.parametrize("runs", [0, 1])
def test_a_repeated_statement_recognises_what_was_committed(
    context: AppContext, acme: Sender, globex: Sender, runs: int
) -> None:
    batch = [starting(record, runs) for sender in (acme, globex) for record in records(context, sender)]
    written, late = batch[:5], batch[5]
    assert event_writes.record_events(context.database, written) == [RecordResult()] * 5
    assert event_writes.record_events(context.database, written) == [RecordResult()] * 5
    # The snapshot of one account has become stale since; the other is current.
    with context.database.transaction() as connection:
        accounts.increment_version(connection, acme.account_id)
    assert event_writes.record_events(context.database, written[:3]) == [RecordResult()] * 3
    assert event_writes.record_events(context.database, [*written[:3], late]) == [RecordResult()] * 4
    assert [len(rows_of(context, record.event.id)) for record in batch] == [1] * 6
    assert [len(rows_of(context, record.event.id, "runs")) for record in batch] == [runs] * 6


def with_key(record: EventRecord, key: str, body: bytes = b"{}") -> EventRecord:
    """The record with an idempotency key."""
    changed = replace(record.event, idempotency_key=key, body_digest=hashlib.sha256(body).digest())
    return replace(record, event=changed)


def test_of_events_with_one_key_the_first_is_written(context: AppContext, acme: Sender, globex: Sender) -> None:
    first, second, third = (with_key(record, "one") for record in records(context, acme))
    other = with_key(records(context, globex)[0], "one")
    written, *others = event_writes.record_events(context.database, [first, second, other, third])
    assert written == others[1] == RecordResult()
    earlier = EarlierEvent(first.event.id, first.event.body_digest or b"", first.event.received_at)
    assert others[0] == others[2] == RecordResult(earlier=earlier)
    assert event_writes.record_event(context.database, second) == RecordResult(earlier=earlier)
    assert [len(rows_of(context, one.event.id)) for one in (first, second, third, other)] == [1, 0, 0, 1]


def test_a_repeated_statement_recognises_its_own_keys(context: AppContext, acme: Sender) -> None:
    batch = [with_key(starting(record, 1), str(number)) for number, record in enumerate(records(context, acme))]
    for _ in range(2):
        assert event_writes.record_events(context.database, batch) == [RecordResult()] * 3
    assert [len(rows_of(context, one.event.id, "runs")) for one in batch] == [1, 1, 1]


def test_a_key_that_another_transaction_stores_meanwhile_is_found_by_the_next_attempt(
    context: AppContext, acme: Sender
) -> None:
    first, second, _ = (with_key(record, "one") for record in records(context, acme))
    with closing(psycopg2.connect(context.settings.database_url)) as connection, ThreadPoolExecutor(1) as threads:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO idempotency_keys (account_id, key, digest, event_id, received_at) VALUES (%s, 'one', '', %s, %s)",
                (acme.account_id, str(first.event.id), first.event.received_at),
            )
            waits = threads.submit(event_writes.record_events, context.database, [second])
            waiting = 0
            while not waiting:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
                (waiting,) = cursor.fetchone() or (0,)
        connection.commit()
        assert waits.result(30) == [RecordResult(stale=True)]
    (result,) = event_writes.record_events(context.database, [second])
    assert isinstance(result, RecordResult) and result.earlier is not None
    assert result.earlier.id == first.event.id


def test_events_are_written_with_their_deliveries(context: AppContext, acme: Sender) -> None:
    one, other, third = records(context, acme)
    batch = [delivered(with_key(one, "one")), delivered(other), delivered(with_key(third, "one"))]
    for _ in range(2):
        first, second, last = event_writes.record_events(context.database, batch)
        assert first == second == RecordResult()
        assert isinstance(last, RecordResult) and last.earlier is not None
    found = [delivery_of(context, record) for record in batch]
    ids = [str(one.event.id), str(other.event.id), str(one.event.id)]
    assert found == [
        (b"\x00 {}", "accepted", [ids[0]], 0),
        (b"\x00 {}", "accepted", [ids[1]], 0),
        (b"\x00 {}", "duplicate", [ids[2]], 1),
    ]


def delivered(record: EventRecord) -> EventRecord:
    """The record with a delivery."""
    event = record.event
    row = NewDelivery(event.account_id, uuid7(), uuid7(), 1, now(), "POST", {}, b"\x00 {}", True, "accepted", "request")
    return replace(record, delivery=row)


@pytest.mark.parametrize("body", ['{"a": "$json$ \\\\n \\" \' é € 😀", "b": 1.50}', "{ }", "{}"])
def test_a_body_that_is_the_data_is_stored_byte_for_byte(context: AppContext, acme: Sender, body: str) -> None:
    record = delivered(records(context, acme)[0])
    assert record.delivery is not None
    record = replace(
        record,
        event=replace(record.event, data_json=body),
        delivery=replace(record.delivery, body=body.encode()),
    )
    assert event_writes.record_events(context.database, [record]) == [RecordResult()]
    assert delivery_of(context, record)[0] == body.encode()
    with context.database.transaction() as connection:
        query = "SELECT data::text FROM events WHERE id = %s"
        (stored,) = connection.exec_driver_sql(query, (str(record.event.id),)).scalars()
    assert json.loads(stored, parse_float=str) == json.loads(body, parse_float=str)


def delivery_of(context: AppContext, record: EventRecord) -> tuple[bytes, str, list[str], int]:
    """Body, result, events and duplicates of the stored delivery of a record."""
    assert record.delivery is not None
    with context.database.transaction() as connection:
        row = deliveries.find_delivery(connection, record.event.account_id, record.delivery.id)
        body = deliveries.find_body(connection, record.event.account_id, record.delivery.id)
    assert row is not None and body is not None
    return body, row.result, list(row.events), row.duplicates


def test_no_event_waits_for_a_large_event(context: AppContext, acme: Sender, globex: Sender) -> None:
    large, small, other = (
        records(context, acme)[0].event,
        records(context, acme)[1].event,
        records(context, globex)[0],
    )
    large = replace(large, data_json=json.dumps({"text": "x" * 20_000}))
    mine, theirs = current_account(context, acme.token), current_account(context, globex.token)
    with closing(psycopg2.connect(context.settings.database_url)) as connection, ThreadPoolExecutor(1) as threads:
        # The large event waits in Postgres: an open transaction has inserted its id.
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) VALUES (%s, %s, 'e', 'd', '{}', %s)",
                (large.account_id, str(large.id), large.received_at),
            )
            waits = threads.submit(accept, context, mine, large)
            waiting = 0
            while not waiting:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
                (waiting,) = cursor.fetchone() or (0,)
            assert accept(context, mine, small).id == small.id
            assert accept(context, theirs, other.event).id == other.event.id
            assert not waits.done()
        connection.rollback()
        assert waits.result(30).id == large.id


PARTS = [Parts(*are_there) for are_there in product((False, True), repeat=3)]


@pytest.mark.parametrize(
    "statement", [INSERT_EVENTS, *map(make_statement, PARTS)], ids=["plain", *(parts.name for parts in PARTS)]
)
def test_a_few_events_do_not_scan_all_accounts(context: AppContext, statement: str) -> None:
    with context.database.autocommit_connection() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute(
                "INSERT INTO accounts (slug, plan, signing_secret) "
                "SELECT 'one-of-many-' || number, 'trial', '' FROM generate_series(1, 5000) AS number"
            )
            cursor.execute("ANALYZE accounts")
            cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            cursor.execute(f"PREPARE of_many {statement}")
            cursor.execute("EXPLAIN EXECUTE of_many ('[]')")
            plan = "\n".join(line for (line,) in cursor)
        finally:
            cursor.execute("ROLLBACK")
            cursor.execute("DEALLOCATE of_many")
    assert "Index Scan using accounts_pkey on accounts" in plan
    assert "Seq Scan on accounts" not in plan


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_events_are_written_at_once_after_all_connections_were_lost(
    context: AppContext, acme: Sender, together: bool
) -> None:
    database = Database(context.settings)
    with ExitStack() as open_connections:
        pids = [
            open_connections.enter_context(database.autocommit_connection()).info.backend_pid
            for _ in range(context.settings.database_pool)
        ]
    with closing(psycopg2.connect(context.settings.database_url)) as other, other.cursor() as cursor:
        cursor.execute("SELECT bool_and(pg_terminate_backend(pid, 5000)) FROM unnest(%s) AS pid", (pids,))
        assert cursor.fetchone() == (True,)
    batch = records(context, acme)
    if together:
        assert event_writes.record_events(database, batch) == [RecordResult()] * 3
    else:
        assert event_writes.record_event(database, batch[0]) == RecordResult()
    database.close()
