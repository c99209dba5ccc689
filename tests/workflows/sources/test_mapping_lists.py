"""Mapping of deliveries that hold lists: members, parents, `where`, and what is no list."""

from __future__ import annotations

from typing import Any

import pytest

from app.workflows.sources.mapping import MappedEvent
from tests.support.mapped_bodies import NAMED, map_body, one_event


def people_of(events: list[MappedEvent]) -> list[str]:
    return [event.distinct_id for event in events]


def test_nested_lists_have_members_and_parents() -> None:
    body = {
        "entry": [
            {"id": "e1", "changes": [{"id": "c1", "messages": [{"id": 1}, {"id": 2}]}, {"id": "c2"}]},
            {"id": "e2", "changes": []},
            {"id": "e3", "changes": [{"id": "c3", "messages": [{"id": 3}]}]},
            None,
        ]
    }
    value = "{{ parents[0].id }}/{{ parents[1].id }}/{{ item.id }}"
    for text in (value, "parents[0].id + '/' + parents[1].id + '/' + string(item.id)"):
        events, problems = map_body(
            body, events=[{"each": "body.entry[].changes[].messages[]"}], map={"event": "'x'", "distinct_id": text}
        )
        assert problems == []
        assert people_of(events) == ["e1/c1/1", "e1/c1/2", "e3/c3/3"]


def test_data_of_parents_keep_their_exact_text() -> None:
    body = '{"a": [{"n": 1.50, "b": [{"c": 1}]}]}'
    rule = {**NAMED, "data": {"n": "parents[0].n", "all": "parents[0]", "list": "parents"}}
    event = one_event(body, events=[{"each": "body.a[].b[]"}], map=rule)
    assert event.data_json == '{"n":1.50,"all":{"n": 1.50, "b": [{"c": 1}]},"list":[{"n":1.5,"b":[{"c":1}]}]}'


def test_where_selects_members() -> None:
    body = {"lines": [{"n": 1}, {"n": 0}, {}, {"n": 2}]}
    events, problems = map_body(
        body,
        events=[{"each": "body.lines[]", "where": "item.n > 0 && headers['x-a'] == 'b'"}],
        map={"event": "'x'", "distinct_id": "item.n"},
        headers={"x-a": "b"},
    )
    assert (people_of(events), problems) == (["1", "2"], [])


@pytest.mark.parametrize(
    "where", ["item.no.x == 1", "item.nil.x > 1", "item.list[3].x == 1", "item.nil.x.y == 'a' && true"]
)
def test_a_where_is_not_true_if_a_member_is_missing(where: str) -> None:
    body = [{"nil": None, "list": []}]
    assert map_body(body, events=[{"each": "body[]", "where": where}], map=NAMED) == ([], [])


def test_a_where_that_cannot_be_evaluated_is_a_problem() -> None:
    entries = [{"each": "body.lines[]", "where": "item.n > 0"}]
    events, (problem,) = map_body({"lines": [{"n": "text"}]}, events=entries, map=NAMED)
    assert events == []
    assert (problem.item, problem.path) == (0, "events[0].where")
    assert "incompatible types" in problem.message


@pytest.mark.parametrize("body", [{"lines": []}, {"lines": [{"n": 0}]}, {"lines": {"n": 0}}])
def test_an_empty_list_and_a_false_where_are_no_problem(body: Any) -> None:
    entries = [{"each": "body.lines[]", "where": "item.n > 0"}]
    assert map_body(body, events=entries, map=NAMED) == ([], [])


@pytest.mark.parametrize("body", [{}, {"items": [1]}, {"lines": None}, [], {"lines": [{}], "other": {"items": None}}])
def test_a_delivery_without_any_of_the_lists_is_a_problem(body: Any) -> None:
    entries = [{"each": "body.lines[].sub[]"}, {"each": "body.other.items[]"}]
    events, (problem,) = map_body(body, events=entries, map=NAMED)
    assert events == []
    expected = "the delivery has nothing at body.lines[].sub[], body.other.items[]"
    assert (problem.path, problem.message) == ("events", expected)


def test_a_value_that_is_no_list_is_its_only_member() -> None:
    event = one_event({"line": {"sku": "a"}}, events=[{"each": "body.line[]"}], map={**NAMED, "data": "item"})
    assert event.data_json == '{"sku": "a"}'


LINES = {"events": [{"each": "body.orders[].lines[]"}], "map": {**NAMED, "event": "item.kind", "dedupe": "item.id"}}


def dedupe_ids(*orders: list[dict[str, Any]], **document: Any) -> list[str | None]:
    """The dedupe ids of the events that the lines of orders become."""
    body = {"orders": [{"number": number, "lines": lines} for number, lines in enumerate(orders)]}
    return [event.dedupe for event in map_body(body, **{**LINES, **document})[0]]


def a_line(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": "d", "kind": "line", "number": number, **changes}


def test_different_members_with_the_same_dedupe_id_have_ids_of_their_own() -> None:
    assert dedupe_ids([a_line(1), a_line(2), a_line(1), a_line(3)]) == ["d", "d#2", "d", "d#3"]


def test_equal_members_of_different_parents_have_dedupe_ids_of_their_own() -> None:
    assert dedupe_ids([a_line(1)], [a_line(1)]) == ["d", "d#2"]


def test_a_member_that_cannot_be_mapped_keeps_its_dedupe_id() -> None:
    assert dedupe_ids([a_line(1, kind=None), a_line(2)]) == ["d#2"]


@pytest.mark.parametrize("data", [{"kind": "item.kind"}, "item.none", "item"])
def test_a_dedupe_id_does_not_depend_on_the_data(data: Any) -> None:
    rules = {**NAMED, "dedupe": "item.id", "data": [data, "item.number"] if isinstance(data, str) else data}
    assert dedupe_ids([a_line(1), a_line(2)], map=rules) == ["d", "d#2"]


def test_entries_that_make_events_of_one_member_have_dedupe_ids_of_their_own() -> None:
    entry = {"each": "body.orders[].lines[]"}
    gift = {**entry, "where": "item.number == 2", "map": {"event": "'gift'"}}
    assert dedupe_ids([a_line(1, id="a"), a_line(2, id="b")], events=[entry, gift]) == ["a", "b", "b#2"]


def test_thousands_of_members_may_have_one_dedupe_id() -> None:
    filler = "x" * 2_000
    body = {"orders": [{"lines": [{"id": "d", "filler": f"{filler}{number:04}"} for number in range(4_500)]}]}
    events, problems = map_body(body, **{**LINES, "map": {**NAMED, "dedupe": "item.id"}})
    assert (len({event.dedupe for event in events}), problems) == (4_500, [])
