"""The matching of one event: what its account's workflows decide, and which runs start.

Pure functions over an account snapshot, an event, and match state that the caller has read and locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.core.ids import timestamp_of, uuid7
from app.core.models import Decision, Event, NewRun
from app.db.match_state import NOTHING, Kept, Place
from app.ingest.account_cache import Account
from app.workflows.expressions.cel import Converted
from app.workflows.matching.filter_index import Refusal
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.rules import Fire, Rule, Standing
from app.workflows.matching.state_json import lapses_at


def decide_alone(account: Account, names: Converted) -> tuple[list[Decision], dict[Place, Rule]]:
    """What is decided by an event (its names) alone, and the workflows whose decision also takes what is kept at a place."""
    asked = account.rules.ask(names)
    decisions = [rule.decide(names) for rule in asked.alone]
    decisions += [_not_asked(refusal) for refusal in asked.refusals]
    movable: dict[Place, Rule] = {}
    for rule in asked.with_progress:
        subject = rule.subject_of(names)
        if subject is None:
            decisions.append(rule.without_subject())
        else:
            movable[(rule.workflow_id, subject)] = rule
    return decisions, movable


def _not_asked(refusal: Refusal) -> Decision:
    """Many workflows whose filters cannot be true of an event, told together."""
    return Decision(None, f"{refusal.count} workflows", None, started=False, contributing=False, reason=refusal.reason)


def is_awaited(account: Account, event: Event) -> bool:
    """Whether a run of the account may wait for an event of this name."""
    return event.event in account.snapshot.awaits or ANY_NAME in account.snapshot.awaits


def with_runs(event: Event, decided: list[Decision]) -> tuple[list[Decision], list[NewRun]]:
    """The decisions of workflows that decide alone, each start with its run."""
    decisions, started = [], []
    for decision in decided:
        if decision.started and decision.workflow_id is not None and decision.version is not None:
            run = NewRun(
                id=uuid7(event.received_at),
                workflow_id=decision.workflow_id,
                version=decision.version,
                match_key=str(event.id),
                event_id=event.id,
                event_received_at=event.received_at,
                matched=(event.id,),
            )
            started.append(run)
            decision = replace(decision, run_id=run.id)
        decisions.append(decision)
    return decisions, started


def in_order(event: Event, moment: datetime, kept: Iterable[Kept]) -> Event:
    """The event at the moment at which its turn has come: later than all that was looked at before in its places."""
    latest = max((known.last_event_at for known in kept if known.last_event_at is not None), default=None)
    moment = max(moment, event.received_at)
    if latest is not None and moment <= latest:
        moment = latest + timedelta(microseconds=1)
    return replace(event, id=uuid7(moment), received_at=moment)


@dataclass(frozen=True, slots=True)
class Moves:
    """What an event did at the places that it moves: decisions, the runs that it starts, those that the clock has started
    by now, and of each place what was kept before and after."""

    decisions: list[Decision]
    started: list[NewRun]
    by_clock: list[NewRun]
    changes: dict[Place, tuple[Kept, Kept]]


def move_places(event: Event, movable: Mapping[Place, Rule], kept: Mapping[Place, Kept]) -> Moves:
    """Let an event move what is `kept` at places, by their workflows' rules."""
    moves = Moves([], [], [], {})
    for place, rule in movable.items():
        before = kept.get(place, NOTHING)
        moved = rule.move(standing_of(before), event)
        moves.changes[place] = (before, kept_of(moved.standing, event.received_at))
        moves.by_clock.extend(run_of(rule, fire, event.received_at) for fire in moved.fires if fire.by_deadline)
        new = [run_of(rule, fire, event.received_at) for fire in moved.fires if not fire.by_deadline]
        moves.started.extend(new)
        moves.decisions.append(replace(moved.decision, run_id=new[0].id if new else None))
    return moves


def run_of(rule: Rule, fire: Fire, moment: datetime) -> NewRun:
    """The run that a match starts at a moment."""
    last = fire.matched[-1]
    return NewRun(
        id=uuid7(moment),
        workflow_id=rule.workflow_id,
        version=rule.version,
        match_key=f"{last}@{fire.at.isoformat()}" if fire.by_deadline else str(last),
        event_id=last,
        event_received_at=timestamp_of(last),
        matched=fire.matched,
    )


def standing_of(kept: Kept) -> Standing:
    """What is kept, as rules take it."""
    return Standing(kept.enablement, kept.progress or {}, kept.deadline, kept.last_started_at)


def kept_of(standing: Standing, last_event_at: datetime) -> Kept:
    """What rules give, as it is kept."""
    return Kept(
        enablement=standing.enablement,
        progress=standing.progress,
        deadline=standing.deadline,
        last_event_at=last_event_at,
        last_started_at=standing.last_started_at,
        lapses_at=lapses_at(dict(standing.progress)),
    )
