"""Plays events to a pattern with the matcher and the filters that the house has: what fires, and what contributes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from app.workflows.expressions.cel import Converted
from app.workflows.matching.matcher import simulate
from app.workflows.matching.rules import Seen, compile_rule

START = datetime(2026, 10, 18, 12, tzinfo=UTC)

# An event: its second, and its data.
Happened = tuple[int, dict[str, Any]]


class Played(NamedTuple):
    """Places of the events on which it fired with those that were used, seconds at which the clock fired, and for each event
    whether it contributed."""

    fires: list[tuple[int, tuple[int, ...]]]
    by_clock: list[int]
    contributing: list[bool]


def play(on: Any, events: list[Happened], until: int | None = None) -> Played:
    """What the pattern of a document makes of one subject's events."""
    rule = compile_rule(UUID(int=1), "played", 1, {"on": on})
    played = Played([], [], [])
    seen = [
        Seen(
            str(place),
            "event",
            START + timedelta(seconds=second),
            Converted({"event": "event", "distinct_id": "jane", "phone": None, "data": data}),
        )
        for place, (second, data) in enumerate(events)
    ]
    limit = None if until is None else START + timedelta(seconds=until)
    for happening in simulate(rule.pattern, seen, limit):
        if happening.event is None:
            played.by_clock.append(round((happening.at - START).total_seconds()))
            continue
        played.contributing.append(happening.result.contributing)
        if happening.result.fired:
            matched = tuple(int(place) for place in happening.result.matched)
            played.fires.append((int(happening.event.id), matched))
    return played


def fires_on(on: Any, *events: dict[str, Any] | Happened) -> list[int]:
    """The places of the events on which a pattern fires; events without a second come one second after the other."""
    timed = [event if isinstance(event, tuple) else (place, event) for place, event in enumerate(events)]
    return [place for place, _ in play(on, timed).fires]
