"""Computes the maximum size of one subject's progress from the pattern alone.

Every node except a `SharedAll` keeps one partial match per position: a prefix of a `seq`, a repetition of a `times`, a
complete member of an `all`. Each references its own events and, in the worst case, those of a prefix that no other one
shares. `progress_bound_shared.py` counts what a `SharedAll` adds.
"""

from collections import Counter
from collections.abc import Iterable

from app.workflows.matching.pattern_ast import ANY_NAME, AllOf, AnyOf, Bound, Node, Pattern, Seq, SharedAll, Times
from app.workflows.matching.progress_bound_shared import count_assignments, count_positions

_MAX_SHARED_LENGTH = 500
_MAX_SHARED_POSITIONS = 2000
_UNBOUNDED = Bound(10**15, 10**15)
_ZERO = Bound(0, 0)


def compute_bound(root: Node, *, has_trailing_none: bool) -> Bound:
    """The bound of a whole pattern. A trailing `none` also keeps the events of one match while its deadline is armed."""
    armed = Bound(_max_length(root), 1) if has_trailing_none else _ZERO
    return _add(armed, _bound(root, _ZERO))


def _add(*bounds: Bound) -> Bound:
    return Bound(sum(each.references for each in bounds), sum(each.records for each in bounds))


def _multiply(count: int, bound: Bound) -> Bound:
    return Bound(count * bound.references, count * bound.records)


def _bound(node: Node, prefix: Bound) -> Bound:
    """What the node and the nodes in it keep, when the prefix that they build on keeps `prefix`."""
    entered = _add(prefix, Bound(0, 1))
    match node:
        case Seq():
            return _bound_seq(node, prefix)
        case Times():
            repetitions = _multiply(node.count - 1, _add(Bound(_max_length(node.of), 1), prefix))
            return _add(repetitions, _bound(node.of, _add(entered, repetitions)))
        case AnyOf():
            return _add(*(_bound(member, entered) for member in node.members))
        case AllOf():
            done = [_add(Bound(_max_length(part), 1), prefix) for part in node.parts] if len(node.parts) > 1 else []
            return _add(*done, *(_bound(part, entered) for part in node.parts))
        case SharedAll():
            return _bound_shared_all(node, prefix)
    return _ZERO


def _bound_seq(node: Seq, prefix: Bound) -> Bound:
    bounds, before = [], 0
    for index, member in enumerate(node.members):
        bounds.append(_bound(member, _add(prefix, Bound(before, 1))))
        before += _max_length(member)
        if index < len(node.members) - 1:
            bounds.append(_add(Bound(before, 1), prefix))
    return _add(*bounds)


def _bound_shared_all(node: SharedAll, prefix: Bound) -> Bound:
    if _max_length(node) > _MAX_SHARED_LENGTH or count_positions(node) > _MAX_SHARED_POSITIONS:
        return _UNBOUNDED
    return _add(
        *(_multiply(count, _add(Bound(used, 1 + _max_length(node)), prefix)) for used, count in count_assignments(node))
    )


def _max_length(node: Node) -> int:
    """The maximum number of events that one match uses."""
    match node:
        case Times():
            return node.count * _max_length(node.of)
        case AnyOf():
            return max(map(_max_length, node.members))
        case Seq() | AllOf() | SharedAll():
            return sum(map(_max_length, node.members))
    return 1


def find_busiest_name(patterns: Iterable[Pattern], names: Iterable[str]) -> tuple[int, str]:
    """The maximum number of events that one subject's progress references in all patterns that read one event name, and
    that name. Only the given names are considered (`*`: all)."""
    references: Counter[str] = Counter()
    for pattern in patterns:
        references.update(dict.fromkeys(pattern.names, pattern.bound.references))
    any_name = references.pop(ANY_NAME, 0)
    wanted = set(names)
    found = {name: count for name, count in references.items() if name in wanted or ANY_NAME in wanted}
    name = max(found, key=lambda name: found[name], default=ANY_NAME)
    return found.get(name, 0) + any_name, name
