"""Progress stays under the bound that compiling computes, however many events a subject sends."""

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.workflows.matching.matcher import Pattern, Progress, advance, check, compile_pattern, expire, next_deadline
from tests.support.pattern_strategies import documents
from tests.support.timelines import START, AnEvent, cel_filter, plain_filter, plain_pattern, read_cases

CASES = read_cases()
MANY = 100_000
STREAMS = 2_000
LAST = 2_000


def events_without_end(names: list[str], data: list[dict[str, Any]], random: Random) -> Iterator[AnEvent]:
    """Some names come often, some rarely; time stands still, creeps or leaps."""
    weights, second = [random.random() ** 2 + 0.02 for _ in names], 0
    leap = random.choice([[0], [0, 1], [0, 0, 1, 5], [1, 60, 600]])
    for place in count():
        second += random.choice(leap)
        [name] = random.choices(names, weights)
        yield AnEvent(f"{place:036d}", name, START + timedelta(seconds=second), random.choice(data))


def follow(pattern: Pattern, events: Iterator[AnEvent], number: int) -> Iterator[Progress]:
    """The progress after each event."""
    progress: Progress = {}
    for event, _ in zip(events, range(number), strict=False):
        deadline = next_deadline(progress)
        if deadline is not None and deadline < event.received_at:
            progress = expire(progress, deadline).progress
        progress = advance(pattern, progress, event).progress
        yield progress


def assert_bounded(pattern: Pattern, progress: Progress) -> None:
    assert references_in(progress) <= pattern.bound.references
    assert len(progress.get("events", {})) <= pattern.bound.references
    assert len(json.dumps(progress, separators=(",", ":"))) <= pattern.bound.size(id_length=36)


def references_in(written: Any) -> int:
    """All numbers under `used`, wherever they are."""
    if isinstance(written, list):
        return sum(map(references_in, written))
    if isinstance(written, dict):
        return len(written.get("used", [])) + sum(map(references_in, written.values()))
    return 0


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_progress_is_small_after_many_events(case: dict[str, Any]) -> None:
    pattern = compile_pattern(case["pattern"], cel_filter)
    names = sorted({event[0] for event in case["events"]})
    data = [event[2] if len(event) > 2 else {} for event in case["events"]]
    for place, progress in enumerate(follow(pattern, events_without_end(names, data, Random(1)), MANY)):
        if place >= MANY - LAST:
            assert_bounded(pattern, progress)


LARGE = [
    {"times": 200, "of": "a", "within": "1h"},
    {"times": 20, "of": {"seq": ["a", "b"], "within": "10s"}, "within": "1h"},
    {"times": 5, "of": {"times": 5, "of": "a", "within": "5s"}},
    {"seq": [{"times": 10, "of": "a"}, {"times": 10, "of": "b"}], "within": "1h"},
    {"seq": [{"all": ["a", "b"], "within": "9s"}, {"times": 4, "of": {"any": ["a", {"seq": ["b", "c"]}]}}, "d"]},
    {"all": [{"times": 9, "of": "a"}, {"times": 9, "of": "b"}, {"seq": ["c", "d", "c"]}], "within": "1m"},
    {"all": [{"seq": ["a", "b"], "within": "9s"}, {"seq": ["a", "c"], "within": "9s"}]},
    {"all": [{"seq": ["a", "b", "c"], "within": "9s"}, {"seq": ["a", "c", "b"], "within": "20s"}, "d"], "within": "1m"},
    {"all": [{"times": 4, "of": "a", "within": "9s"}, {"times": 4, "of": "a", "within": "30s"}]},
    {"all": [{"times": 2, "of": {"seq": ["a", "b"], "within": "9s"}, "within": "30s"}, {"seq": ["a", "b"]}]},
    {"all": [{"seq": ["a", {"all": ["a", "b"], "within": "9s"}], "within": "1m"}, {"seq": ["a", "c"], "within": "9s"}]},
    {"times": 3, "of": {"all": [{"seq": ["a", "b"], "within": "9s"}, {"seq": ["a", "b", "c"]}]}, "within": "1h"},
    {"all": [{"seq": ["*", "a"], "within": "9s"}, {"seq": ["b", "*"], "within": "9s"}, "c"]},
    {"seq": [{"all": ["a", {"seq": ["a", "b"], "within": "9s"}]}, {"none": "c", "for": "5s"}], "within": "1m"},
]  # fmt: skip


@pytest.mark.parametrize("document", LARGE, ids=str)
def test_no_stream_of_events_exceeds_the_bound(document: Any) -> None:
    pattern = plain_pattern(document)
    for seed in range(20):
        for progress in follow(pattern, events_without_end([*"abcd"], [{}], Random(seed)), 300):
            assert_bounded(pattern, progress)


@settings(max_examples=STREAMS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(documents, st.integers(0, 2**32))
def test_no_pattern_exceeds_its_bound(document: Any, seed: int) -> None:
    if not check(document, plain_filter):
        pattern = plain_pattern(document)
        for progress in follow(pattern, events_without_end([*"abc"], [{}, {"x": 0}, {"x": 1}], Random(seed)), 60):
            assert_bounded(pattern, progress)


def test_a_bound_that_is_reached() -> None:
    """Where two members compete for their first event the frontier holds two strands: bound and stream agree."""
    pattern = plain_pattern({"all": [{"seq": ["a", "b"], "within": "9s"}, {"seq": ["a", "c"], "within": "9s"}]})
    largest = 0
    for seed in range(20):
        for progress in follow(pattern, events_without_end([*"abc"], [{}], Random(seed)), 300):
            largest = max(largest, references_in(progress))
    assert largest == pattern.bound.references


def test_a_count_to_a_thousand_remembers_less_than_a_thousand_events() -> None:
    pattern = plain_pattern({"times": 1000, "of": "a", "within": "1d"})
    *_, progress = follow(pattern, events_without_end(["a"], [{}], Random(5)), 999)
    assert len(progress["events"]) == pattern.bound.references == 999


def test_windows_that_have_passed_leave_nothing_behind() -> None:
    pattern = plain_pattern({"all": [{"times": 3, "of": "a"}, "b"], "within": "1m"})
    progress: Progress = {}
    for second in range(2):
        progress = advance(pattern, progress, AnEvent(f"{second}", "a", START + timedelta(seconds=second))).progress
    later = advance(pattern, progress, AnEvent("3", "b", START + timedelta(seconds=100))).progress
    assert [*later["events"].values()] == [["3", "2026-10-18T12:01:40+00:00"]]
