"""Describes a subject's progress in one short sentence."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from operator import attrgetter
from typing import NamedTuple

from app.core.durations import format_duration
from app.core.ids import utc_text
from app.workflows.matching.partial_match import Assignment, PartialMatches, Prefix
from app.workflows.matching.pattern_ast import ANY_NAME, AllOf, AnyOf, Leaf, Node, Pattern, Seq, SharedAll, Times
from app.workflows.matching.progress_json import Progress, read_progress

_SECOND = timedelta(seconds=1)
# Of no progress.
NOTHING_YET = "nothing yet"


class _Sentence(NamedTuple):
    """`events`: how many events the partial match used; the sentence with the most is shown. `first`: the number of
    its first event."""

    events: int
    first: int
    text: str


class _View(NamedTuple):
    partial_matches: PartialMatches
    now: datetime


def describe(pattern: Pattern, progress: Progress, now: datetime) -> str:
    """For example `2 of 3 check_in_failed in the last 52m`. Times are in UTC."""
    stored = read_progress(progress)
    if pattern.trailing_none is not None and stored.deadline is not None:
        names = " or ".join(pattern.trailing_none.names)
        return f"will start at {utc_text(stored.deadline.at)} unless {names} arrives"
    sentence = _describe_node(pattern.root, _View(stored.partial_matches, now))
    return sentence.text if sentence else NOTHING_YET


def _describe_node(node: Node, view: _View) -> _Sentence | None:
    match node:
        case Seq():
            return _describe_seq(node, view)
        case Times():
            return _describe_times(node, view)
        case AllOf():
            return _describe_all(node, view)
        case AnyOf():
            return _furthest(_describe_node(member, view) for member in node.members)
        case SharedAll():
            return _describe_shared_all(node, view)
    return None


def _furthest(sentences: Iterable[_Sentence | None]) -> _Sentence | None:
    return max((each for each in sentences if each), default=None, key=lambda each: each.events)


def _describe_seq(node: Seq, view: _View) -> _Sentence | None:
    done = _live_prefixes(node, view)
    for index in reversed(range(len(node.members))):
        prefix = done.get(index - 1)
        inner = _describe_node(node.members[index], view)
        if inner is None and prefix is None:
            continue
        step = f"step {index + 1} of {len(node.members)}: " if len(node.members) > 2 else ""
        if inner is not None:
            return _Sentence(inner.events + (len(prefix.used) if prefix else 0), inner.first, step + inner.text)
        if prefix is not None:
            waits = f"waits for {_label(node.members[index])}{_until(prefix)}"
            return _Sentence(len(prefix.used), prefix.start, step + waits)
    return None


def _describe_times(node: Times, view: _View) -> _Sentence | None:
    """The unfinished repetition is described only if it shares no event with the counted ones."""
    repetitions = list(_live_prefixes(node, view).values())
    inner = _describe_node(node.of, view)
    if not repetitions:
        return inner
    events, first = sum(len(each.used) for each in repetitions), repetitions[-1]
    age = (view.now - first.used[0].at) // _SECOND * _SECOND
    in_time = f" in the last {format_duration(age)}" if age else ""
    text = f"{len(repetitions)} of {node.count} {_label(node.of)}{in_time}"
    if inner is not None and inner.first > repetitions[0].used[-1].number:
        return _Sentence(events + inner.events, first.start, f"{text}; {inner.text}")
    return _Sentence(events, first.start, text)


def _describe_all(node: AllOf, view: _View) -> _Sentence | None:
    done = _live_prefixes(node, view)
    inner = _furthest(_describe_node(part, view) for index, part in enumerate(node.parts) if index not in done)
    if not done:
        return inner
    has = " and ".join(_label(node.parts[index]) for index in done)
    missing = " and ".join(_label(part) for index, part in enumerate(node.parts) if index not in done)
    first = min(done.values(), key=attrgetter("start"))
    text = f"has {has}, waits for {missing}{_until(first)}"
    events = sum(len(prefix.used) for prefix in done.values())
    if inner is None:
        return _Sentence(events, first.start, text)
    return _Sentence(events + inner.events, min(first.start, inner.first), f"{text}; {inner.text}")


def _describe_shared_all(node: SharedAll, view: _View) -> _Sentence | None:
    assignments = view.partial_matches.assignments.get(node.path, ())
    return _furthest(_describe_assignment(node, each) for each in assignments if each.prefix.is_live(view.now))


def _describe_assignment(node: SharedAll, assignment: Assignment) -> _Sentence:
    pairs = list(zip(node.members, assignment.positions, strict=True))
    done = [_label(member) for member, position in pairs if position is True]
    missing = " and ".join(_label(member) for member, position in pairs if position is not True)
    has = f"has {' and '.join(done)}" if done else f"has {len(assignment.used)} of the events"
    text = f"{has}, waits for {missing}{_until(assignment.prefix)}"
    return _Sentence(len(assignment.used), assignment.start, text)


def _live_prefixes(node: Node, view: _View) -> dict[int, Prefix]:
    prefixes = enumerate(view.partial_matches.prefixes.get(node.path, ()))
    return {index: prefix for index, prefix in prefixes if prefix is not None and prefix.is_live(view.now)}


def _label(node: Node) -> str:
    match node:
        case Leaf():
            return "any event" if node.name == ANY_NAME else node.name
        case Times():
            return f"{node.count} × {_label(node.of)}"
        case Seq():
            return ", then ".join(map(_label, node.members))
        case AnyOf():
            return " or ".join(map(_label, node.members))
        case AllOf() | SharedAll():
            return " and ".join(map(_label, node.members))
    raise TypeError(node)


def _until(prefix: Prefix) -> str:
    return f" until {utc_text(prefix.expires_at)}" if prefix.expires_at else ""
