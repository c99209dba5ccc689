"""Events that are written together: what is the matter with one of them costs the others nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from app.identifiers import now, uuid7
from app.journey import Journey
from app.store import events
from app.store.events import Recorded, Recording
from app.words import Event
from tests.builders import Sender


def recordings(house: Journey, sender: Sender) -> list[Recording]:
    """Three that may be written by the account's current copy."""
    account = house.account_of_key(sender.token[3:11])
    assert account is not None
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
    return [Recording(account.copy.version, one, [], []) for one in each]


@pytest.mark.parametrize("changes", [{"distinct_id": "a\0b"}, {"event": "\ud800"}, {"data_json": "{"}], ids=str)
def test_one_that_cannot_be_written_keeps_no_other_from_it(
    house: Journey, acme: Sender, globex: Sender, changes: dict[str, str]
) -> None:
    first, wrong, last = recordings(house, acme)
    wrong = replace(wrong, event=replace(wrong.event, **changes))
    other = recordings(house, globex)[0]
    answers = events.record_events(house.database, [first, wrong, last, other])
    assert [answers[place] for place in (0, 2, 3)] == [Recorded()] * 3
    assert isinstance(answers[1], Exception)
    with house.database.lend() as connection:
        for one in (first, last, other):
            kept = events.find_event(connection, one.event.account_id, one.event.id)
            assert kept is not None
            assert kept.distinct_id == one.event.distinct_id


def test_no_event_waits_for_a_large_one(house: Journey, acme: Sender, globex: Sender) -> None:
    large, small, other = (
        recordings(house, acme)[0].event,
        recordings(house, acme)[1].event,
        recordings(house, globex)[0],
    )
    large = replace(large, data_json=json.dumps({"text": "x" * 20_000}))
    mine, theirs = house.account_of_key(acme.token[3:11]), house.account_of_key(globex.token[3:11])
    assert mine is not None
    assert theirs is not None
    with closing(psycopg2.connect(house.settings.database_url)) as connection, ThreadPoolExecutor(1) as threads:
        # Postgres keeps the large one waiting: somebody might be about to commit one with its id.
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) VALUES (%s, %s, 'e', 'd', '{}', %s)",
                (large.account_id, str(large.id), large.received_at),
            )
            waits = threads.submit(house.accept, mine, large, lambda account: None)
            held_up = 0
            while not held_up:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
                (held_up,) = cursor.fetchone() or (0,)
            assert house.accept(mine, small, lambda account: None).id == small.id
            assert house.accept(theirs, other.event, lambda account: None).id == other.event.id
            assert not waits.done()
        connection.rollback()
        assert waits.result(30).id == large.id
