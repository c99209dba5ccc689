"""The order of the steps of a document, and the mistakes in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.workflows import step_graph, validate_steps

URL = "https://example.com/hook"
NESTED: dict[str, Any] = {
    "steps": [
        {"log": "0"},
        {
            "if": "true",
            "then": [{"log": "1t0"}, {"if": "true", "then": [{"log": "1t1t0"}], "else": [{"log": "1t1e0"}]}],
            "else": [{"log": "1e0"}, {"log": "1e1"}],
        },
        {"wait": "1m"},
    ]
}


def mistakes(*document: Any) -> list[tuple[str, str]]:
    return validate_steps.check(list(document), lambda leaf, path: [])


def paths(*document: Any) -> list[str]:
    return [path for path, _ in mistakes(*document)]


@pytest.mark.parametrize(
    ("at", "next_step"),
    [
        ("steps[0]", "steps[1]"),
        ("steps[1]", "steps[2]"),
        ("steps[2]", None),
        ("steps[1].then[0]", "steps[1].then[1]"),
        ("steps[1].then[1]", "steps[2]"),
        ("steps[1].then[1].then[0]", "steps[2]"),
        ("steps[1].then[1].else[0]", "steps[2]"),
        ("steps[1].else[0]", "steps[1].else[1]"),
        ("steps[1].else[1]", "steps[2]"),
    ],
)
def test_the_last_step_of_a_block_is_followed_by_the_step_after_the_block(at: str, next_step: str | None) -> None:
    assert step_graph.next_step(NESTED, at) == next_step


BRANCHING: dict[str, Any] = {
    "steps": [
        {"log": "0", "then": [{"log": "0t0"}], "else": [{"log": "0e0"}]},
        {
            "par": [
                [{"log": "p0"}, {"wait": "1m"}],
                [],
                [{"par": [[{"log": "p2p0"}], [{"log": "p2p1"}]]}, {"log": "p21"}],
            ]
        },
        {"repeat": [{"log": "r0"}, {"if": "true", "then": [{"log": "r1t0"}]}], "until": "true"},
        {"log": "3"},
    ]
}


@pytest.mark.parametrize(
    ("at", "next_step"),
    [
        ("steps[0].then[0]", "steps[1]"),
        ("steps[0].else[0]", "steps[1]"),
        ("steps[1]", "steps[2]"),
        ("steps[1].par[0][0]", "steps[1].par[0][1]"),
        ("steps[1].par[0][1]", None),
        ("steps[1].par[2][0]", "steps[1].par[2][1]"),
        ("steps[1].par[2][0].par[1][0]", None),
        ("steps[2].repeat[0]", "steps[2].repeat[1]"),
        ("steps[2].repeat[1]", "steps[2]"),
        ("steps[2].repeat[1].then[0]", "steps[2]"),
        ("steps[2]", "steps[3]"),
    ],
)
def test_a_round_returns_to_its_repeat_and_a_block_of_par_ends(at: str, next_step: str | None) -> None:
    assert step_graph.next_step(BRANCHING, at) == next_step


def test_the_blocks_of_a_par_are_those_with_steps() -> None:
    assert step_graph.parallel_blocks(BRANCHING, "steps[1]") == [(0, "steps[1].par[0][0]"), (2, "steps[1].par[2][0]")]


_BLOCK = st.deferred(lambda: st.lists(_STEP, max_size=3))
_STEP = st.one_of(
    st.just({"log": "x"}),
    st.builds(lambda then, other: {"log": "x", "then": then, "else": other}, _BLOCK, _BLOCK),
    st.builds(lambda then: {"if": "true", "then": then}, _BLOCK),
    st.builds(lambda blocks: {"par": blocks}, st.lists(_BLOCK, min_size=2, max_size=3)),
    st.builds(lambda body: {"repeat": [{"log": "x"}, *body], "until": "true"}, _BLOCK),
)


@settings(max_examples=40)
@given(st.lists(_STEP, min_size=1, max_size=3))
def test_every_next_step_is_a_step_of_the_document(found: list[Any]) -> None:
    document = {"steps": found}
    known = dict(_paths(found, "steps"))
    assert len(known) == len(list(step_graph.walk_steps(found)))
    for at, step in known.items():
        assert step_graph.find_step(document, at) is step
        for branch in ("then", "else", "repeat"):
            assert step_graph.enter_block(document, at, branch) in {None, *known}
        if "par" in step:
            assert {start for _, start in step_graph.parallel_blocks(document, at)} <= known.keys()


def _paths(found: list[Any], path: str) -> Iterator[tuple[str, Any]]:
    for index, step in enumerate(found):
        yield f"{path}[{index}]", step
        for below, block in step_graph.blocks_in(step):
            yield from _paths(block, f"{path}[{index}].{below}")


def test_the_order_of_values_is_stored() -> None:
    stored = step_graph.to_stored(
        [{"if": "x", "then": [{"set": {"b": "1", "a": "2"}}]}, {"par": [[{"set": {"c": "3"}}], "x"]}, 7]
    )
    assert stored[0]["then"] == [{"set": [{"b": "1"}, {"a": "2"}]}]
    assert stored[1:] == [{"par": [[{"set": [{"c": "3"}]}], "x"]}, 7]
    assert step_graph.list_assignments(stored[0]["then"][0]) == [("b", "1"), ("a", "2")]


@pytest.mark.parametrize(
    ("at", "text"), [("steps[0]", "0"), ("steps[1].else[1]", "1e1"), ("steps[1].then[1].else[0]", "1t1e0")]
)
def test_a_step_is_found_by_its_path(at: str, text: str) -> None:
    assert step_graph.find_step(NESTED, at) == {"log": text}


@pytest.mark.parametrize("at", ["steps[9]", "steps[1].then[7]", "nonsense", "steps"])
def test_an_unknown_path_is_an_error(at: str) -> None:
    with pytest.raises(LookupError):
        step_graph.find_step(NESTED, at)


@pytest.mark.parametrize("step", [{"wait": "30m"}, {"id": "a", "wait": "1s"}, {"log": "x"}, {"http": {"url": URL}}])
def test_a_valid_step_has_no_mistakes(step: dict[str, Any]) -> None:
    assert mistakes(step) == []


def test_the_verb_of_a_step_is_found() -> None:
    assert step_graph.find_verb({"id": "a", "retry": {}, "http": {"url": URL}}) == "http"
    assert step_graph.find_verb({"wait": "1m"}) == "wait"


@pytest.mark.parametrize(
    ("step", "path"),
    [
        ("wait", "steps[0]"),
        ({}, "steps[0]"),
        ({"id": "a"}, "steps[0]"),
        ({"log": "x", "wait": "1m"}, "steps[0]"),
        ({"lgo": "x", "log": "x"}, "steps[0].lgo"),
        ({"wait": "1x"}, "steps[0].wait"),
        ({"wait": 30}, "steps[0].wait"),
        ({"wait": "1m", "retry": {}}, "steps[0].retry"),
        ({"wait": "1m", "timeout": "1s"}, "steps[0].timeout"),
        ({"log": "x", "timeout": "3m"}, "steps[0].timeout"),
        ({"log": "x", "timeout": 3}, "steps[0].timeout"),
        ({"log": "x", "retry": {"attempts": 0}}, "steps[0].retry.attempts"),
        ({"log": "x", "id": "1st"}, "steps[0].id"),
        ({"log": "x", "id": 1}, "steps[0].id"),
        ({"log": "{{ data.x"}, "steps[0].log"),
        ({"http": {"url": "ftp://example.com"}}, "steps[0].http.url"),
        ({"http": {"url": URL, "json": {"a": ["{% nope %}"]}}}, "steps[0].http.json.a[0]"),
    ],
)
def test_a_mistake_has_its_path(step: Any, path: str) -> None:
    assert paths(step) == [path]


def test_an_id_is_used_once() -> None:
    assert paths({"id": "a", "log": "x"}, {"id": "a", "log": "y"}) == ["steps[1].id"]


def test_a_step_can_use_earlier_steps() -> None:
    assert mistakes({"id": "call", "http": {"url": URL}}, {"log": "{{ steps.call.status }}"}) == []


def test_a_step_cannot_use_itself_or_later_steps() -> None:
    later = {"id": "call", "http": {"url": URL, "body": "{{ steps.call.status }}"}}
    assert paths({"log": "{{ steps.call.status }}"}, later) == ["steps[0].log", "steps[1].http.body"]


def test_all_mistakes_are_found_at_once() -> None:
    found = paths(
        {"wait": "soon"},
        {"http": {"method": "CALL", "headers": {"Host": "x"}}, "retry": {"first": "x"}, "timeout": "x"},
        {"log": "{{ nope }}", "id": "a b"},
        {"shout": "x"},
    )
    assert sorted(found) == [
        "steps[0].wait",
        "steps[1].http.headers.Host",
        "steps[1].http.method",
        "steps[1].http.url",
        "steps[1].retry.first",
        "steps[1].timeout",
        "steps[2].id",
        "steps[2].log",
        "steps[3]",
        "steps[3].shout",
    ]


@pytest.mark.parametrize("value", [None, "log", {"log": "x"}, []])
def test_steps_must_be_a_list_that_is_not_empty(value: Any) -> None:
    assert [path for path, _ in validate_steps.check(value, lambda leaf, path: [])] == ["steps"]


def test_the_number_of_steps_is_limited() -> None:
    assert paths(*[{"log": "x"}] * (step_graph.MAX_STEPS + 1)) == ["steps"]
