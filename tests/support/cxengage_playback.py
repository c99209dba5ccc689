"""Simulates a pattern on a list of events: when it fires, and which events contribute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.matching.rule import EventView, compile_rule
from tests.support.timelines import run_pattern

START = datetime(2026, 10, 18, 12, tzinfo=UTC)

# An event: its second and its data.
Happened = tuple[int, dict[str, Any]]


class Played(NamedTuple):
    """The indexes of the events that fired with those of the matched events, the seconds of timer firings, and whether each event
    contributed."""

    fires: list[tuple[int, tuple[int, ...]]]
    by_clock: list[int]
    contributing: list[bool]


def play(on: Any, events: list[Happened], until: int | None = None) -> Played:
    """The result of a document's pattern for one subject's events."""
    rule = compile_rule(UUID(int=1), "played", 1, {"on": on})
    played = Played([], [], [])
    seen = [
        EventView(
            str(place),
            "event",
            START + timedelta(seconds=second),
            CelVariables({"event": "event", "distinct_id": "jane", "phone": None, "data": data}),
        )
        for place, (second, data) in enumerate(events)
    ]
    limit = None if until is None else START + timedelta(seconds=until)
    for step in run_pattern(rule.pattern, seen, limit):
        if step.event is None:
            played.by_clock.append(round((step.at - START).total_seconds()))
            continue
        played.contributing.append(step.result.contributing)
        if step.result.matched:
            matched = tuple(int(place) for place in step.result.used)
            played.fires.append((int(step.event.id), matched))
    return played


def fires_on(on: Any, *events: dict[str, Any] | Happened) -> list[int]:
    """The indexes of the events on which a pattern fires; events without a second are one second apart."""
    timed = [event if isinstance(event, tuple) else (place, event) for place, event in enumerate(events)]
    return [place for place, _ in play(on, timed).fires]
