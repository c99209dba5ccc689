"""The conformance cases hold for the matcher, for the simulation and for the exhaustive search; and what the language
says that no case shows."""

from datetime import timedelta
from typing import Any

import pytest

from app.workflows.matching.matcher import advance, compile_pattern, expire, next_deadline, simulate
from tests.support.exhaustive_search import judge
from tests.support.timelines import (
    START,
    AnEvent,
    a_timeline,
    an_event,
    cel_filter,
    cel_fits,
    events_of,
    plain_pattern,
    read_cases,
    watch,
)

CASES = read_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


@each_case
def test_the_matcher_agrees_with_the_case(case: dict[str, Any]) -> None:
    seen = watch(compile_pattern(case["pattern"], cel_filter), a_timeline(case["events"]))
    assert list(seen.fires) == case["fires_on"]
    assert list(seen.clock_fires) == case["fires_at"]
    assert [place for place, yes in enumerate(seen.contributing) if yes] == case["contributing"]


@each_case
def test_the_exhaustive_search_agrees_with_the_case(case: dict[str, Any]) -> None:
    verdict = judge(case["pattern"], a_timeline(case["events"]), cel_fits)
    assert list(verdict.fires) == case["fires_on"]
    assert list(verdict.clock_fires) == case["fires_at"]
    assert [place for place, yes in enumerate(verdict.contributing) if yes] == case["contributing"]


@each_case
def test_the_simulation_agrees_with_the_case(case: dict[str, Any]) -> None:
    events = events_of(a_timeline(case["events"]))
    happenings = list(simulate(compile_pattern(case["pattern"], cel_filter), events, until=events[-1].received_at))
    fired = [happening for happening in happenings if happening.result.fired]
    assert [events.index(each.event) for each in fired if isinstance(each.event, AnEvent)] == case["fires_on"]
    at = [START + timedelta(seconds=second) for second in case["fires_at"]]
    assert [each.at for each in fired if each.event is None] == at


def test_a_simulation_without_an_end_waits_for_the_last_deadline() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    first, last = simulate(pattern, [an_event(0, "a", 0)])
    assert (first.result.fired, last.result.fired) == (False, True)
    assert last.at == START + timedelta(seconds=10)
    assert last.result.matched == ("e0",)


def test_matched_holds_the_events_used_in_order() -> None:
    pattern = plain_pattern({"seq": ["a", {"all": ["b", "c"]}, "d"]})
    *_, last = simulate(pattern, events_of(a_timeline([["a", 0], ["c", 1], ["x", 2], ["b", 3], ["d", 4]])))
    assert last.result.matched == ("e0", "e1", "e3", "e4")


def test_matched_is_the_match_that_began_last() -> None:
    pattern = plain_pattern({"seq": ["a", "b"]})
    *_, last = simulate(pattern, events_of(a_timeline([["a", 0], ["a", 1], ["b", 2]])))
    assert last.result.matched == ("e1", "e2")


def test_an_event_at_the_deadline_comes_before_the_deadline() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    armed = advance(pattern, {}, an_event(0, "a", 0))
    assert advance(pattern, armed.progress, an_event(1, "b", 10)).deadline is None


def test_an_event_after_an_armed_deadline_is_refused_until_the_deadline_is_expired() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    armed = advance(pattern, {}, an_event(0, "a", 0))
    with pytest.raises(ValueError, match="expire it first"):
        advance(pattern, armed.progress, an_event(1, "chat", 11))


def test_a_deadline_does_not_fire_early() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    armed = advance(pattern, {}, an_event(0, "a", 0))
    assert expire(armed.progress, START + timedelta(seconds=9)) == (armed.progress, False, ())
    assert expire(armed.progress, START + timedelta(seconds=10)) == ({}, True, ("e0",))


def test_the_first_of_two_armed_deadlines_fires() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "b", "for": "10s"}]})
    progress = advance(pattern, {}, an_event(0, "a", 0)).progress
    second = advance(pattern, progress, an_event(1, "a", 5))
    assert second.contributing
    assert next_deadline(second.progress) == START + timedelta(seconds=10)


def test_an_event_that_may_cancel_both_disarms_and_arms() -> None:
    pattern = plain_pattern({"seq": ["a", {"none": "a", "for": "10s"}]})
    progress = advance(pattern, {}, an_event(0, "a", 0)).progress
    assert advance(pattern, progress, an_event(1, "a", 5)).deadline == START + timedelta(seconds=15)


def test_a_failed_filter_is_false_and_says_why() -> None:
    pattern = compile_pattern({"seq": ["b", {"event": "a", "where": "data.total > 1000"}]}, cel_filter)
    result = advance(pattern, {}, an_event(0, "a", 0, {"total": "1001"}))
    assert not result.contributing
    [(path, reason)] = result.failures
    assert path == "on.seq[1].where"
    assert "overload" in reason


def test_a_filter_is_asked_once_however_often_the_pattern_repeats_it() -> None:
    asked: list[str] = []

    def compile_filter(text: str) -> Any:
        def passes(event: AnEvent) -> bool:
            asked.append(f"{event.id} {text}")
            return True

        return passes

    leaf = {"event": "a", "where": "…"}
    advance(compile_pattern({"all": [leaf, leaf, leaf]}, compile_filter), {}, an_event(0, "a", 0))
    assert asked == ["e0 …"]


def test_an_event_that_the_pattern_does_not_read_leaves_progress_alone() -> None:
    pattern = plain_pattern({"seq": ["a", "b"], "unless": "x"})
    progress = advance(pattern, {}, an_event(0, "a", 0)).progress
    assert advance(pattern, progress, an_event(1, "chat", 1)).progress is progress


def test_the_names_include_the_cancelling_ones() -> None:
    assert plain_pattern({"seq": ["a", {"none": "b", "for": "1s"}], "unless": "x"}).names == {"a", "b", "x"}


def test_progress_can_be_read_by_a_person() -> None:
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
