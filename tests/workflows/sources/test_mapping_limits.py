"""Limits of mapping: members, data and work; and what holds for every body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.exact_json import ExactTexts
from app.workflows.expressions.cel import compile_expression
from app.workflows.sources.document import compile_source
from app.workflows.sources.mapping import DeliveryView, map_delivery
from app.workflows.sources.mapping_values import PathValue, Scope, Work, compile_value
from app.workflows.sources.paths import MISSING
from tests.support.mapped_bodies import FORM, JSON, NAMED, map_body, one_event


def test_too_many_members_are_one_problem() -> None:
    events, (problem,) = map_body([1] * 5_001, events=[{"each": "body[]"}], map=NAMED)
    assert (events, problem.path) == ([], "events")
    assert problem.message == "the delivery has 5,001 members; at most 5,000 can become events"
    events, problems = map_body([1] * 5_000, events=[{"each": "body[]"}], map=NAMED)
    assert (len(events), problems) == (5_000, [])


def test_members_of_empty_lists_are_counted() -> None:
    events, (problem,) = map_body([[]] * 50_001, events=[{"each": "body[][]"}], map=NAMED)
    assert (events, problem.message) == ([], "goes through more than 50,000 members of lists")


def test_data_that_are_too_large_together_are_one_problem() -> None:
    body = {"filler": "x" * 1_000_000, "lines": list(range(40))}
    events, (problem,) = map_body(body, events=[{"each": "body.lines[]"}], map={**NAMED, "data": "body"})
    assert (events, problem.path) == ([], "map.data")
    assert "33,554,432 characters" in problem.message


HOSTILE_TEMPLATE = "{% for a in (1..9000) %}{% for b in (1..9000) %}{{ b }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "value",
    [
        HOSTILE_TEMPLATE,
        "{% for a in body.numbers %}{{ body.numbers | join: ',' | size }}{% endfor %}",
        "body.numbers.all(a, body.numbers.all(b, a + b > 0)) ? 'x' : 'y'",
    ],
)
def test_a_value_that_needs_too_much_work_is_a_problem(value: str) -> None:
    body = {"numbers": list(range(3_000))}
    events, (problem,) = map_body(body, map={"event": [value, "'fallback'"], "distinct_id": "'p'"})
    assert (events, problem.path) == ([], "map")
    assert problem.message.startswith("from here on, the values need too much work: ")


def test_a_text_that_is_too_large_is_nothing() -> None:
    rule = {"event": ["{{ body.text }}", "'fallback'"], "distinct_id": "'p'"}
    assert one_event({"text": "x" * 70_000}, map=rule).event == "fallback"


def test_members_share_the_budget_of_their_delivery() -> None:
    value = "{% for a in body.filler %}{% if a %}{% endif %}{% endfor %}x"
    body = {"filler": [1] * 100, "lines": [1] * 1_000}
    rule = {"event": value, "distinct_id": "'p'", "data": "item"}
    events, (problem,) = map_body(body, events=[{"each": "body.lines[]"}], map=rule)
    assert 100 < len(events) < 1_000
    assert (problem.item, problem.path) == (len(events), "map")
    assert "too much work" in problem.message


def test_an_object_of_large_data_is_given_up_early() -> None:
    data = dict.fromkeys(map(str, range(200)), "body")
    events, (problem,) = map_body({"filler": "x" * 1_000_000}, map={**NAMED, "data": data})
    assert (events, problem.path) == ([], "map.data")
    assert "33,554,432 characters" in problem.message


def test_a_mistake_of_the_code_is_a_problem_and_no_exception() -> None:
    compiled = compile_source({"name": "s", "verify": "none", "map": {"event": "body.type", "distinct_id": "body.who"}})
    broken: Any = DeliveryView("POST", {}, None, b"{}", JSON)  # type: ignore[arg-type]
    events, (problem,) = map_delivery(compiled.mapping, broken)
    assert (events, problem.path) == ([], "map")
    assert problem.message.startswith("the delivery cannot be mapped: AttributeError")


# Properties

NAMES = st.sampled_from(["a", "b", "event-data", "é", "0"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=15,
)
PARTS = st.lists(NAMES.map(lambda name: f"['{name}']") | st.integers(0, 2).map(lambda index: f"[{index}]"), max_size=4)


def a_scope(body: Any) -> Scope:
    return Scope({"body": body, "headers": {}, "query": {}}, ExactTexts(json.dumps(body).encode()), Work())


@given(TREES, PARTS)
def test_a_path_finds_what_cel_finds(body: Any, parts: list[str]) -> None:
    text = "body" + "".join(parts)
    path = compile_value(text)
    assert isinstance(path, PathValue)
    found = path.find(a_scope(body))
    value, reason = compile_expression(text, ("body",)).value({"body": body})
    if found is MISSING:
        assert reason is not None
    else:
        assert (found, type(found), reason) == (value, type(value), None)
        assert json.loads(path.to_json(a_scope(body), found)) == found


@settings(max_examples=200)
@given(TREES, st.sampled_from([JSON, FORM, "text/plain", ""]), st.binary(max_size=20))
def test_mapping_never_raises(body: Any, media_type: str, raw: bytes) -> None:
    values = ["body.a", "{{ body.b }}", "body.a.b + 1", "item.a", "parents[0].a", "string(item) + 'x'"]
    rule = dict.fromkeys(("event", "distinct_id", "phone", "data", "occurred_at", "dedupe"), values)
    entries = [{"each": each} for each in ("body[]", "body.a[]", "body.a[].b[]", "body[][][]")]
    for sent in (body, raw):
        events, problems = map_body(sent, media_type=media_type, events=entries, map=rule, region="IN")
        assert all(problem.path != "map" for problem in problems)
        assert all(json.loads(event.data_json) == event.data for event in events)
