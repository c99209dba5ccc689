"""Advances the nodes of a pattern by one event.

1. Each member of a `seq` or `times` builds on a *prefix*: the match of everything before it. The later a prefix began,
   the longer it stays inside every enclosing window and outlives every enclosing `unless`.
2. So of all partial matches at the same position of the pattern only the one that began last is kept: every completion
   of another one is also a completion of this one. The number of positions depends on the pattern alone.
3. Members of an `all` that cannot match the same event are advanced independently, so that 2 holds for each of them.
   Members that can are grouped in a `SharedAll`, in which partial matches compete for events (`shared_all.py`).
4. A prefix expires at the end of the narrowest window that is open around it.
5. An event that matches a node's `unless` cancels what began before it in that node, not what begins with it. It does
   not cancel a match that it completes: the last event is not between the first and the last.
"""

from dataclasses import replace
from datetime import datetime
from operator import attrgetter

from app.workflows.matching.partial_match import (
    NO_PARTIAL_MATCHES,
    NO_RESULT,
    NodeMatch,
    NodeResult,
    PartialMatches,
    Prefix,
    Step,
)
from app.workflows.matching.pattern_ast import AllOf, AnyOf, Leaf, Node, Seq, SharedAll, Times
from app.workflows.matching.shared_all import advance_shared_all

_NODE_UNITS = 30


def advance_node(node: Node, step: Step, prefix: Prefix | None) -> NodeResult:
    """Advance one node by the event. A match may begin on `prefix`; None: no match may begin here yet."""
    if prefix is None and step.before is NO_PARTIAL_MATCHES:
        return NO_RESULT
    step.budget.take(_NODE_UNITS, "the pattern")
    if step.before is NO_PARTIAL_MATCHES or node.unless.isdisjoint(step.kinds):
        return _advance_form(node, step, prefix)
    completed = _advance_form(node, replace(step, after=PartialMatches()), prefix).match
    begun = _advance_form(node, replace(step, before=NO_PARTIAL_MATCHES), prefix)
    return NodeResult(completed, begun.has_partial)


def _advance_form(node: Node, step: Step, prefix: Prefix | None) -> NodeResult:
    match node:
        case Leaf():
            return _advance_leaf(node, step, prefix)
        case Seq():
            return _advance_seq(node, step, prefix)
        case Times():
            return _advance_times(node, step, prefix)
        case AllOf():
            return _advance_all(node, step, prefix)
        case AnyOf():
            return _advance_any(node, step, prefix)
        case SharedAll():
            return advance_shared_all(node, step, prefix)
    raise TypeError(node)


def _advance_leaf(node: Leaf, step: Step, prefix: Prefix | None) -> NodeResult:
    if prefix is None or node.kind not in step.kinds:
        return NO_RESULT
    return NodeResult(NodeMatch((step.event,), prefix), False)


def _advance_seq(node: Seq, step: Step, prefix: Prefix | None) -> NodeResult:
    """`before.prefixes[path][k]` is the match of the first k + 1 members that began last."""
    last = len(node.members) - 1
    known = _live_prefixes(step, node, last)
    updated, completed, has_partial = list(known), None, False
    for index, member in enumerate(node.members):
        match, member_partial = advance_node(member, step, known[index - 1] if index else _enter(node, step, prefix))
        has_partial |= member_partial
        if match is None:
            continue
        longer = _leave(node, match) if index == 0 else _append(match)
        if index == last:
            completed = _as_match(longer)
        else:
            updated[index], has_partial = _later(longer, known[index]), True
    _store(step, node, updated)
    return NodeResult(completed, has_partial)


def _advance_times(node: Times, step: Step, prefix: Prefix | None) -> NodeResult:
    """`before.prefixes[path]` are the repetitions so far, the last one first. Each of its tails is a partial match."""
    known = _live_repetitions(step, step.before.prefixes.get(node.path, ()))
    inner = None if prefix is None else Prefix((), _window_end(node, step, prefix), prefix, known)
    match, has_partial = advance_node(node.of, step, inner)
    completed = None
    if match is not None:
        repetition = Prefix(match.used, match.prefix.expires_at, match.prefix.parent)
        repetitions = (repetition, *_live_repetitions(step, match.prefix.earlier))
        if len(repetitions) == node.count:
            completed = _as_match(_join(repetitions))
        if not known or repetition.start > known[0].start:
            known = repetitions[: node.count - 1]
        has_partial |= node.count > 1
    _store(step, node, known)
    return NodeResult(completed, has_partial)


