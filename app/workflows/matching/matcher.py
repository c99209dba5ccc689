"""The pattern matcher: pure functions over a compiled pattern, one subject's progress and one event.

    pattern = compile_pattern(document, compile_filter)
    if (at := next_deadline(progress)) is not None and at < event.received_at:
        progress, matched, used = expire(progress, at)
    progress, matched, contributing, deadline, used, failures = advance(pattern, progress, event)

Events arrive in the order of acceptance, with times that never decrease. Progress is the JSON of a subject's partial
matches (`progress_json.py` describes it), `{}` when there are none. Its size never exceeds `pattern.bound`, however many
events the subject sends: `node_matcher.py` explains why one partial match per position of the pattern is enough,
`shared_all.py` and `progress_bound_shared.py` what members of an `all` need that may match the same event. Partial matches
whose window has ended are dropped at the next event that matches any leaf of the pattern. An event that matches no leaf
leaves progress unchanged.

`used` is one valid match: its events in order, this event last. Of several matches it is the one that began last; then,
for each part of the pattern, the one that was complete first.
"""

from datetime import datetime
from typing import NamedTuple

from app.workflows.expressions.work_budget import Budget
from app.workflows.matching.node_matcher import advance_node
from app.workflows.matching.partial_match import EMPTY_PREFIX, EventRef, PartialMatches, Step
from app.workflows.matching.pattern_ast import ANY_NAME, FilterFailed, LeafTest, MatcherEvent, Pattern
from app.workflows.matching.progress_json import (
    Deadline,
    Progress,
    measure_progress,
    next_deadline,
    read_progress,
    write_progress,
)


class Advanced(NamedTuple):
    """What `advance` did. `deadline`: the deadline that is armed now. `used`: ids of the events of a complete match.

    `failures`: (path, reason) of each filter that could not be evaluated and therefore counts as false. `fits`: whether the event
    matches any leaf of the pattern.
    """

    progress: Progress
    matched: bool
    contributing: bool
    deadline: datetime | None
    used: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    fits: bool = True


class Expired(NamedTuple):
    """What `expire` did. `used`: ids of the events of a complete match."""

    progress: Progress
    matched: bool
    used: tuple[str, ...] = ()


# Units of work (app/workflows/expressions/work_budget.py) for each remembered event, partial match and event in one: it is read,
# described, written, and stored.
_UNITS = 25


def advance(pattern: Pattern, progress: Progress, event: MatcherEvent, budget: Budget | None = None) -> Advanced:
    """Advance one subject's progress by an event. Raises ValueError when a deadline before the event has not been
    expired: its match would be lost. Raises BudgetExceeded when that is more work than `budget` has left."""
    budget = budget or Budget()
    deadline = next_deadline(progress)
    if deadline is not None and deadline < event.received_at:
        raise ValueError(f"the deadline {deadline.isoformat()} is before the event: expire it first")
    if event.event not in pattern.names and ANY_NAME not in pattern.names:
        return Advanced(progress, False, False, deadline)
    kinds, failures = _evaluate_tests(pattern.tests, event)
    if not kinds:
        return Advanced(progress, False, False, deadline, (), failures, fits=False)
    budget.take(_UNITS * (1 + measure_progress(progress)), "the state of the pattern")
    stored = read_progress(progress)
    ref = EventRef(stored.events + 1, event.id, event.received_at)
    step = Step(ref, kinds, stored.partial_matches, PartialMatches(), budget)
    match, has_partial = advance_node(pattern.root, step, EMPTY_PREFIX)
    contributing = has_partial or match is not None
    if match is not None and pattern.trailing_none is None:
        return Advanced({}, True, True, None, tuple(used.id for used in match.used), failures)
    armed = stored.deadline
    if pattern.trailing_none is not None:
        armed = None if not pattern.trailing_none.kinds.isdisjoint(kinds) else armed
        if match is not None and armed is None:
            armed = Deadline(ref.at + pattern.trailing_none.wait, match.used)
    return Advanced(write_progress(step.after, armed), False, contributing, armed and armed.at, (), failures)


def _evaluate_tests(
    tests: tuple[LeafTest, ...], event: MatcherEvent
) -> tuple[frozenset[int], tuple[tuple[str, str], ...]]:
    """The kinds of leaves that the event matches, and the filters that failed."""
    kinds, failures = [], []
    for test in tests:
        if test.name != event.event and test.name != ANY_NAME:
            continue
        try:
            if test.passes is None or test.passes(event):
                kinds.append(test.kind)
        except FilterFailed as exc:
            failures.append((f"{test.path}.where", str(exc)))
    return frozenset(kinds), tuple(failures)


def expire(progress: Progress, at: datetime) -> Expired:
    """Complete the match of a deadline that was reached by `at`. Every event up to and including the deadline has to be
    advanced before."""
    deadline = read_progress(progress).deadline
    if deadline is None or at < deadline.at:
        return Expired(progress, False)
    return Expired({}, True, tuple(used.id for used in deadline.used))
