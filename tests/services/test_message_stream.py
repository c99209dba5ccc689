"""The message stream: each message is stored once and delivered once, in any order of commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from app.core.errors import Problem
from app.core.ids import now, uuid7
from app.core.models import EVENTS_READ, Message
from app.db import messages
from app.db.messages import NewMessage
from app.services import accounts, api_keys, data_subjects, message_stream, workflows
from app.services.context import AppContext
from app.worker.housekeeping import sweep
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run, rows_of

MESSAGE = {
    "message": {
        "text": "{{ event }} of {{ phone }}",
        "data": {"price": "{{ data.price }}", "n": 1.5, "list": ["{{ event }}"]},
    }
}


def started(context: AppContext, sender: Sender, *steps: dict[str, Any], **changes: Any) -> str:
    """A run of a workflow with these steps."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps)))
    (run,) = sender.post(an_event(**changes)).get_json()["runs"]
    return str(run)


def stored_messages(context: AppContext, sender: Sender) -> list[Message]:
    """All messages of an account."""
    with context.database.transaction() as connection:
        return messages.find_messages_after(connection, sender.account_id, 0, 100_000)


def a_message(sender: Sender, text: str = "x", **changes: Any) -> NewMessage:
    new = NewMessage(uuid7(now()), sender.account_id, uuid7(now()), 0, "jane", text, {})
    return replace(new, **changes)


def insert(context: AppContext, sender: Sender, *texts: str) -> list[UUID]:
    """Insert messages in sequence; returns their ids."""
    with context.database.transaction() as connection:
        return [messages.insert_message(connection, a_message(sender, text), now()) for text in texts]


def a_key(context: AppContext, sender: Sender) -> str:
    """The prefix of a new key that may read events."""
    return api_keys.create_key(context, sender.account_id, "reader", (EVENTS_READ,)).split("_")[1]


def a_ticket(context: AppContext, sender: Sender) -> str:
    return message_stream.make_ticket(context, sender.account_id, a_key(context, sender)).ticket


def at(context: AppContext, timestamp: datetime) -> Callable[[], datetime]:
    return lambda: timestamp


# Storing


def test_a_step_sends_its_message(context: AppContext, acme: Sender) -> None:
    run = started(
        context,
        acme,
        {"id": "notice", **MESSAGE},
        {"log": "{{ steps.notice.text }} {{ steps.notice.id }}"},
        data={"price": 1999},
    )
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    (one,) = stored_messages(context, acme)
    assert (one.text, one.data_json) == (
        "product_view of +915673412780",
        '{"n": 1.5, "list": ["product_view"], "price": 1999}',
    )
    assert (str(one.run_id), one.distinct_id) == (run, "915673412780")
    first, second = rows_of(context, "steps", acme.account_id, run)
    assert first["output"] == {"id": str(one.id), "text": one.text}
    assert second["output"] == {"text": f"{one.text} {one.id}"}


def test_a_repeated_step_sends_its_message_once(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, MESSAGE, MESSAGE)
    execute_run(context, acme.account_id, run)
    first = stored_messages(context, acme)
    with context.database.transaction() as connection:
        # As if the worker had died after storing the messages and before recording that.
        connection.exec_driver_sql(
            "UPDATE runs SET status = 'running', at = 'steps[0]', ordinal = 0, turn = turn + 1, finished_at = NULL "
            "WHERE account_id = %(account)s AND id = %(run)s",
            {"account": acme.account_id, "run": run},
        )
        for table in ("steps", "attempts"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE run_id = %(run)s", {"run": run})
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert stored_messages(context, acme) == first
    assert [row["output"]["id"] for row in rows_of(context, "steps", acme.account_id, run)] == [
        str(one.id) for one in first
    ]


def test_two_workers_that_send_the_same_message_concurrently_store_it_once(context: AppContext, acme: Sender) -> None:
    one = a_message(acme)
    with context.database.transaction() as connection:
        first = messages.insert_message(connection, one, now())
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(_kept_alone, context, replace(one, id=uuid7(now())))
            _wait_for_a_lock(context)
            connection.commit()
            assert other.result(10) == first
    assert [row.id for row in stored_messages(context, acme)] == [first]


def _kept_alone(context: AppContext, new: NewMessage) -> UUID:
    with context.database.transaction() as connection:
        return messages.insert_message(connection, new, now())


def _wait_for_a_lock(context: AppContext) -> None:
    """Wait until a transaction waits for a row of `streams`."""
    for _ in range(1_000):
        with context.database.transaction() as connection:
            waiting = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%streams%%'"
            ).scalar_one()
        if waiting:
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"text": "{{ data.nothing }}"}, "the message is empty"),
        ({"text": "{{ data.long }}"}, "the text has 20000 characters"),
        ({"text": "x", "data": {"a": "{{ data.long }}"}}, "the data has"),
    ],
)
def test_an_unstorable_message_fails_the_run(
    context: AppContext, acme: Sender, fields: dict[str, Any], error: str
) -> None:
    run = started(context, acme, {"message": fields}, data={"long": "x" * 20_000})
    ended = execute_run(context, acme.account_id, run)
    assert ended["status"] == "failed"
    assert error in ended["error"]
    assert stored_messages(context, acme) == []


