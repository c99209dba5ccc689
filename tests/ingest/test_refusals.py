"""The queue of refusals is bounded and fair, and its writer loses nothing that it can keep."""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.core import metrics
from app.core.errors import Unavailable
from app.db.refusals import NewRefusal
from app.ingest import background, refusals_queue
from app.ingest.refusals import BODY_BURST, BODY_RATE, RefusalKeeper
from app.ingest.refusals_queue import MAX_BATCH, Queued, RefusalQueue
from app.services.context import AppContext
from tests.db.test_refusals import a_refusal, find
from tests.support.builders import Sender
from tests.support.clocks import Clock

NOW = datetime(2031, 7, 10, 12, tzinfo=UTC)


def queued(account_id: int, number: int = 0, size: int = 0) -> Queued:
    at = NOW + timedelta(seconds=number)
    return Queued(a_refusal(account_id, at, None, request_id=str(number), detail="x" * size))


def taken(queue: RefusalQueue) -> list[tuple[int, str]]:
    return [(one.refusal.account_id, one.refusal.request_id) for one in queue.take()[0]]


def test_a_full_queue_drops_the_oldest_of_the_account_with_the_most() -> None:
    queue = RefusalQueue(max_bytes=50_000)
    assert queue.put(queued(2, 0, 5_000)) == 0
    assert queue.put(*(queued(1, number, 8_000) for number in range(6))) == 2
    batch, not_kept = queue.take()
    assert [(one.refusal.account_id, one.refusal.request_id) for one in batch] == [
        (2, "0"), (1, "2"), (1, "3"), (1, "4"), (1, "5")
    ]  # fmt: skip
    assert not_kept == {1: 2}


def test_a_refusal_that_is_larger_than_the_queue_is_dropped() -> None:
    queue = RefusalQueue(max_bytes=10_000)
    assert queue.put(queued(1, 0, 20_000)) == 1
    assert queue.take() == ([], {1: 1})


def test_the_queue_counts_what_bodies_errors_and_items_take() -> None:
    plain = queued(1)
    full = replace(plain.refusal, body=b"x" * 1_000, errors="e" * 200, items="i" * 30, detail="d" * 4)
    assert Queued(full).size == plain.size + 1_234


def test_accounts_are_served_round_robin() -> None:
    queue = RefusalQueue()
    queue.put(*(queued(1, number) for number in range(300)), queued(2), queued(3))
    assert taken(queue)[:4] == [(1, "0"), (2, "0"), (3, "0"), (1, "1")]
    assert [len(queue.take()[0]) for _ in range(3)] == [MAX_BATCH, MAX_BATCH, 2]


def test_a_batch_is_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals_queue, "MAX_BATCH_BYTES", 10_000)
    queue = RefusalQueue()
    queue.put(*(queued(1, number, 3_000) for number in range(5)))
    assert [len(queue.take()[0]) for _ in range(4)] == [2, 2, 1, 0]


def test_what_is_put_back_comes_first_and_is_bounded_too() -> None:
    queue = RefusalQueue(max_bytes=30_000)
    queue.put(*(queued(1, number, 8_000) for number in range(2)))
    batch, not_kept = queue.take()
    queue.put(queued(1, 2, 8_000), queued(1, 3, 8_000))
    assert queue.put_back(batch, not_kept | {2: 5}) == 1
    again, counts = queue.take()
    assert [one.refusal.request_id for one in again] == ["1", "2", "3"]
    assert counts == {1: 1, 2: 5}


# The writer


