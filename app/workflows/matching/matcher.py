"""A compiled pattern, one subject's progress and one event come in; the new progress and what it means go out.

    pattern = compile_pattern(document, compile_filter)
    if (at := next_deadline(progress)) is not None and at < event.received_at:
        progress, fired, matched = expire(progress, at)
    progress, fired, contributing, deadline, matched, failures = advance(pattern, progress, event)

Events come in the order of acceptance, with times that never fall. Progress is JSON (`progress.py` shows it), `{}` when
there is none; it never holds more than `pattern.bound`, however many events the subject sends: `partial.py` says why
one partial match per place of the pattern is enough, `tangle.py` and `frontier.py` what it takes where members of an
`all` may want the same event. What a window has ended is dropped at the next event that matches any leaf of the
pattern; an event that matches none leaves progress as it is.

`matched` is one valid match: its events in order, the last of them this one. Of several the one that began last; then,
for each part of the pattern, the one that was complete first.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from app.workflows.matching.match_state import START, Seen, Standing, Turn
from app.workflows.matching.partial_match import step
from app.workflows.matching.pattern_ast import ANY_NAME, Event, FilterFailed, LeafTest, Pattern
from app.workflows.matching.pattern_parser import PatternError, check, compile_pattern
from app.workflows.matching.state_json import Deadline, Progress, read_deadline, read_progress, write_progress

__all__ = [
    "Advance", "Event", "Expiry", "FilterFailed", "Happening", "Pattern", "PatternError", "Progress",
    "advance", "check", "compile_pattern", "expire", "next_deadline", "simulate",
]  # fmt: skip


class Advance(NamedTuple):
    """`deadline`: the one armed after this event. `matched`: ids of the events used when it fired, else empty.

    `failures`: (path, reason) for each filter that could not be evaluated and so was false.
    """

    progress: Progress
    fired: bool
    contributing: bool
    deadline: datetime | None
    matched: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()


class Expiry(NamedTuple):
    progress: Progress
    fired: bool
    matched: tuple[str, ...] = ()


class Happening(NamedTuple):
    """One thing that happens to a subject in a simulation; `event` is None where the clock reached a deadline."""

    at: datetime
    event: Event | None
    result: Advance


def advance(pattern: Pattern, progress: Progress, event: Event) -> Advance:
    """Raises ValueError when a deadline before the event has not been expired yet: that fire would be lost."""
    deadline = next_deadline(progress)
    if deadline is not None and deadline < event.received_at:
        raise ValueError(f"the deadline {deadline.isoformat()} lies before the event: expire it first")
    if event.event not in pattern.names and ANY_NAME not in pattern.names:
        return Advance(progress, False, False, deadline)
    hits, failures = ask(pattern.tests, event)
    if not hits:
        return Advance(progress, False, False, deadline, (), failures)
    remembered = read_progress(progress)
    seen = Seen(remembered.events + 1, event.id, event.received_at)
    turn = Turn(seen, hits, remembered.standing, Standing())
    match, stands = step(pattern.root, turn, START)
    contributing = stands or match is not None
    if match is not None and pattern.quiet is None:
        return Advance({}, True, True, None, tuple(used.id for used in match.used), failures)
    armed = remembered.deadline
    if pattern.quiet is not None:
        armed = None if not pattern.quiet.kinds.isdisjoint(hits) else armed
        if match is not None and armed is None:
            armed = Deadline(seen.at + pattern.quiet.wait, match.used)
    return Advance(write_progress(turn.new, armed), False, contributing, armed and armed.at, (), failures)


def ask(tests: tuple[LeafTest, ...], event: Event) -> tuple[frozenset[int], tuple[tuple[str, str], ...]]:
    """The kinds of leaves that the event matches, and the filters that failed on it."""
    hits, failures = [], []
    for test in tests:
        if test.name != event.event and test.name != ANY_NAME:
            continue
        try:
            if test.passes is None or test.passes(event):
                hits.append(test.kind)
        except FilterFailed as failure:
            failures.append((f"{test.path}.where", str(failure)))
    return frozenset(hits), tuple(failures)


def next_deadline(progress: Progress) -> datetime | None:
    """When the clock would fire this progress, if no event comes before."""
    return read_deadline(progress)


def expire(progress: Progress, at: datetime) -> Expiry:
    """The clock has reached `at`, and every event up to and including the deadline has been advanced."""
    deadline = read_progress(progress).deadline
    if deadline is None or at < deadline.at:
        return Expiry(progress, False)
    return Expiry({}, True, tuple(used.id for used in deadline.used))


def simulate(pattern: Pattern, events: Iterable[Event], until: datetime | None = None) -> Iterator[Happening]:
    """What happens to one subject with these events; then the clock runs to `until`, or until nothing is armed."""
    progress: Progress = {}
    for event in events:
        deadline = next_deadline(progress)
        if deadline is not None and deadline < event.received_at:
            yield at_deadline(progress, deadline)
            progress = {}
        result = advance(pattern, progress, event)
        progress = result.progress
        yield Happening(event.received_at, event, result)
    deadline = next_deadline(progress)
    if deadline is not None and (until is None or deadline <= until):
        yield at_deadline(progress, deadline)


def at_deadline(progress: Progress, deadline: datetime) -> Happening:
    progress, fired, matched = expire(progress, deadline)
    return Happening(deadline, None, Advance(progress, fired, False, None, matched))
