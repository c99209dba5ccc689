"""The matching of one event: what its account's workflows decide, and which runs start.

Pure functions over an account snapshot, an event, and match state that the caller has read and locked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

from msgspec.structs import replace

from app.core import metrics
from app.core.ids import timestamp_of, uuid7
from app.core.models import Decision, Event, NewRun
from app.core.pacing import pause
from app.core.work_shares import WorkShares
from app.db.job_queue import CORRELATE, MATCH
from app.db.late_decisions import ALL_LATE, LATE
from app.db.match_state import NO_STATE, StateKey, StoredState
from app.ingest.account_cache import Account
from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.expressions.work_budget import EVENT_UNITS, NOT_EVALUATED, Budget
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.predicate_index import Skipped
from app.workflows.matching.progress_json import expires_at
from app.workflows.matching.rule import Match, MatchState, Rule, view_event
from app.workflows.matching.rules import MAX_UNINDEXED

MICROSECOND = timedelta(microseconds=1)
# Seconds after which a worker does the rest of an event's matching. The budget of work takes a twelfth of it.
MAX_SECONDS = 0.25
# Units of work that a decision takes beside its filter, and a run: to make and to write.
_RULE_UNITS, RUN_UNITS = 30, 1_000
# What a workflow is expected to take, where so many are evaluated that it matters.
_EXPECTED_UNITS = 300


def match_stateless(
    account: Account, variables: CelVariables, shares: WorkShares | None = None
) -> tuple[list[Decision], dict[StateKey, Rule]]:
    """The decisions that an event (its CEL variables) determines alone, and the rules that need match state as well.

    What it takes is taken out of the account's share of the process; what many workflows are expected to take, before. All of it
    is postponed, by one decision, when the share does not suffice for that, and the rest when the share is used up later."""
    account_id, evaluated = account.snapshot.id, account.rules.count_evaluated(variables["event"])
    expected = min(EVENT_UNITS, _EXPECTED_UNITS * evaluated) if evaluated > MAX_UNINDEXED else 0
    if evaluated and shares is not None and shares.is_used_up(account_id, expected):
        shares.spend(account_id, _RULE_UNITS)
        return [ALL_LATE], {}
    watch = Watch(variables.budget, shares, account_id, expected)
    candidates = account.rules.find_candidates(variables)
    decisions: list[Decision] = []
    for rule in candidates.stateless:
        watch.pause()
        decisions.append(rule.postpone(LATE) if watch.is_late() else rule.decide(variables))
    _count_not_evaluated(decisions)
    decisions += [_decide_skipped(skipped) for skipped in candidates.skipped]
    stateful: dict[StateKey, Rule] = {}
    for rule in candidates.stateful:
        subject = rule.find_subject(variables)
        if subject is None:
            decisions.append(rule.decide_without_subject())
        elif watch.is_late():
            decisions.append(rule.postpone(LATE))
        else:
            stateful[(rule.workflow_id, subject)] = rule
    watch.end(_RULE_UNITS * len(decisions))
    if decisions or stateful:
        metrics.match_seconds.observe(watch.elapsed())
    return decisions, stateful


class Watch:
    """Measures the time that the matching of an event takes, without the pauses in which other requests run, and what it takes of
    its account's share of the process. Without `shares` it is never late."""

    def __init__(self, budget: Budget, shares: WorkShares | None, account_id: int, reserved: int = 0) -> None:
        """`reserved`: units that are taken out of the share now; `end` gives back what was not used."""
        self._budget = budget
        self._shares = shares
        self._account_id = account_id
        self._seconds = self._left = MAX_SECONDS
        self._since = time.perf_counter()
        self._reserved = reserved
        if reserved and shares is not None:
            shares.spend(account_id, reserved)

    def pause(self) -> None:
        """Let other requests run if it is time."""
        used = self._budget.end_piece()
        if used and self._shares is not None:
            self._left -= time.perf_counter() - self._since
            beyond, self._reserved = max(0, used - self._reserved), max(0, self._reserved - used)
            self._shares.spend(self._account_id, beyond)
            pause()
            self._since = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds so far."""
        return self._seconds - self._left + time.perf_counter() - self._since

    def is_late(self) -> bool:
        """Whether a worker does the rest."""
        if self._shares is None:
            return False
        if time.perf_counter() - self._since > self._left:
            return True
        return not self._reserved and self._shares.is_used_up(self._account_id)

    def end(self, more: int) -> None:
        """Take what was used since the last pause, and `more` units, out of the account's share."""
        if self._shares is not None:
            self._shares.spend(self._account_id, self._budget.end_piece(0) + more - self._reserved)


def _count_not_evaluated(decisions: Iterable[Decision]) -> None:
    for decision in decisions:
        if NOT_EVALUATED in decision.reason:
            metrics.not_evaluated.inc()


@lru_cache(maxsize=4_096)
def _decide_skipped(skipped: Skipped) -> Decision:
    """One decision for many workflows whose filters cannot be true."""
    return Decision(None, f"{skipped.count} workflows", None, started=False, contributing=False, reason=skipped.reason)