@pytest.fixture
def keeper(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> RefusalKeeper:
    """A keeper whose thread writes nothing by itself."""
    monkeypatch.setattr(background, "_INTERVAL", 3_600)
    return RefusalKeeper(context, Clock())


def unpacked(account_id: int, body: bytes = b"{", **changes: Any) -> NewRefusal:
    """A refusal as requests give it."""
    return replace(a_refusal(account_id, body=None, **changes), body=body, body_bytes=len(body), replayable=True)


def stored(context: AppContext, account_id: int) -> list[Any]:
    with context.database.transaction() as connection:
        query = "SELECT body, replayable, not_kept, detail FROM refusals WHERE account_id = %(id)s ORDER BY id"
        return list(connection.exec_driver_sql(query, {"id": account_id}))


@contextmanager
def outage(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail() -> None:
        raise Unavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(context.database, "transaction", fail)
        yield


def test_a_body_is_stored_compressed(keeper: RefusalKeeper, context: AppContext, acme: Sender) -> None:
    body = b'{"event": "a"}' * 20_000
    keeper.keep(unpacked(acme.account_id, body))
    assert keeper.flush()
    ((packed, replayable, _, _),) = stored(context, acme.account_id)
    assert len(packed) < len(body) / 20
    assert (zlib.decompress(packed), replayable) == (body, True)


def test_keeping_waits_for_no_statement(
    keeper: RefusalKeeper, context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with outage(context, monkeypatch):
        keeper.keep(unpacked(acme.account_id))
        assert not keeper.flush()
    assert stored(context, acme.account_id) == []
    assert keeper.flush()
    assert len(stored(context, acme.account_id)) == 1


def test_the_end_of_the_process_writes_what_is_left(keeper: RefusalKeeper, context: AppContext, acme: Sender) -> None:
    keeper.keep(unpacked(acme.account_id))
    keeper.close()
    assert len(stored(context, acme.account_id)) == 1


def test_a_refusal_that_cannot_be_stored_stops_no_other(
    keeper: RefusalKeeper, context: AppContext, acme: Sender
) -> None:
    before = metrics.refusals_not_kept.labels("error")._value.get()
    for detail in ("first", "a\x00b", "third"):
        keeper.keep(unpacked(acme.account_id, detail=detail))
    keeper.flush()
    assert sorted(row.detail for row in stored(context, acme.account_id)) == ["first", "third"]
    assert metrics.refusals_not_kept.labels("error")._value.get() == before + 1


def test_bodies_of_an_account_are_kept_within_a_burst_and_a_rate(
    keeper: RefusalKeeper, context: AppContext, acme: Sender, globex: Sender
) -> None:
    clock = keeper._monotonic
    assert isinstance(clock, Clock)
    large = b" " * (BODY_BURST - 1)
    keeper.keep(unpacked(acme.account_id, large))
    keeper.keep(unpacked(acme.account_id, b"within the burst" * 100))
    keeper.keep(unpacked(acme.account_id, b"too much"))
    keeper.keep(unpacked(globex.account_id, b"of another account"))
    clock.now += 1_600 / BODY_RATE + 1
    keeper.keep(unpacked(acme.account_id, b"later"))
    keeper.flush()
    kept = [(row.body and len(zlib.decompress(row.body)), row.replayable) for row in stored(context, acme.account_id)]
    assert sorted(kept, key=str) == sorted([(len(large), True), (1_600, True), (None, False), (5, True)], key=str)
    assert len(stored(context, globex.account_id)) == 1


def test_numbers_wait_for_the_first_refusal_of_another_process(
    keeper: RefusalKeeper, context: AppContext, acme: Sender
) -> None:
    keeper.count_not_kept(acme.account_id)
    assert not keeper.flush()
    other = RefusalKeeper(context)
    other.keep(unpacked(acme.account_id))
    assert other.flush()
    assert keeper.flush()
    assert [row.not_kept for row in stored(context, acme.account_id)] == [1]


def test_numbers_of_an_account_without_refusals_are_given_up(keeper: RefusalKeeper, acme: Sender) -> None:
    keeper.count_not_kept(acme.account_id)
    assert [keeper.flush() for _ in range(3)] == [False, True, True]


def test_the_writer_is_one_thread_that_starts_with_the_first_refusal(keeper: RefusalKeeper, acme: Sender) -> None:
    def count() -> int:
        return sum(thread.name == "refusals" for thread in threading.enumerate())

    before = count()
    assert keeper._writer._thread is None
    for _ in range(3):
        keeper.keep(unpacked(acme.account_id))
    assert count() == before + 1
    assert keeper.flush()


def test_memory_is_bounded_while_postgres_is_unavailable(
    keeper: RefusalKeeper, context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = RefusalQueue(max_bytes=1_000_000)
    monkeypatch.setattr(keeper, "_queue", queue)
    body = random.Random(1).randbytes(100_000)
    with outage(context, monkeypatch):
        for _ in range(40):
            keeper.keep(unpacked(acme.account_id, body))
            keeper.flush()
    assert queue._total <= 1_000_000
    assert keeper.flush()
    kept = stored(context, acme.account_id)
    assert 5 <= len(kept) <= 10
    assert len(kept) + sum(row.not_kept for row in kept) == 40
    assert find(context, acme.account_id)
