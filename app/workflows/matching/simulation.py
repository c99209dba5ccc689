"""What would a workflow do with these events? Pure: a rule and events in, what happens out, in time order.

The same matching as live, with the clock taken from the events: deadlines fire between and after them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.workflows.matching.rules import Rule, Seen, Standing

_NOTHING = Standing(None, {}, None, None)


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing that happens: an event (`seen`) or a deadline (None), whose it is, and whether a run would start.

    `matched`: the ids of the events that the start used. `suppressed`: the pattern matched, but not `again` so soon.
    """

    at: datetime
    subject: str
    seen: Seen | None
    contributing: bool
    fired: bool
    suppressed: bool = False
    matched: tuple[UUID, ...] = ()


def simulate(rule: Rule, events: Iterable[Seen]) -> Iterator[Happened]:
    """What happens to all subjects with these events, which come in the order of their times."""
    standings: dict[str, Standing] = {}
    due: list[tuple[datetime, str]] = []
    for seen in events:
        yield from _deadlines(rule, standings, due, before=seen.received_at)
        subject = rule.subject_of(seen.names) if asks_for(rule, seen.event) else None
        if subject is None:
            yield Happened(seen.received_at, "", seen, contributing=False, fired=False)
            continue
        before = standings.get(subject, _NOTHING)
        step = rule.step(before, seen)
        standings[subject] = step.standing
        if step.standing.deadline is not None and step.standing.deadline != before.deadline:
            heapq.heappush(due, (step.standing.deadline, subject))
        matched = step.fires[-1].matched if step.started else ()
        suppressed = step.result.fired and not step.started
        yield Happened(seen.received_at, subject, seen, step.result.contributing, step.started, suppressed, matched)
    yield from _deadlines(rule, standings, due, before=None)


def asks_for(rule: Rule, name: str) -> bool:
    """Whether events of this name are any of the rule's business."""
    return name in rule.pattern.names or "*" in rule.pattern.names


def _deadlines(
    rule: Rule, standings: dict[str, Standing], due: list[tuple[datetime, str]], before: datetime | None
) -> Iterator[Happened]:
    """The deadlines that fire before a moment (None: all of them), in time order."""
    while due and (before is None or due[0][0] < before):
        at, subject = heapq.heappop(due)
        standing = standings[subject]
        if standing.deadline != at:
            continue
        standings[subject], fires = rule.expire(standing, at)
        yield Happened(
            at, subject, None, contributing=False, fired=bool(fires), suppressed=not fires,
            matched=fires[0].matched if fires else (),
        )  # fmt: skip


def replay_subject(rule: Rule, events: Iterable[Seen], until: datetime) -> Iterator[tuple[datetime, tuple[UUID, ...]]]:
    """When one subject would have started the workflow, and with which events; the clock runs to `until`."""
    standing = _NOTHING
    for seen in events:
        step = rule.step(standing, seen)
        standing = step.standing
        yield from ((fire.at, fire.matched) for fire in step.fires)
    _, fires = rule.expire(standing, until)
    yield from ((fire.at, fire.matched) for fire in fires)
