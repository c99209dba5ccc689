"""Simulates a rule over events, with the same matching as live. The clock is taken from the events: deadlines expire
between and after them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.rule import NO_MATCH_STATE, EventView, Match, MatchState, Rule


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """An event, or a deadline that expires (`event` is None), and whether it would start a run.

    `used`: the ids of the events of the match. `suppressed`: the pattern matched, but `again` allows no run yet.
    """

    at: datetime
    subject: str
    event: EventView | None
    contributing: bool
    started: bool
    suppressed: bool = False
    used: tuple[UUID, ...] = ()


def simulate(rule: Rule, events: Iterable[EventView]) -> Iterator[SimulatedStep]:
    """Simulate all subjects of the events, which must be in the order of their times."""
    states: dict[str, MatchState] = {}
    due: list[tuple[datetime, str]] = []
    for event in events:
        yield from _expire_deadlines(rule, states, due, before=event.received_at)
        subject = rule.find_subject(event.variables) if not rule.triggers.isdisjoint((event.event, ANY_NAME)) else None
        if subject is None:
            yield SimulatedStep(event.received_at, "", event, contributing=False, started=False)
            continue
        before = states.get(subject, NO_MATCH_STATE)
        result = rule.advance(before, event)
        states[subject] = result.state
        if result.state.deadline is not None and result.state.deadline != before.deadline:
            heapq.heappush(due, (result.state.deadline, subject))
        advanced, started = result.advanced, result.started
        used = result.matches[-1].used if started else ()
        suppressed = advanced.matched and not started
        yield SimulatedStep(event.received_at, subject, event, advanced.contributing, started, suppressed, used)
    yield from _expire_deadlines(rule, states, due, before=None)


def _expire_deadlines(
    rule: Rule, states: dict[str, MatchState], due: list[tuple[datetime, str]], before: datetime | None
) -> Iterator[SimulatedStep]:
    """Expire the deadlines before a time (None: all), in time order."""
    while due and (before is None or due[0][0] < before):
        at, subject = heapq.heappop(due)
        state = states[subject]
        if state.deadline != at:
            continue
        states[subject], matches = rule.expire(state, at)
        used = matches[0].used if matches else ()
        yield SimulatedStep(at, subject, None, False, started=bool(matches), suppressed=not matches, used=used)


def simulate_subject(rule: Rule, events: Iterable[EventView], until: datetime) -> Iterator[Match]:
    """The matches with which one subject would have started the workflow. The clock runs to `until`."""
    state = NO_MATCH_STATE
    for event in events:
        result = rule.advance(state, event)
        state = result.state
        yield from result.matches
    _, matches = rule.expire(state, until)
    yield from matches
