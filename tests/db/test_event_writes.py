"""Events that are written together: what is the matter with one of them costs the others nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extras import RealDictCursor

from app.core.ids import now, uuid7
from app.core.models import Decision, Event, NewRun
from app.db import accounts, event_group_writes, event_queries, event_writes
from app.db.connection import Database
from app.db.event_records import EventRecord, RecordResult
from app.services.context import AppContext
from tests.support.acceptance import accept, current_account
from tests.support.builders import Sender


def records(context: AppContext, sender: Sender) -> list[EventRecord]:
    """Three that may be written by the account's current copy."""
    account = current_account(context, sender.token)
    moment = now()
    event = Event(
        id=uuid7(moment),
        account_id=sender.account_id,
        event="product_view",
        distinct_id="someone",
        phone=None,
        data={},
        data_json="{}",
        extra_json=None,
        received_at=moment,
    )
    each = [replace(event, id=uuid7(moment), distinct_id=f"someone {number}") for number in range(3)]
    return [EventRecord(account.snapshot.version, one, [], []) for one in each]


WRONG = [
    {"distinct_id": "a\0b"},
    {"event": "\ud800"},
    {"data_json": "{"},
    {"data_json": '{"text": "\\u0000"}'},
    {"data_json": '{}", "distinct_id": "somebody else", "phone": "'},
    {"extra_json": '{}, "distinct_id": "somebody else"'},
]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_one_that_cannot_be_written_keeps_no_other_from_it(
    context: AppContext, acme: Sender, globex: Sender, changes: dict[str, str]
) -> None:
    first, wrong, last = records(context, acme)
    wrong = replace(wrong, event=replace(wrong.event, **changes))
    other = records(context, globex)[0]
    answers = event_group_writes.record_events(context.database, [first, wrong, last, other])
    assert [answers[place] for place in (0, 2, 3)] == [RecordResult()] * 3
    assert isinstance(answers[1], Exception)
    with context.database.autocommit_connection() as connection:
        for one in (first, last, other):
            kept = event_queries.find_event(connection, one.event.account_id, one.event.id)
            assert kept is not None
            assert kept.distinct_id == one.event.distinct_id


# Text that has a meaning in JSON, in SQL, or in both.
ODD = "'; \\ \\u0041 \\\\ \" $1 {} \x01\x1f\x7f\u2028 é 😀 %s \t\n"


def test_what_is_written_together_is_written_to_the_letter_and_to_the_last_digit(
    context: AppContext, acme: Sender
) -> None:
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
    told = Decision(None, ODD, None, started=False, contributing=False, reason=ODD)
    assert (
        event_group_writes.record_events(context.database, [first, replace(second, event=odd, decisions=[told])])
        == [RecordResult()] * 2
    )
    (kept,) = to_stored_state(context, odd.id)
    assert [kept[name] for name in ("event", "distinct_id", "phone", "via")] == [ODD] * 4
    assert [kept["data"], kept["extra"]] == [stored] * 2
    assert json.loads(kept["warnings"]) == [ODD, ODD]
    assert json.loads(kept["decisions"]) == [{"workflow": ODD, "version": None, "started": False, "reason": ODD}]
    assert kept["received_at"] == odd.received_at
    (plain,) = to_stored_state(context, first.event.id)
    assert [plain[name] for name in ("phone", "extra", "decisions", "warnings", "via", "augmented")] == [None] * 6


def to_stored_state(context: AppContext, event_id: UUID, table: str = "events") -> list[dict[str, Any]]:
    """What a table holds of an event: all columns, JSON as its text, of jobs those that are the event's."""
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


def test_events_are_written_alike_together_and_alone(context: AppContext, acme: Sender) -> None:
    one, other, third = (starting(record, runs) for record, runs in zip(records(context, acme), (2, 0, 1), strict=True))
    portion = [one, replace(other, awaited=True), replace(third, awaited=True)]
    assert event_group_writes.record_events(context.database, portion) == [RecordResult()] * 3
    together = [all_of(context, record) for record in portion]
    assert [[len(rows) for rows in found] for found in together] == [[1, 2, 2], [1, 0, 1], [1, 1, 2]]
    with context.database.autocommit_connection() as connection, connection.cursor() as cursor:
        for record in portion:
            cursor.execute("DELETE FROM events WHERE id = %s", (str(record.event.id),))
            cursor.execute("DELETE FROM jobs WHERE payload LIKE %s", (f"{acme.account_id}:%",))
            cursor.execute("DELETE FROM runs WHERE event_id = %s", (str(record.event.id),))
    assert [event_writes.record_event(context.database, record) for record in portion] == [RecordResult()] * 3
    assert [all_of(context, record) for record in portion] == together


