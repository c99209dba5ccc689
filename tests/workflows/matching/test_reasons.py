"""Why a workflow did not start, for an event that did not match."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.workflows.matching.rule import NO_MATCH_STATE, compile_rule, view_event
from tests.support.action_contexts import an_event


@pytest.mark.parametrize(
    ("on", "reason"),
    [
        ({"event": "order", "where": "data.price > 5"}, "the filter is false"),
        ({"event": "order", "where": "data.name > 5"}, "on.where: data.name is missing"),
        ({"seq": [{"event": "order", "where": "data.price > 5"}, "paid"]}, "the filter is false; nothing yet"),
        ({"seq": ["paid", {"event": "order", "where": "data.price < 5"}]}, "not expected now; nothing yet"),
    ],
)
def test_a_workflow_with_again_says_whether_its_filter_is_false(on: object, reason: str) -> None:
    rule = compile_rule(UUID(int=1), "w", 1, {"on": on, "again": "once"})
    event = view_event(an_event(event="order", data={"price": 1}))
    decision = rule.explain(NO_MATCH_STATE, event, rule.advance(NO_MATCH_STATE, event))
    assert decision.reason == reason