def test_mustache_is_not_escaped(context: AppContext, acme: Sender) -> None:
    message = {"text": {"mustache": "{{first-name}}"}, "data": {"who": [{"mustache": "{{first-name}}"}]}}
    run = started(context, acme, {"message": message}, data={"first-name": "Jane <b>"})
    execute_run(context, acme.account_id, run)
    assert [(one.text, one.data_json) for one in stored_messages(context, acme)] == [
        ("Jane <b>", '{"who": ["Jane <b>"]}')
    ]


# Delivering


def test_a_stream_starts_when_its_ticket_was_created(context: AppContext, acme: Sender) -> None:
    insert(context, acme, "before")
    ticket = a_ticket(context, acme)
    assert message_stream.read_stream(context, acme.slug, ticket, None) == []
    insert(context, acme, "a", "b")
    assert [one.text for one in message_stream.read_stream(context, acme.slug, ticket, None)] == ["a", "b"]


def test_a_stream_continues_after_the_last_message(context: AppContext, acme: Sender) -> None:
    ticket = a_ticket(context, acme)
    first, second, _ = insert(context, acme, "a", "b", "c")
    assert [one.text for one in message_stream.read_stream(context, acme.slug, ticket, first)] == ["b", "c"]
    assert [one.text for one in message_stream.read_stream(context, acme.slug, a_ticket(context, acme), second)] == [
        "c"
    ]


def test_a_maximum_number_of_messages_is_delivered(context: AppContext, acme: Sender) -> None:
    ticket = a_ticket(context, acme)
    ids = insert(context, acme, *map(str, range(501)))
    page = message_stream.read_stream(context, acme.slug, ticket, None)
    assert [one.id for one in page] == ids[:500]
    assert [one.id for one in message_stream.read_stream(context, acme.slug, ticket, page[-1].id)] == ids[500:]


def test_a_response_ends_after_the_message_that_exceeds_its_size(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_stream, "MAX_BYTES", 1_000)
    ticket = a_ticket(context, acme)
    ids = insert(context, acme, "a" * 600, "b" * 600, "c" * 5_000, "d")
    page = message_stream.read_stream(context, acme.slug, ticket, None)
    assert [one.id for one in page] == ids[:2]
    page = message_stream.read_stream(context, acme.slug, ticket, ids[1])
    assert [one.id for one in page] == ids[2:3]
    assert [one.id for one in message_stream.read_stream(context, acme.slug, ticket, ids[2])] == ids[3:]


def test_a_message_that_is_committed_late_is_not_missed(context: AppContext, acme: Sender) -> None:
    """A message that is created first and committed last is delivered to a reader that has read the other one."""
    ticket = a_ticket(context, acme)
    early = a_message(acme, "made first")
    time.sleep(0.002)
    (late,) = insert(context, acme, "made second")
    assert early.id < late
    assert [one.id for one in message_stream.read_stream(context, acme.slug, ticket, None)] == [late]
    assert _kept_alone(context, early) == early.id
    assert [one.id for one in message_stream.read_stream(context, acme.slug, ticket, late)] == [early.id]


def test_no_message_overtakes_one_that_is_being_committed(context: AppContext, acme: Sender) -> None:
    ticket = a_ticket(context, acme)
    with ThreadPoolExecutor(1) as threads, context.database.transaction() as connection:
        first = messages.insert_message(connection, a_message(acme), now())
        other = threads.submit(insert, context, acme, "second")
        _wait_for_a_lock(context)
        assert message_stream.read_stream(context, acme.slug, ticket, None) == []
        connection.commit()
        (second,) = other.result(10)
    assert [one.id for one in message_stream.read_stream(context, acme.slug, ticket, None)] == [first, second]


def test_a_reader_gets_each_message_once_while_many_write(context: AppContext, acme: Sender) -> None:
    """Several concurrent writers, some of which roll back, and one reader."""
    ticket = a_ticket(context, acme)
    written: list[UUID] = []
    lock, ended = threading.Lock(), threading.Event()

    def write(number: int) -> None:
        rng = Random(number)
        for attempt in range(25):
            new = a_message(acme)
            time.sleep(rng.random() / 500)
            try:
                with context.database.transaction() as connection:
                    messages.insert_message(connection, new, now())
                    time.sleep(rng.random() / 500)
                    if attempt % 5 == 0:
                        raise LookupError
            except LookupError:
                continue
            with lock:
                written.append(new.id)

    def follow() -> list[UUID]:
        seen: list[UUID] = []
        while True:
            over = ended.is_set()
            page = message_stream.read_stream(context, acme.slug, ticket, seen[-1] if seen else None)
            seen += [one.id for one in page]
            if over and not page:
                return seen

    with ThreadPoolExecutor(5) as threads:
        reader = threads.submit(follow)
        for writer in [threads.submit(write, number) for number in range(4)]:
            writer.result(60)
        ended.set()
        seen = reader.result(60)
    assert len(written) == 80
    assert sorted(seen) == sorted(written)


