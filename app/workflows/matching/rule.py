"""An enabled workflow, compiled: pure functions from an event and match state to a decision.

A stateless rule (its pattern is one event, and every match starts a run) decides by the event alone. The others also
take the subject's match state and return the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from app.core.durations import read_duration, write_duration
from app.core.models import Decision, Event
from app.core.subjects import MAX_SUBJECT_LENGTH, subject_text
from app.workflows.expressions.cel import Filter, compile_filter
from app.workflows.expressions.cel_cost import Path
from app.workflows.expressions.cel_variables import CelVariables, Functions
from app.workflows.expressions.work_budget import NOT_EVALUATED, Budget, BudgetExceeded
from app.workflows.matching import matcher
from app.workflows.matching.describe import describe
from app.workflows.matching.pattern_ast import ANY_NAME, FilterFailed, Leaf, Pattern, cancelling_kinds
from app.workflows.matching.pattern_parser import compile_pattern
from app.workflows.matching.progress_json import next_deadline

# Filters that could not be evaluated, in one reason.
_MAX_FAILURES = 5
_FILTER_IS_FALSE = "the filter is false"
ALWAYS, ONCE = "always", "once"
DISTINCT_ID = "distinct_id"


@dataclass(frozen=True, slots=True)
class MatchState:
    """The progress of one subject in a workflow's pattern since `enablement`, and when it last started a run."""

    enablement: int | None = None
    progress: Mapping[str, Any] | None = None
    deadline: datetime | None = None
    last_started_at: datetime | None = None


NO_MATCH_STATE = MatchState()


@dataclass(frozen=True, slots=True)
class Match:
    """A complete match: the events that it used in order, and when it was complete. `by_deadline`: a deadline completed
    it, not an event."""

    used: tuple[UUID, ...]
    at: datetime
    by_deadline: bool = False


