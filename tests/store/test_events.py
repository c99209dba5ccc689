"""Events that are written together: what is wrong with one of them costs the others nothing."""

from __future__ import annotations

from dataclasses import replace

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