def _advance_all(node: AllOf, step: Step, prefix: Prefix | None) -> NodeResult:
    """`before.prefixes[path][k]` is the match of part k that began last. No two parts match the same event."""
    known = _live_prefixes(step, node, len(node.parts))
    updated, completed, has_partial = list(known), None, False
    inner = _enter(node, step, prefix)
    for index, part in enumerate(node.parts):
        match, part_partial = advance_node(part, step, inner)
        has_partial |= part_partial
        if match is None:
            continue
        own = _leave(node, match)
        others = [other for at, other in enumerate(known) if at != index and other is not None]
        if len(others) == len(known) - 1:
            completed = _as_match(_merge([own, *others]))
        if len(known) > 1:
            updated[index], has_partial = _later(own, known[index]), True
    _store(step, node, updated)
    return NodeResult(completed, has_partial)


def _advance_any(node: AnyOf, step: Step, prefix: Prefix | None) -> NodeResult:
    inner = _enter(node, step, prefix)
    results = [advance_node(member, step, inner) for member in node.members]
    matches = [_leave(node, result.match) for result in results if result.match is not None]
    completed = _as_match(max(matches, key=attrgetter("start"))) if matches else None
    return NodeResult(completed, any(result.has_partial for result in results))


def _enter(node: Node, step: Step, prefix: Prefix | None) -> Prefix | None:
    """The prefix for a match of `node` that begins now: the same, or a new one that expires with the node's window."""
    if prefix is None or node.within is None:
        return prefix
    return Prefix((), _window_end(node, step, prefix), prefix)


def _window_end(node: Node, step: Step, prefix: Prefix) -> datetime | None:
    if node.within is None:
        return prefix.expires_at
    end = step.event.at + node.within
    return end if prefix.expires_at is None else min(end, prefix.expires_at)


def _leave(node: Node, match: NodeMatch) -> Prefix:
    """The match of a first member, on the prefix outside of the node (the inverse of `_enter`)."""
    parent = match.prefix if node.within is None else match.prefix.parent
    return Prefix(match.used, match.prefix.expires_at, parent)


def _append(match: NodeMatch) -> Prefix:
    """The prefix that a later member builds on, with the events of that member appended."""
    return Prefix(match.prefix.used + match.used, match.prefix.expires_at, match.prefix.parent)


def _join(repetitions: tuple[Prefix, ...]) -> Prefix:
    first = repetitions[-1]
    used = tuple(event for repetition in reversed(repetitions) for event in repetition.used)
    return Prefix(used, first.expires_at, first.parent)


def _merge(prefixes: list[Prefix]) -> Prefix:
    first = min(prefixes, key=attrgetter("start"))
    used = sorted(event for prefix in prefixes for event in prefix.used)
    return Prefix(tuple(used), first.expires_at, first.parent)


def _as_match(prefix: Prefix) -> NodeMatch:
    assert prefix.parent is not None
    return NodeMatch(prefix.used, prefix.parent)


def _later(prefix: Prefix, other: Prefix | None) -> Prefix:
    """The one that began later; of two with the same start, the one that was complete first."""
    return other if other is not None and other.start >= prefix.start else prefix


def _live_prefixes(step: Step, node: Node, count: int) -> tuple[Prefix | None, ...]:
    prefixes = step.before.prefixes.get(node.path)
    if prefixes is None:
        return (None,) * count
    return tuple(prefix if prefix is not None and prefix.is_live(step.event.at) else None for prefix in prefixes)


def _live_repetitions(step: Step, repetitions: tuple[Prefix | None, ...]) -> tuple[Prefix, ...]:
    """Repetitions that began earlier expire earlier, so the live ones are the first of the tuple."""
    return tuple(each for each in repetitions if each is not None and each.is_live(step.event.at))


def _store(step: Step, node: Node, prefixes: list[Prefix | None] | tuple[Prefix, ...]) -> None:
    if any(prefix is not None for prefix in prefixes):
        step.after.prefixes[node.path] = tuple(prefixes)