@dataclass(frozen=True, slots=True)
class EventView:
    """An event as the matcher and its filters read it."""

    id: str
    event: str
    received_at: datetime
    variables: CelVariables


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What an event did: the new match state, the matches that start a run, what the matcher did, and whether this event
    starts a run (a deadline before it may have started one as well)."""

    state: MatchState
    matches: tuple[Match, ...]
    advanced: matcher.Advanced
    started: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One enabled workflow: its pattern, the `key` that names the subject, how soon it may start `again`, how often it
    had been enabled or disabled (`enablement`), the event names that it looks at (`triggers`; `*`: any), and what its filters
    read of an event (`reads`) and call (`functions`)."""

    workflow_id: UUID
    workflow: str
    version: int
    pattern: Pattern
    filter: Filter | None
    key: str
    again: timedelta | str
    enablement: int
    triggers: frozenset[str]
    reads: frozenset[Path]
    functions: Functions = field(repr=False, compare=False)

    @property
    def is_stateless(self) -> bool:
        """Whether the event alone decides: the pattern is one event, and every match starts a run."""
        return isinstance(self.pattern.root, Leaf) and self.pattern.trailing_none is None and self.again == ALWAYS

    @property
    def suppressed_reason(self) -> str:
        """Why a match starts no run when `again` allows none."""
        if isinstance(self.again, str):
            return f"suppressed: again ({self.again})"
        return f"suppressed: again (at most once in {write_duration(self.again.total_seconds())})"

    def decide(self, variables: CelVariables) -> Decision:
        """The decision of a stateless rule about an event whose name matches."""
        variables.expect(self.reads, self.functions)
        matched, reason = True, "matched"
        if self.filter is not None:
            matched, failure = self.filter.evaluate(variables)
            reason = "matched" if matched else failure or _FILTER_IS_FALSE
        return self._decision(started=matched, contributing=matched, reason=reason)

    def postpone(self, reason: str) -> Decision:
        """The decision about an event that the rule has not looked at."""
        return self._decision(started=False, contributing=False, reason=reason)

    def find_subject(self, variables: Mapping[str, Any]) -> str | None:
        """The subject whose match state an event advances; None when the event lacks the key."""
        return find_subject(self.key, variables)

    def decide_without_subject(self) -> Decision:
        """The decision about an event that lacks the key."""
        return self._decision(
            started=False,
            contributing=False,
            reason=f"{self.key} is the key, and is not a text or number of up to {MAX_SUBJECT_LENGTH} characters",
        )

    def advance(self, before: MatchState, event: EventView) -> RuleResult:
        """Advance a subject's match state by an event. A deadline before the event expires first."""
        state, matches = self.expire(before, event.received_at - timedelta(microseconds=1))
        advanced = self._advance_pattern(dict(state.progress or {}), event)
        last = state.last_started_at
        started = advanced.matched and self.may_start(last, event.received_at)
        if started:
            last = event.received_at
            matches = (*matches, Match(tuple(map(UUID, advanced.used)), last))
        state = MatchState(self.enablement, advanced.progress, advanced.deadline, last)
        return RuleResult(state, matches, advanced, started)

    def _advance_pattern(self, progress: dict[str, Any], event: EventView) -> matcher.Advanced:
        """The pattern after the event; unchanged, with the reason as a failure, when the event's budget does not suffice."""
        event.variables.expect(self.reads, self.functions)
        try:
            return matcher.advance(self.pattern, progress, event, event.variables.budget)
        except BudgetExceeded as exc:
            failure = (self.pattern.root.path, f"{NOT_EVALUATED} ({exc})")
            return matcher.Advanced(progress, False, False, next_deadline(progress), (), (failure,))

    def expire(self, before: MatchState, at: datetime) -> tuple[MatchState, tuple[Match, ...]]:
        """Expire a deadline that was reached by `at`: the new match state, and the match if it may start a run."""
        if before.enablement != self.enablement:
            return MatchState(self.enablement, {}, None, before.last_started_at), ()
        progress = dict(before.progress or {})
        deadline = next_deadline(progress)
        if deadline is None or deadline > at:
            return before, ()
        expired = matcher.expire(progress, deadline)
        if not expired.matched or not self.may_start(before.last_started_at, deadline):
            return MatchState(self.enablement, expired.progress, None, before.last_started_at), ()
        match = Match(tuple(map(UUID, expired.used)), deadline, by_deadline=True)
        return MatchState(self.enablement, expired.progress, None, deadline), (match,)

    def may_start(self, last: datetime | None, at: datetime) -> bool:
        """Whether `again` allows a subject that started a run at `last` (None: never) to start another one at `at`."""
        if last is None or self.again == ALWAYS:
            return True
        return isinstance(self.again, timedelta) and at - last >= self.again

    def explain(self, before: MatchState, event: EventView, result: RuleResult) -> Decision:
        """The decision that goes with the result of `advance`."""
        advanced = result.advanced
        if result.started:
            reason = "matched"
        elif advanced.matched:
            reason = self.suppressed_reason
        else:
            reason = self._explain_progress(before, event, advanced)
        return self._decision(result.started, advanced.contributing, reason)

    def _explain_progress(self, before: MatchState, event: EventView, advanced: matcher.Advanced) -> str:
        if advanced.failures and not advanced.contributing:
            more = len(advanced.failures) - _MAX_FAILURES
            shown = [f"{path}: {reason}" for path, reason in advanced.failures[:_MAX_FAILURES]]
            return "; ".join([*shown, f"and {more} more"] if more > 0 else shown)
        if isinstance(self.pattern.root, Leaf) and self.pattern.trailing_none is None:
            return _FILTER_IS_FALSE
        description = describe(self.pattern, advanced.progress, event.received_at)
        if advanced.contributing:
            return description
        if not advanced.fits:
            return f"{_FILTER_IS_FALSE}; {description}"
        if before.deadline is not None and advanced.deadline is None:
            return f"cancelled by {event.event}"
        if before.progress and before.progress != advanced.progress and self._may_cancel(event.event):
            return f"cancelled by {event.event}; {description}"
        return f"not expected now; {description}"

    def _may_cancel(self, name: str) -> bool:
        """Whether events of this name may cancel partial matches (`unless`)."""
        kinds = cancelling_kinds(self.pattern.root)
        return any(test.kind in kinds and test.name in (name, ANY_NAME) for test in self.pattern.tests)

    def _decision(self, started: bool, contributing: bool, reason: str) -> Decision:
        return Decision(
            self.workflow_id, self.workflow, self.version, started=started, contributing=contributing, reason=reason
        )


