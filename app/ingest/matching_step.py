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
from app.workflows.expressions.cel import CelVariables
from app.workflows.matching.match_state import Match, MatchState
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.predicate_index import Skipped
from app.workflows.matching.progress_json import expires_at
from app.workflows.matching.rule import Rule, view_event


def decide_alone(account: Account, variables: CelVariables) -> tuple[list[Decision], dict[Place, Rule]]:
    """What is decided by an event alone, and the workflows whose decision also takes what is kept at a place."""
    candidates = account.rules.find_candidates(variables)
    decisions = [rule.decide(variables) for rule in candidates.stateless]
    decisions += [_decide_skipped(skipped) for skipped in candidates.skipped]
    movable: dict[Place, Rule] = {}
    for rule in candidates.stateful:
        subject = rule.find_subject(variables)
        if subject is None:
            decisions.append(rule.decide_without_subject())
        else:
            movable[(rule.workflow_id, subject)] = rule
    return decisions, movable


def _decide_skipped(skipped: Skipped) -> Decision:
    """One decision for many workflows whose filters cannot be true."""
    return Decision(None, f"{skipped.count} workflows", None, started=False, contributing=False, reason=skipped.reason)


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
    view = view_event(event)
    for place, rule in movable.items():
        before = kept.get(place, NOTHING)
        state = state_of(before)
        result = rule.advance(state, view)
        moves.changes[place] = (before, kept_of(result.state, event.received_at))
        moves.by_clock.extend(run_of(rule, match, event.received_at) for match in result.matches if match.by_deadline)
        new = [run_of(rule, match, event.received_at) for match in result.matches if not match.by_deadline]
        moves.started.extend(new)
        moves.decisions.append(replace(rule.explain(state, view, result), run_id=new[0].id if new else None))
    return moves


def run_of(rule: Rule, match: Match, moment: datetime) -> NewRun:
    """The run that a match starts at a moment."""
    last = match.used[-1]
    return NewRun(
        id=uuid7(moment),
        workflow_id=rule.workflow_id,
        version=rule.version,
        match_key=f"{last}@{match.at.isoformat()}" if match.by_deadline else str(last),
        event_id=last,
        event_received_at=timestamp_of(last),
        matched=match.used,
    )


def state_of(kept: Kept) -> MatchState:
    """What is kept, as rules take it."""
    return MatchState(kept.enablement, kept.progress, kept.deadline, kept.last_started_at)


def kept_of(state: MatchState, last_event_at: datetime) -> Kept:
    """What rules give, as it is kept."""
    return Kept(
        enablement=state.enablement,
        progress=state.progress,
        deadline=state.deadline,
        last_event_at=last_event_at,
        last_started_at=state.last_started_at,
        lapses_at=expires_at(dict(state.progress or {})),
    )
