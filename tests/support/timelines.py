"""Makes things for tests: events, compiled patterns, filters, runs of the matcher over a timeline."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import cel

from app.workflows.matching.matcher import (
    Advance,
    Expiry,
    FilterFailed,
    Pattern,
    Progress,
    advance,
    compile_pattern,
    expire,
    next_deadline,
)

START = datetime(2026, 10, 18, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
CASES_FILES = [
    ROOT.parent / "shared/reference/pattern_cases.json",
    ROOT / "tests/workflows/matching/pattern_cases.json",
]

Timeline = list[tuple[str, int, dict[str, Any]]]


def read_cases() -> list[dict[str, Any]]:
    file = next(file for file in CASES_FILES if file.exists())
    cases: list[dict[str, Any]] = json.loads(file.read_text())
    return cases


@dataclass(frozen=True)
class AnEvent:
    id: str
    event: str
    received_at: datetime
    data: dict[str, Any] = field(default_factory=dict)


def an_event(place: int, name: str, second: int, data: dict[str, Any] | None = None) -> AnEvent:
    return AnEvent(f"e{place}", name, START + timedelta(seconds=second), data or {})


def a_timeline(events: list[Any]) -> Timeline:
    return [(name, second, data[0] if data else {}) for name, second, *data in events]


def events_of(timeline: Timeline) -> list[AnEvent]:
    return [an_event(place, *event) for place, event in enumerate(timeline)]


def cel_filter(text: str) -> Callable[[AnEvent], bool]:
    """What `app/match` leaves to its caller, as small as the cases need it."""
    program = cel.compile(text)

    def passes(event: AnEvent) -> bool:
        try:
            return program.execute({"event": event.event, "data": event.data}) is True
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FilterFailed(str(error)) from error

    return passes


def plain_filter(text: str) -> Callable[[AnEvent], bool]:
    """`x == 1`: the one filter of the searches, where CEL would only cost time."""
    value = int(text.removeprefix("x == "))
    return lambda event: event.data.get("x") == value


def plain_fits(leaf: Any, event: tuple[str, int, dict[str, Any]]) -> bool:
    """The same test for the exhaustive search, read from the document."""
    leaf = {"event": leaf} if isinstance(leaf, str) else leaf
    name, _, data = event
    if leaf["event"] not in ("*", name):
        return False
    return "where" not in leaf or data.get("x") == int(leaf["where"].removeprefix("x == "))


def cel_fits(leaf: Any, event: tuple[str, int, dict[str, Any]]) -> bool:
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


class Seen(NamedTuple):
    """What the matcher said: fires by place and by second, with the places that they used."""

    fires: dict[int, tuple[int, ...]]
    clock_fires: dict[int, tuple[int, ...]]
    contributing: list[bool]
    deadlines: list[int | None]


def watch(pattern: Pattern, timeline: Timeline) -> Seen:
    """Advance over the timeline as a database would: progress goes through JSON text each time."""
    seen, progress = Seen({}, {}, [], []), "{}"
    for place, event in enumerate(events_of(timeline)):
        deadline = next_deadline(json.loads(progress))
        if deadline is not None and deadline < event.received_at:
            expiry = expire_text(progress, deadline)
            seen.clock_fires[second_of(deadline)] = places(expiry.matched)
            progress = json.dumps(expiry.progress)
        result = advance_text(pattern, progress, event)
        if result.fired:
            seen.fires[place] = places(result.matched)
        seen.contributing.append(result.contributing)
        seen.deadlines.append(None if result.deadline is None else second_of(result.deadline))
        progress = json.dumps(result.progress)
    return seen


def advance_text(pattern: Pattern, text: str, event: AnEvent) -> Advance:
    progress: Progress = json.loads(text)
    result = advance(pattern, progress, event)
    assert json.dumps(progress) == text, "advance has changed the progress that it was given"
    return result


def expire_text(text: str, deadline: datetime) -> Expiry:
    expiry = expire(json.loads(text), deadline)
    assert expiry.fired
    return expiry


def second_of(at: datetime) -> int:
    return round((at - START).total_seconds())


def places(matched: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(int(id.removeprefix("e")) for id in matched)
