"""Builds events and compiled patterns for matcher tests, and runs the matcher over a timeline."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import cel

from app.workflows.matching.matcher import Advanced, Expired, advance, expire
from app.workflows.matching.pattern_ast import FilterFailed, MatcherEvent, Pattern
from app.workflows.matching.pattern_parser import compile_pattern
from app.workflows.matching.progress_json import Progress, next_deadline

START = datetime(2026, 10, 18, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
CASES_FILES = [
    ROOT.parent / "shared/reference/pattern_cases.json",
    ROOT / "tests/workflows/matching/pattern_cases.json",
]

# Events as (name, second, data).
Timeline = list[tuple[str, int, dict[str, Any]]]


def read_cases() -> list[dict[str, Any]]:
    file = next(file for file in CASES_FILES if file.exists())
    cases: list[dict[str, Any]] = json.loads(file.read_text())
    return cases


@dataclass(frozen=True)
class TimelineEvent:
    id: str
    event: str
    received_at: datetime
    data: dict[str, Any] = field(default_factory=dict)


def an_event(index: int, name: str, second: int, data: dict[str, Any] | None = None) -> TimelineEvent:
    return TimelineEvent(f"e{index}", name, START + timedelta(seconds=second), data or {})


def a_timeline(events: list[Any]) -> Timeline:
    return [(name, second, data[0] if data else {}) for name, second, *data in events]


def build_events(timeline: Timeline) -> list[TimelineEvent]:
    return [an_event(index, *event) for index, event in enumerate(timeline)]


def cel_filter(text: str) -> Callable[[TimelineEvent], bool]:
    """A minimal CEL filter, as large as the cases need it."""
    program = cel.compile(text)

    def passes(event: TimelineEvent) -> bool:
        try:
            return program.execute({"event": event.event, "data": event.data}) is True
        except (KeyError, TypeError, ValueError, RuntimeError) as exc:
            raise FilterFailed(str(exc)) from exc

    return passes


def plain_filter(text: str) -> Callable[[TimelineEvent], bool]:
    """`x == 1`: the only filter of the searches, faster than CEL."""
    value = int(text.removeprefix("x == "))
    return lambda event: event.data.get("x") == value


def plain_leaf_matches(leaf: Any, event: tuple[str, int, dict[str, Any]]) -> bool:
    """The same test for the exhaustive search, read from the document."""
    leaf = {"event": leaf} if isinstance(leaf, str) else leaf
    name, _, data = event
    if leaf["event"] not in ("*", name):
        return False
    return "where" not in leaf or data.get("x") == int(leaf["where"].removeprefix("x == "))


def cel_leaf_matches(leaf: Any, event: tuple[str, int, dict[str, Any]]) -> bool:
    leaf = {"event": leaf} if isinstance(leaf, str) else leaf
    name, second, data = event
    if leaf["event"] not in ("*", name):
        return False
    try:
        return "where" not in leaf or cel_filter(leaf["where"])(an_event(0, name, second, data))
    except FilterFailed:
        return False


def plain_pattern(document: Any) -> Pattern:
    return compile_pattern(document, plain_filter)


class Observed(NamedTuple):
    """What the matcher did: matches by the index of the event, or by the second of the deadline, that completed them,
    with the indexes of the events that they used."""

    matches: dict[int, tuple[int, ...]]
    deadline_matches: dict[int, tuple[int, ...]]
    contributing: list[bool]
    deadlines: list[int | None]


def run_matcher(pattern: Pattern, timeline: Timeline) -> Observed:
    """Advance over the timeline. Progress is stored as JSON text after each event, as in the database."""
    observed, progress = Observed({}, {}, [], []), "{}"
    for index, event in enumerate(build_events(timeline)):
        deadline = next_deadline(json.loads(progress))
        if deadline is not None and deadline < event.received_at:
            expired = expire_text(progress, deadline)
            observed.deadline_matches[seconds_since_start(deadline)] = read_indexes(expired.used)
            progress = json.dumps(expired.progress)
        result = advance_text(pattern, progress, event)
        if result.matched:
            observed.matches[index] = read_indexes(result.used)
        observed.contributing.append(result.contributing)
        observed.deadlines.append(None if result.deadline is None else seconds_since_start(result.deadline))
        progress = json.dumps(result.progress)
    return observed


def advance_text(pattern: Pattern, text: str, event: TimelineEvent) -> Advanced:
    progress: Progress = json.loads(text)
    result = advance(pattern, progress, event)
    assert json.dumps(progress) == text, "advance has changed the progress that it was given"
    return result


def expire_text(text: str, deadline: datetime) -> Expired:
    expired = expire(json.loads(text), deadline)
    assert expired.matched
    return expired


class PatternStep(NamedTuple):
    """An event, or a deadline that expired (`event` is None), and what it did."""

    at: datetime
    event: MatcherEvent | None
    result: Advanced


def run_pattern(
    pattern: Pattern, events: Iterable[MatcherEvent], until: datetime | None = None
) -> Iterator[PatternStep]:
    """Advance one subject by the events. Then the clock runs to `until`, or until no deadline is armed."""
    progress: Progress = {}
    for event in events:
        deadline = next_deadline(progress)
        if deadline is not None and deadline < event.received_at:
            yield expire_step(progress, deadline)
            progress = {}
        result = advance(pattern, progress, event)
        progress = result.progress
        yield PatternStep(event.received_at, event, result)
    deadline = next_deadline(progress)
    if deadline is not None and (until is None or deadline <= until):
        yield expire_step(progress, deadline)


def expire_step(progress: Progress, deadline: datetime) -> PatternStep:
    expired = expire(progress, deadline)
    return PatternStep(deadline, None, Advanced(expired.progress, expired.matched, False, None, expired.used))


def seconds_since_start(at: datetime) -> int:
    return round((at - START).total_seconds())


def read_indexes(used: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(int(id.removeprefix("e")) for id in used)
