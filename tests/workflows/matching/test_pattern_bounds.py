"""Progress never exceeds the bound of the compiled pattern, however many events a subject sends."""

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.workflows.matching.matcher import advance, expire
from app.workflows.matching.pattern_ast import Pattern
from app.workflows.matching.pattern_parser import check, compile_pattern
from app.workflows.matching.progress_json import Progress, next_deadline
from tests.support.pattern_strategies import documents
from tests.support.timelines import START, TimelineEvent, cel_filter, plain_filter, plain_pattern, read_cases

CASES = read_cases()
MANY = 100_000
STREAMS = 2_000
LAST = 2_000


def endless_events(names: list[str], data: list[dict[str, Any]], random: Random) -> Iterator[TimelineEvent]:
    """Some names are frequent, some rare. Time stops, creeps or leaps."""
    weights, second = [random.random() ** 2 + 0.02 for _ in names], 0
    leap = random.choice([[0], [0, 1], [0, 0, 1, 5], [1, 60, 600]])
    for index in count():
        second += random.choice(leap)
        [name] = random.choices(names, weights)
        yield TimelineEvent(f"{index:036d}", name, START + timedelta(seconds=second), random.choice(data))


def advance_all(pattern: Pattern, events: Iterator[TimelineEvent], number: int) -> Iterator[Progress]:
    """The progress after each event."""
    progress: Progress = {}
    for event, _ in zip(events, range(number), strict=False):
        deadline = next_deadline(progress)
        if deadline is not None and deadline < event.received_at:
            progress = expire(progress, deadline).progress
        progress = advance(pattern, progress, event).progress
        yield progress


def assert_bounded(pattern: Pattern, progress: Progress) -> None:
    assert count_references(progress) <= pattern.bound.references
    assert len(progress.get("events", {})) <= pattern.bound.references
    assert len(json.dumps(progress, separators=(",", ":"))) <= pattern.bound.max_bytes(id_length=36)


def count_references(written: Any) -> int:
    """The number of event references under every `used`."""
    if isinstance(written, list):
        return sum(map(count_references, written))
    if isinstance(written, dict):
        return len(written.get("used", [])) + sum(map(count_references, written.values()))
    return 0


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_progress_is_small_after_many_events(case: dict[str, Any]) -> None:
    pattern = compile_pattern(case["pattern"], cel_filter)
    names = sorted({event[0] for event in case["events"]})
    data = [event[2] if len(event) > 2 else {} for event in case["events"]]
    for index, progress in enumerate(advance_all(pattern, endless_events(names, data, Random(1)), MANY)):
        if index >= MANY - LAST:
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
        for progress in advance_all(pattern, endless_events([*"abcd"], [{}], Random(seed)), 300):
            assert_bounded(pattern, progress)


@settings(max_examples=STREAMS, database=None, suppress_health_check=list(HealthCheck))
@given(documents, st.integers(0, 2**32))
def test_no_pattern_exceeds_its_bound(document: Any, seed: int) -> None:
    if not check(document, plain_filter):
        pattern = plain_pattern(document)
        for progress in advance_all(pattern, endless_events([*"abc"], [{}, {"x": 0}, {"x": 1}], Random(seed)), 60):
            assert_bounded(pattern, progress)


def test_the_bound_of_two_competing_members_is_reached() -> None:
    """If two members compete for their first event, the Pareto front holds two assignments: the bound is exact."""
    pattern = plain_pattern({"all": [{"seq": ["a", "b"], "within": "9s"}, {"seq": ["a", "c"], "within": "9s"}]})
    largest = 0
    for seed in range(20):
        for progress in advance_all(pattern, endless_events([*"abc"], [{}], Random(seed)), 300):
            largest = max(largest, count_references(progress))
    assert largest == pattern.bound.references


def test_a_count_to_a_thousand_remembers_999_events() -> None:
    pattern = plain_pattern({"times": 1000, "of": "a", "within": "1d"})
    *_, progress = advance_all(pattern, endless_events(["a"], [{}], Random(5)), 999)
    assert len(progress["events"]) == pattern.bound.references == 999


def test_partial_matches_whose_windows_have_ended_are_dropped() -> None:
    pattern = plain_pattern({"all": [{"times": 3, "of": "a"}, "b"], "within": "1m"})
    progress: Progress = {}
    for second in range(2):
        progress = advance(
            pattern, progress, TimelineEvent(f"{second}", "a", START + timedelta(seconds=second))
        ).progress
    later = advance(pattern, progress, TimelineEvent("3", "b", START + timedelta(seconds=100))).progress
    assert [*later["events"].values()] == [["3", "2026-10-18T12:01:40+00:00"]]