def test_a_reader_with_a_deleted_message_misses_nothing(context: AppContext, acme: Sender) -> None:
    ticket = a_ticket(context, acme)
    _, gone, _ = insert(context, acme, "a", "b", "c")
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM messages WHERE id = %(id)s", {"id": str(gone)})
    assert [one.text for one in message_stream.read_stream(context, acme.slug, ticket, gone)] == ["a", "c"]
    long_ago, to_come = uuid7(now() - timedelta(days=40)), uuid7(now() + timedelta(hours=1))
    assert [one.text for one in message_stream.read_stream(context, acme.slug, ticket, long_ago)] == ["a", "c"]
    assert message_stream.read_stream(context, acme.slug, ticket, to_come) == []


# Tickets


def test_only_the_hash_of_a_ticket_is_stored(context: AppContext, acme: Sender) -> None:
    ticket = a_ticket(context, acme)
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql("SELECT t::text FROM tickets AS t").scalars().all()
    assert rows
    assert all(ticket not in row for row in rows)


def refused(context: AppContext, slug: str, ticket: str) -> None:
    with pytest.raises(Problem) as exc:
        message_stream.read_stream(context, slug, ticket, None)
    assert exc.value.status == 401


def test_a_ticket_is_valid_for_its_own_stream_only(context: AppContext, acme: Sender, globex: Sender) -> None:
    ticket = a_ticket(context, acme)
    insert(context, acme, "secret")
    refused(context, globex.slug, ticket)
    refused(context, "nobody", ticket)
    refused(context, acme.slug, ticket + "x")
    refused(context, acme.slug, "")
    assert (
        message_stream.read_stream(context, globex.slug, a_ticket(context, globex), insert(context, acme, "more")[0])
        == []
    )


def test_a_ticket_must_be_used_soon_and_is_then_valid_for_hours(
    context: AppContext, acme: Sender, monkeypatch: Any
) -> None:
    start = now()
    in_time, late = a_ticket(context, acme), a_ticket(context, acme)
    monkeypatch.setattr(context, "clock", at(context, start + timedelta(seconds=115)))
    assert message_stream.read_stream(context, acme.slug, in_time, None) == []
    monkeypatch.setattr(context, "clock", at(context, start + timedelta(seconds=125)))
    refused(context, acme.slug, late)
    monkeypatch.setattr(context, "clock", at(context, start + timedelta(hours=12)))
    assert message_stream.read_stream(context, acme.slug, in_time, None) == []
    monkeypatch.setattr(context, "clock", at(context, start + timedelta(hours=12, seconds=116)))
    refused(context, acme.slug, in_time)


def test_a_ticket_is_invalid_when_its_key_or_account_is(context: AppContext, acme: Sender) -> None:
    prefix = a_key(context, acme)
    ticket = message_stream.make_ticket(context, acme.account_id, prefix).ticket
    other = a_ticket(context, acme)
    assert message_stream.read_stream(context, acme.slug, ticket, None) == []
    api_keys.revoke_key(context, prefix)
    refused(context, acme.slug, ticket)
    assert message_stream.read_stream(context, acme.slug, other, None) == []
    accounts.switch_account(context, acme.account_id, on=False)
    refused(context, acme.slug, other)


# Housekeeping


def test_the_sweep_deletes_old_messages_and_tickets(context: AppContext, acme: Sender) -> None:
    ticket = a_ticket(context, acme)
    with context.database.transaction() as connection:
        for days in (29, 31):
            then = datetime.now(UTC) - timedelta(days=days)
            messages.insert_message(connection, a_message(acme, str(days), id=uuid7(then)), then)
        connection.exec_driver_sql(
            "INSERT INTO tickets SELECT sha256(digest), account_id, key_prefix, position, created_at - interval '121 s' FROM "
            "tickets WHERE account_id = %(id)s",
            {"id": acme.account_id},
        )
    sweep(context)
    assert [one.text for one in stored_messages(context, acme)] == ["29"]
    with context.database.transaction() as connection:
        left = connection.exec_driver_sql(
            "SELECT count(*) FROM tickets WHERE account_id = %(id)s", {"id": acme.account_id}
        ).scalar_one()
    assert left == 1
    assert [one.text for one in message_stream.read_stream(context, acme.slug, ticket, None)] == ["29"]


def test_erasing_a_subject_deletes_its_messages(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, MESSAGE)
    execute_run(context, acme.account_id, run)
    assert len(stored_messages(context, acme)) == 1
    data_subjects.erase_subject(context, acme.account_id, "915673412780")
    assert stored_messages(context, acme) == []