def compile_rule(
    workflow_id: UUID, workflow: str, version: int, document: Mapping[str, Any], enablement: int = 0
) -> Rule:
    """Compile a valid document. Raises PatternError."""
    on, again = document["on"], document.get("again", ALWAYS)
    where = on.get("where") if isinstance(on, Mapping) else None
    reads: set[Path] = set()
    functions: dict[str, Callable[..., Any]] = {}

    def compile_leaf(text: str) -> Callable[[EventView], bool]:
        compiled = compile_filter(text)
        reads.update(compiled.cost.reads)
        functions.update(compiled.functions)
        return _test(compiled)

    pattern = compile_pattern(on, compile_leaf)
    return Rule(
        workflow_id=workflow_id,
        workflow=workflow,
        version=version,
        pattern=pattern,
        filter=None if where is None else compile_filter(where),
        key=document.get("key", DISTINCT_ID),
        again=again if again in (ALWAYS, ONCE) else read_duration(again),
        enablement=enablement,
        triggers=pattern.triggers,
        reads=frozenset(reads),
        functions=functions,
    )


def compile_test(text: str) -> Callable[[EventView], bool]:
    """A filter as the matcher calls it: raises FilterFailed when it cannot be evaluated. Raises FilterError."""
    return _test(compile_filter(text))


def _test(compiled: Filter) -> Callable[[EventView], bool]:
    def passes(event: EventView) -> bool:
        is_true, failure = compiled.evaluate(event.variables)
        if failure is not None:
            raise FilterFailed(failure)
        return is_true

    return passes


def leaf_matches(leaf: Any, event: Event) -> bool:
    """Whether an event matches a valid leaf (of `wait_for` or `exit_on`)."""
    return evaluate_leaf(leaf, event)[0]


def evaluate_leaf(leaf: Any, event: Event) -> tuple[bool, str | None]:
    """Whether an event matches a valid leaf, and if its filter cannot be evaluated the reason."""
    name, where = (leaf, None) if isinstance(leaf, str) else (leaf["event"], leaf.get("where"))
    if name not in (ANY_NAME, event.event):
        return False, None
    return (True, None) if where is None else _compile_leaf(where).evaluate(event_variables(event))


# A large filter takes 7 ms and 150 kB.
@lru_cache(maxsize=128)
def _compile_leaf(where: str) -> Filter:
    return compile_filter(where)


def view_event(event: Event, variables: CelVariables | None = None) -> EventView:
    """An event as rules take it. `variables`: those that it had at an earlier time."""
    variables = event_variables(event) if variables is None else variables.with_time(event.received_at)
    return EventView(str(event.id), event.event, event.received_at, variables)


def event_variables(event: Event) -> CelVariables:
    """The CEL variables that filters read of an event."""
    return build_variables(
        event.event, event.distinct_id, event.phone, event.data, event.received_at, event.occurred_at
    )


def build_variables(
    name: str,
    distinct_id: str,
    phone: str | None,
    data: Mapping[str, Any],
    received_at: datetime,
    occurred_at: datetime | None = None,
    budget: Budget | None = None,
) -> CelVariables:
    """The CEL variables of an event. `budget`: for all its filters and patterns; by default that of one event."""
    values = {
        "event": name,
        "distinct_id": distinct_id,
        "phone": phone,
        "data": data,
        "received_at": received_at,
        "occurred_at": occurred_at,
        "now": received_at,
    }
    return CelVariables(values, budget)


def find_subject(key: str, variables: Mapping[str, Any]) -> str | None:
    """The subject of an event by a workflow's key; None when the event lacks the key."""
    value: Any = variables
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return subject_text(value)
