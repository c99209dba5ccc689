"""The conformance cases hold for the matcher, the simulation and the exhaustive search. Further rules that no case shows."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.workflows.matching.matcher import advance, expire
from app.workflows.matching.pattern_parser import compile_pattern
from app.workflows.matching.progress_json import next_deadline
from app.workflows.matching.rule import EventView, build_variables, compile_rule
from app.workflows.matching.simulation import simulate
from tests.support.exhaustive_search import judge
from tests.support.timelines import (
    START,
    TimelineEvent,
    a_timeline,
    an_event,
    build_events,
    cel_filter,
    cel_leaf_matches,
    plain_pattern,
    read_cases,
    run_matcher,
    run_pattern,
    seconds_since_start,
)

CASES = read_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


@each_case
def test_the_matcher_agrees_with_the_case(case: dict[str, Any]) -> None:
    observed = run_matcher(compile_pattern(case["pattern"], cel_filter), a_timeline(case["events"]))
    assert list(observed.matches) == case["fires_on"]
    assert list(observed.deadline_matches) == case["fires_at"]
    assert [index for index, yes in enumerate(observed.contributing) if yes] == case["contributing"]


@each_case
def test_the_exhaustive_search_agrees_with_the_case(case: dict[str, Any]) -> None:
    verdict = judge(case["pattern"], a_timeline(case["events"]), cel_leaf_matches)
    assert list(verdict.matches) == case["fires_on"]
    assert list(verdict.deadline_matches) == case["fires_at"]
    assert [index for index, yes in enumerate(verdict.contributing) if yes] == case["contributing"]


@each_case
def test_a_step_by_step_run_agrees_with_the_case(case: dict[str, Any]) -> None:
    events = build_events(a_timeline(case["events"]))
    steps = list(run_pattern(compile_pattern(case["pattern"], cel_filter), events, until=events[-1].received_at))
    matched = [step for step in steps if step.result.matched]
    assert [events.index(step.event) for step in matched if isinstance(step.event, TimelineEvent)] == case["fires_on"]
    at = [START + timedelta(seconds=second) for second in case["fires_at"]]
    assert [step.at for step in matched if step.event is None] == at


@each_case
def test_the_simulation_agrees_with_the_case(case: dict[str, Any]) -> None:
    rule = compile_rule(UUID(int=0), "case", 1, {"on": case["pattern"]})
    events = [view_event(index, event) for index, event in enumerate(build_events(a_timeline(case["events"])))]
    steps = list(simulate(rule, events))
    started = [step for step in steps if step.started]
    assert [events.index(step.event) for step in started if step.event is not None] == case["fires_on"]
    last = events[-1].received_at
    deadlines = [seconds_since_start(step.at) for step in started if step.event is None and step.at < last]
    assert deadlines == case["fires_at"]
    contributing = [events.index(step.event) for step in steps if step.event is not None and step.contributing]
    assert contributing == case["contributing"]


def view_event(index: int, event: TimelineEvent) -> EventView:
    variables = build_variables(event.event, "jane", None, event.data, event.received_at)
    return EventView(str(UUID(int=index)), event.event, event.received_at, variables)


def test_a_run_without_an_end_waits_for_the_last_deadline() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    first, last = run_pattern(pattern, [an_event(0, "a", 0)])
    assert (first.result.matched, last.result.matched) == (False, True)
    assert last.at == START + timedelta(seconds=10)
    assert last.result.used == ("e0",)


def test_a_match_lists_the_events_used_in_order() -> None:
    pattern = plain_pattern({"seq": ["a", {"all": ["b", "c"]}, "d"]})
    *_, last = run_pattern(pattern, build_events(a_timeline([["a", 0], ["c", 1], ["x", 2], ["b", 3], ["d", 4]])))
    assert last.result.used == ("e0", "e1", "e3", "e4")


def test_of_several_matches_the_one_that_began_last_is_used() -> None:
    pattern = plain_pattern({"seq": ["a", "b"]})
    *_, last = run_pattern(pattern, build_events(a_timeline([["a", 0], ["a", 1], ["b", 2]])))
    assert last.result.used == ("e1", "e2")


def test_an_event_at_the_deadline_is_before_the_deadline() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    armed = advance(pattern, {}, an_event(0, "a", 0))
    assert advance(pattern, armed.progress, an_event(1, "b", 10)).deadline is None


def test_an_event_after_an_armed_deadline_is_refused_until_the_deadline_is_expired() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    armed = advance(pattern, {}, an_event(0, "a", 0))
    with pytest.raises(ValueError, match="expire it first"):
        advance(pattern, armed.progress, an_event(1, "chat", 11))


def test_a_deadline_does_not_expire_early() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    armed = advance(pattern, {}, an_event(0, "a", 0))
    assert expire(armed.progress, START + timedelta(seconds=9)) == (armed.progress, False, ())
    assert expire(armed.progress, START + timedelta(seconds=10)) == ({}, True, ("e0",))


def test_the_first_of_two_armed_deadlines_counts() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    progress = advance(pattern, {}, an_event(0, "a", 0)).progress
    second = advance(pattern, progress, an_event(1, "a", 5))
    assert second.contributing
    assert next_deadline(second.progress) == START + timedelta(seconds=10)


def test_an_event_can_both_disarm_and_arm_a_deadline() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "a", "for": "10s"}]})
    progress = advance(pattern, {}, an_event(0, "a", 0)).progress
    assert advance(pattern, progress, an_event(1, "a", 5)).deadline == START + timedelta(seconds=15)


def test_a_failed_filter_is_false_and_has_a_reason() -> None:
    pattern = compile_pattern({"seq": ["b", {"event": "a", "where": "data.total > 1000"}]}, cel_filter)
    result = advance(pattern, {}, an_event(0, "a", 0, {"total": "1001"}))
    assert not result.contributing
    [(path, reason)] = result.failures
    assert path == "on.seq[1].where"
    assert "overload" in reason


def test_a_filter_is_evaluated_once_however_often_the_pattern_repeats_it() -> None:
    evaluated: list[str] = []

    def compile_filter(text: str) -> Any:
        def passes(event: TimelineEvent) -> bool:
            evaluated.append(f"{event.id} {text}")
            return True

        return passes

    leaf = {"event": "a", "where": "…"}
    advance(compile_pattern({"all": [leaf, leaf, leaf]}, compile_filter), {}, an_event(0, "a", 0))
    assert evaluated == ["e0 …"]


def test_an_event_that_the_pattern_does_not_read_leaves_progress_unchanged() -> None:
    pattern = plain_pattern({"seq": ["a", "b"], "unless": "x"})
    progress = advance(pattern, {}, an_event(0, "a", 0)).progress
    assert advance(pattern, progress, an_event(1, "chat", 1)).progress is progress


def test_the_names_of_a_pattern_include_the_cancelling_ones() -> None:
    assert plain_pattern({"seq": ["a", {"none": "b", "for": "1s"}], "unless": "x"}).names == {"a", "b", "x"}


def test_progress_is_readable_json() -> None:
    pattern = plain_pattern({"times": 3, "of": "a", "within": "1h"})
    progress = advance(pattern, {}, an_event(0, "a", 0)).progress
    assert advance(pattern, progress, an_event(1, "a", 60)).progress == {
        "events": {"1": ["e0", "2026-10-18T12:00:00+00:00"], "2": ["e1", "2026-10-18T12:01:00+00:00"]},
        "open": {
            "on": [
                {"used": [2], "until": "2026-10-18T13:01:00+00:00"},
                {"used": [1], "until": "2026-10-18T13:00:00+00:00"},
            ]
        },
    }
