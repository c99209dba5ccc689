"""Other requests run between the values of a mapping that take long."""

from __future__ import annotations

import json

import pytest

from app.workflows.sources import mapping_values
from app.workflows.sources.document import compile_source
from app.workflows.sources.mapping import DeliveryView, map_delivery

DOCUMENT = {
    "name": "shop",
    "map": {
        "event": "'order'",
        "distinct_id": "'1'",
        "data": {f"value{number}": f"body.l.exists(x, x == -{number + 1})" for number in range(5)},
    },
}


@pytest.mark.parametrize(("members", "pauses"), [(2_000, 5), (3, 0)])
def test_there_is_a_pause_after_each_value_that_takes_a_millisecond(
    monkeypatch: pytest.MonkeyPatch, members: int, pauses: int
) -> None:
    found: list[int] = []
    monkeypatch.setattr(mapping_values, "pause_if_due", lambda: found.append(1))
    body = json.dumps({"l": list(range(members))}).encode()
    events, problems = map_delivery(
        compile_source(DOCUMENT).mapping, DeliveryView("POST", {}, {}, body, "application/json")
    )
    assert (len(events), problems) == (1, [])
    assert len(found) == pauses
