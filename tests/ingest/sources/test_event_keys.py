"""The idempotency keys of the events of a delivery."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.ingest.sources import accept_delivery
from app.ingest.sources.accept_delivery import make_keys
from app.workflows.sources.mapping import MappedEvent

SOURCE, DELIVERY = UUID(int=1), UUID(int=2)


def _event(data_json: str, member_key: str) -> MappedEvent:
    return MappedEvent("order", "a", None, {}, data_json, member_key=member_key)


def test_an_event_without_a_dedupe_id_has_the_key_of_its_place_whatever_its_data_are() -> None:
    first = make_keys(SOURCE, [_event("1", "body[]#0:0"), _event("1", "body[]#0:1")], DELIVERY)
    assert len(set(first)) == 2
    assert first == make_keys(SOURCE, [_event("2", "body[]#0:0"), _event("3", "body[]#0:1")], DELIVERY)


@pytest.mark.parametrize(("events", "pauses"), [(1, 0), (3, 2)])
def test_other_requests_run_between_the_events_and_not_before_the_first(
    monkeypatch: pytest.MonkeyPatch, events: int, pauses: int
) -> None:
    found: list[int] = []
    monkeypatch.setattr(accept_delivery, "pause_if_due", lambda: found.append(1))
    make_keys(SOURCE, [_event("1", "body[]#0:0")] * events, DELIVERY)
    assert len(found) == pauses
