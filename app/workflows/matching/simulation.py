"""Simulates a rule over events, with the same matching as live. The clock is taken from the events: deadlines expire
between and after them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.rule import NO_MATCH_STATE, EventView, Match, MatchState, Rule, RuleResult


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """An event, or a deadline that expires (`event` is None), and whether it would start a run.

    `used`: the ids of the events of the match. `suppressed`: the pattern matched, but `again` allows no run yet. `reason`: as in
    the decision that is stored with an event.
    """

    at: datetime
    subject: str
    event: EventView | None
    contributing: bool
    started: bool
    suppressed: bool = False
    used: tuple[UUID, ...] = ()
    reason: str = ""


def simulate(rule: Rule, events: Iterable[EventView]) -> Iterator[SimulatedStep]:
    """Simulate all subjects of the events, which must be in the order of their times."""
    states: dict[str, MatchState] = {}
    due: list[tuple[datetime, str]] = []
    for event in events:
        yield from _expire_deadlines(rule, states, due, before=event.received_at)
        if rule.triggers.isdisjoint((event.event, ANY_NAME)):
            yield _without_effect(event, "the workflow does not look at events of this name")
            continue
        subject = rule.find_subject(event.variables)
        if subject is None and rule.is_stateless:
            yield _step(rule, "", NO_MATCH_STATE, event, rule.advance(NO_MATCH_STATE, event))
            continue
        if subject is None:
            yield _without_effect(event, rule.decide_without_subject().reason)
            continue
        before = states.get(subject, NO_MATCH_STATE)
        result = rule.advance(before, event)
        states[subject] = result.state
        if result.state.deadline is not None and result.state.deadline != before.deadline:
            heapq.heappush(due, (result.state.deadline, subject))
        yield _step(rule, subject, before, event, result)
    yield from _expire_deadlines(rule, states, due, before=None)


def _without_effect(event: EventView, reason: str) -> SimulatedStep:
    return SimulatedStep(event.received_at, "", event, contributing=False, started=False, reason=reason)


def _step(rule: Rule, subject: str, before: MatchState, event: EventView, result: RuleResult) -> SimulatedStep:
    decision = rule.decide(event.variables) if rule.is_stateless else rule.explain(before, event, result)
    return SimulatedStep(
        at=event.received_at,
        subject=subject,
        event=event,
        contributing=result.advanced.contributing,
        started=result.started,
        suppressed=result.advanced.matched and not result.started,
        used=result.matches[-1].used if result.started else (),
        reason=decision.reason,
    )


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
        names = " or ".join(rule.pattern.trailing_none.names) if rule.pattern.trailing_none else ""
        reason = f"no {names} arrived in time" if matches else rule.suppressed_reason
        yield SimulatedStep(at, subject, None, False, bool(matches), suppressed=not matches, used=used, reason=reason)


def simulate_subject(rule: Rule, events: Iterable[EventView], until: datetime) -> Iterator[Match]:
    """The matches with which one subject would have started the workflow. The clock runs to `until`."""
    state = NO_MATCH_STATE
    for event in events:
        result = rule.advance(state, event)
        state = result.state
        yield from result.matches
    _, matches = rule.expire(state, until)
    yield from matches
