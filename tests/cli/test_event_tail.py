"""Following events: each is found once, also when a later one became visible first."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.cli import event_tail
from app.cli.event_tail import EventTail
from app.core.errors import Unavailable
from app.core.ids import timestamp_of, uuid7
from app.db.inspection import StoredEvent

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
LOOK_BACK = timedelta(seconds=15)


def an_event(at: datetime) -> StoredEvent:
    return StoredEvent(uuid7(at), 1, "product_view", "1", None, "{}", None, at, [], None, [])


class Postgres:
    """The visible events, and a clock; `queried_from` has the start time of each query."""

    def __init__(self) -> None:
        self.now = NOW
        self.visible: list[StoredEvent] = []
        self.queried_from: list[datetime] = []
        self.gone = False

    def find_events(self, since: datetime, known: Collection[UUID], limit: int) -> list[StoredEvent]:
        if self.gone:
            raise Unavailable("gone")
        self.queried_from.append(since)
        found = [one for one in self.visible if one.received_at >= since and one.id not in known]
        return sorted(found, key=lambda one: one.id)[:limit]

    def commit(self, arrived: datetime) -> StoredEvent:
        event = an_event(arrived)
        self.visible.append(event)
        return event


@pytest.fixture
def postgres() -> Postgres:
    return Postgres()


def _follow(postgres: Postgres) -> EventTail:
    return EventTail(postgres.find_events, lambda: postgres.now, LOOK_BACK)


def test_events_from_before_the_start_are_not_new(postgres: Postgres) -> None:
    postgres.commit(NOW - timedelta(seconds=1))
    assert list(_follow(postgres).poll()) == []


def test_new_events_are_found_in_order_and_once(postgres: Postgres) -> None:
    follower = _follow(postgres)
    postgres.now += timedelta(seconds=1)
    second, first = postgres.commit(postgres.now), postgres.commit(postgres.now - timedelta(milliseconds=5))
    assert list(follower.poll()) == [first, second]
    assert list(follower.poll()) == []


def test_an_event_that_becomes_visible_after_a_later_one_is_found(postgres: Postgres) -> None:
    follower = _follow(postgres)
    postgres.now += timedelta(seconds=1)
    postgres.commit(postgres.now)
    assert len(list(follower.poll())) == 1
    late = postgres.commit(postgres.now - timedelta(milliseconds=900))
    postgres.now += timedelta(seconds=10)
    assert list(follower.poll()) == [late]


def test_an_event_that_arrived_before_the_start_and_is_seen_after_it_is_found(postgres: Postgres) -> None:
    follower = _follow(postgres)
    late = postgres.commit(NOW - timedelta(seconds=2))
    assert list(follower.poll()) == [late]


def test_an_event_of_a_clock_that_runs_ahead_is_found_once(postgres: Postgres) -> None:
    follower = _follow(postgres)
    ahead = postgres.commit(NOW + timedelta(seconds=5))
    found = list(follower.poll())
    for _ in range(60):
        postgres.now += timedelta(seconds=1)
        found += follower.poll()
    assert found == [ahead]


def test_events_of_an_outage_are_found_afterwards(postgres: Postgres) -> None:
    follower = _follow(postgres)
    postgres.gone = True
    missed = []
    for _ in range(60):
        postgres.now += timedelta(seconds=1)
        missed.append(postgres.commit(postgres.now))
        with pytest.raises(Unavailable):
            list(follower.poll())
    postgres.gone = False
    assert list(follower.poll()) == missed


def test_many_events_at_once_are_all_found(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tail, "MAX_EVENTS", 3)
    follower = _follow(postgres)
    new = [postgres.commit(NOW + timedelta(milliseconds=number)) for number in range(10)]
    assert list(follower.poll()) == new


def test_only_events_within_the_look_back_are_remembered(postgres: Postgres) -> None:
    follower = _follow(postgres)
    for _ in range(100):
        postgres.now += timedelta(seconds=1)
        postgres.commit(postgres.now)
        list(follower.poll())
    assert len(follower._known) <= LOOK_BACK.total_seconds() + 1
    assert postgres.queried_from[-1] == postgres.now - timedelta(seconds=1) - LOOK_BACK


def test_the_time_of_an_id_is_that_of_its_event() -> None:
    assert timestamp_of(an_event(NOW + timedelta(microseconds=123_457)).id) == NOW + timedelta(microseconds=123_457)