def find_job(account: Account, event: Event, decisions: Iterable[Decision]) -> str | None:
    """The kind of the job that a worker has to do for the event: a decision is late, or a run of the account may wait for its
    name."""
    if any(decision.reason == LATE for decision in decisions):
        metrics.matching_postponed.inc()
        return MATCH
    return None if account.snapshot.awaits.isdisjoint((event.event, ANY_NAME)) else CORRELATE


def add_runs(event: Event, decided: list[Decision]) -> tuple[list[Decision], list[NewRun]]:
    """Stateless decisions, each that starts its workflow with the id of its run; and these runs."""
    decisions, started = [], []
    for decision in decided:
        if decision.started and decision.workflow_id is not None and decision.version is not None:
            run = run_of_event(decision.workflow_id, decision.version, event, event.received_at)
            started.append(run)
            decision = replace(decision, run_id=run.id)
        decisions.append(decision)
    return decisions, started


def run_of_event(
    workflow_id: UUID, version: int, event: Event, now: datetime, matched: tuple[UUID, ...] | None = None
) -> NewRun:
    """The run that an event starts. `matched`: the ids of the matched events (None: this one alone)."""
    return NewRun(
        id=uuid7(now),
        workflow_id=workflow_id,
        version=version,
        match_key=str(event.id),
        event_id=event.id,
        event_received_at=event.received_at,
        matched=matched or (event.id,),
    )


def order_after(event: Event, now: datetime, states: Iterable[StoredState]) -> Event:
    """The event with `now` as its timestamp, or just after the latest event of its match states."""
    received_at = next_timestamp(max(now, event.received_at), states)
    return replace(event, id=uuid7(received_at), received_at=received_at)


def next_timestamp(at: datetime, states: Iterable[StoredState]) -> datetime:
    """`at`, or a microsecond after the latest event of these match states if `at` is not after it."""
    latest = max((state.last_event_at for state in states if state.last_event_at is not None), default=None)
    return at if latest is None or latest < at else latest + MICROSECOND


@dataclass(slots=True)
class StateChanges:
    """What an event did to match states: decisions, the runs that it starts, the runs that deadlines before it start, and
    each changed state before and after. `units`: what all its matching has taken of its budget."""

    decisions: list[Decision] = field(default_factory=list)
    started: list[NewRun] = field(default_factory=list)
    by_deadline: list[NewRun] = field(default_factory=list)
    states: dict[StateKey, tuple[StoredState, StoredState]] = field(default_factory=dict)
    units: int = 0


def advance_states(
    event: Event,
    variables: CelVariables,
    stateful: Mapping[StateKey, Rule],
    states: Mapping[StateKey, StoredState],
    shares: WorkShares | None = None,
) -> StateChanges:
    """Advance the match state of each rule by an event; `variables` are those it had when it was matched before. What it takes is
    taken out of the account's share of the process; the rest is postponed when that is used up."""
    changes = StateChanges()
    view = view_event(event, variables)
    watch = Watch(view.variables.budget, shares, event.account_id)
    for key, rule in stateful.items():
        watch.pause()
        if watch.is_late():
            changes.decisions.append(rule.postpone(LATE))
            continue
        before = states.get(key, NO_STATE)
        state = to_match_state(before)
        result = rule.advance(state, view)
        changes.states[key] = (before, to_stored_state(result.state, event.received_at))
        new: list[NewRun] = []
        for match in result.matches:
            (changes.by_deadline if match.by_deadline else new).append(new_run(rule, match, event.received_at))
        changes.started.extend(new)
        changes.decisions.append(replace(rule.explain(state, view, result), run_id=new[0].id if new else None))
    _count_not_evaluated(changes.decisions)
    changes.units = EVENT_UNITS - view.variables.budget.left
    watch.end(_RULE_UNITS * len(changes.decisions) + RUN_UNITS * (len(changes.started) + len(changes.by_deadline)))
    return changes


def new_run(rule: Rule, match: Match, now: datetime) -> NewRun:
    """The run that a match starts."""
    last = match.used[-1]
    return NewRun(
        id=uuid7(now),
        workflow_id=rule.workflow_id,
        version=rule.version,
        match_key=f"{last}@{match.at.isoformat()}" if match.by_deadline else str(last),
        event_id=last,
        event_received_at=timestamp_of(last),
        matched=match.used,
    )


def to_match_state(stored: StoredState) -> MatchState:
    """Stored state as rules take it."""
    return MatchState(stored.enablement, stored.progress, stored.deadline, stored.last_started_at)


def to_stored_state(state: MatchState, last_event_at: datetime) -> StoredState:
    """Match state as it is stored."""
    return StoredState(
        enablement=state.enablement,
        progress=state.progress,
        deadline=state.deadline,
        last_event_at=last_event_at,
        last_started_at=state.last_started_at,
        lapses_at=expires_at(dict(state.progress or {})),
    )
