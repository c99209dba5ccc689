"""Simulates a pattern on a list of events: when it matches, and which events contribute."""

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

    matches: list[tuple[int, tuple[int, ...]]]
    by_clock: list[int]
    contributing: list[bool]


def play(on: Any, events: list[Happened], until: int | None = None) -> Played:
    """The result of a document's pattern for one subject's events."""
    rule = compile_rule(UUID(int=1), "played", 1, {"on": on})
    played = Played([], [], [])
    seen = [
        EventView(
            str(index),
            "event",
            START + timedelta(seconds=second),
            CelVariables({"event": "event", "distinct_id": "jane", "phone": None, "data": data}),
        )
        for index, (second, data) in enumerate(events)
    ]
    limit = None if until is None else START + timedelta(seconds=until)
    for step in run_pattern(rule.pattern, seen, limit):
        if step.event is None:
            played.by_clock.append(round((step.at - START).total_seconds()))
            continue
        played.contributing.append(step.result.contributing)
        if step.result.matched:
            matched = tuple(int(index) for index in step.result.used)
            played.matches.append((int(step.event.id), matched))
    return played


def matches_on(on: Any, *events: dict[str, Any] | Happened) -> list[int]:
    """The indexes of the events on which a pattern matches; events without a second are one second apart."""
    timed = [event if isinstance(event, tuple) else (index, event) for index, event in enumerate(events)]
    return [index for index, _ in play(on, timed).matches]