def starting(record: EventRecord, number: int) -> EventRecord:
    """The same with runs that the event starts."""
    event = record.event
    runs = [
        NewRun(uuid7(), uuid7(), version, str(event.id), event.id, event.received_at, (event.id,))
        for version in range(1, number + 1)
    ]
    return replace(record, runs=runs)


def all_of(context: AppContext, record: EventRecord) -> list[list[dict[str, Any]]]:
    """An event, its runs and jobs, but for what Postgres counts by itself."""
    jobs = [
        {name: value for name, value in job.items() if name not in _COUNTED}
        for job in to_stored_state(context, record.event.id, "jobs")
    ]
    jobs.sort(key=lambda job: job["payload"])
    return [to_stored_state(context, record.event.id), to_stored_state(context, record.event.id, "runs"), jobs]


_COUNTED = ("id", "created_at", "due_at")


@pytest.mark.parametrize("runs", [0, 1])
def test_nothing_is_written_of_those_whose_copy_is_stale(
    context: AppContext, acme: Sender, globex: Sender, runs: int
) -> None:
    mine = [starting(record, runs) for record in records(context, acme)]
    theirs = [starting(record, runs) for record in records(context, globex)]
    mine[2] = replace(mine[2], awaited=True)
    with context.database.transaction() as connection:
        accounts.increment_version(connection, acme.account_id)
    nobodys = replace(theirs[2], event=replace(theirs[2].event, account_id=0))
    portion = [mine[0], theirs[0], mine[1], nobodys, theirs[1], mine[2]]
    stale, written = RecordResult(stale=True), RecordResult()
    assert event_group_writes.record_events(context.database, portion) == [stale, written, stale, stale, written, stale]
    rows = [[len(rows) for rows in all_of(context, record)] for record in portion]
    assert rows == [[0, 0, 0] if record not in theirs else [1, runs, runs] for record in portion]


@pytest.mark.parametrize("runs", [0, 1])
def test_an_answer_that_got_lost_is_given_again(context: AppContext, acme: Sender, globex: Sender, runs: int) -> None:
    portion = [starting(record, runs) for sender in (acme, globex) for record in records(context, sender)]
    written, late = portion[:5], portion[5]
    assert event_group_writes.record_events(context.database, written) == [RecordResult()] * 5
    assert event_group_writes.record_events(context.database, written) == [RecordResult()] * 5
    # The copy has become stale since; that of the others is still the current one.
    with context.database.transaction() as connection:
        accounts.increment_version(connection, acme.account_id)
    assert event_group_writes.record_events(context.database, written[:3]) == [RecordResult()] * 3
    assert event_group_writes.record_events(context.database, [*written[:3], late]) == [RecordResult()] * 4
    assert [len(to_stored_state(context, record.event.id)) for record in portion] == [1] * 6
    assert [len(to_stored_state(context, record.event.id, "runs")) for record in portion] == [runs] * 6


def test_no_event_waits_for_a_large_one(context: AppContext, acme: Sender, globex: Sender) -> None:
    large, small, other = (
        records(context, acme)[0].event,
        records(context, acme)[1].event,
        records(context, globex)[0],
    )
    large = replace(large, data_json=json.dumps({"text": "x" * 20_000}))
    mine, theirs = current_account(context, acme.token), current_account(context, globex.token)
    with closing(psycopg2.connect(context.settings.database_url)) as connection, ThreadPoolExecutor(1) as threads:
        # Postgres keeps the large one waiting: somebody might be about to commit one with its id.
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) VALUES (%s, %s, 'e', 'd', '{}', %s)",
                (large.account_id, str(large.id), large.received_at),
            )
            waits = threads.submit(accept, context, mine, large)
            held_up = 0
            while not held_up:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
                (held_up,) = cursor.fetchone() or (0,)
            assert accept(context, mine, small).id == small.id
            assert accept(context, theirs, other.event).id == other.event.id
            assert not waits.done()
        connection.rollback()
        assert waits.result(30).id == large.id


@pytest.mark.parametrize(
    "statement",
    [event_group_writes._INSERT_EVENTS, event_group_writes._INSERT_EVENTS_STARTING],
    ids=["plain", "starting"],
)
def test_not_all_accounts_are_read_for_a_few_events(context: AppContext, statement: str) -> None:
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
def test_however_many_connections_were_cut_events_are_written_at_once(
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
    portion = records(context, acme)
    if together:
        assert event_group_writes.record_events(database, portion) == [RecordResult()] * 3
    else:
        assert event_writes.record_event(database, portion[0]) == RecordResult()
    database.close()
