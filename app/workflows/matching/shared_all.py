"""Advances a `SharedAll`: members of an `all` that may match the same event.

An assignment is one way to distribute the events among the members. Assignments with the same positions differ only in
when their open windows began. An assignment that another one dominates in every start is dropped. The size of the rest,
a Pareto front, depends on the pattern alone (`progress_bound_shared.py` explains why).
"""

from collections.abc import Iterator
from operator import attrgetter

from app.workflows.expressions.work_budget import Budget
from app.workflows.matching.partial_match import Assignment, NodeMatch, NodeResult, OpenPosition, Position, Prefix, Step
from app.workflows.matching.pattern_ast import AllOf, AnyOf, Leaf, Node, Seq, SharedAll, Times

Skeleton = tuple[object, ...]
# Units of work for one member of one partial match, and for one comparison of two.
_MEMBER_UNITS, _COMPARISON_UNITS = 25, 10


def advance_shared_all(node: SharedAll, step: Step, prefix: Prefix | None) -> NodeResult:
    """Advance all assignments by one event. A new one may begin on `prefix`."""
    live = [each for each in step.before.assignments.get(node.path, ()) if each.prefix.is_live(step.event.at)]
    new = [] if prefix is None else [Assignment((False,) * len(node.members), (), prefix)]
    step.budget.take(_MEMBER_UNITS * len(node.members) * (len(live) + len(new)), "the pattern")
    extended = [longer for assignment in live + new for longer in _extend(node, assignment, step)]
    complete = [assignment for assignment in extended if _is_complete(assignment.positions)]
    partial = [assignment for assignment in extended if not _is_complete(assignment.positions)]
    unchanged = [assignment for assignment in live if _all_survive(node.members, assignment.positions, step)]
    if unchanged or partial:
        step.after.assignments[node.path] = _drop_dominated(unchanged + partial, node.ranks_by_start, step.budget)
    best = max(complete, key=attrgetter("start"), default=None)
    return NodeResult(None if best is None else NodeMatch(best.used, best.prefix), bool(partial))


def _extend(node: SharedAll, assignment: Assignment, step: Step) -> Iterator[Assignment]:
    for positions in _advance_one(node.members, assignment.positions, step):
        yield Assignment(positions, (*assignment.used, step.event), assignment.prefix)


def _advance_one(
    members: tuple[Node, ...], positions: tuple[Position, ...], step: Step
) -> Iterator[tuple[Position, ...]]:
    """One member takes the event; the others must survive it."""
    for index, member in enumerate(members):
        before, after = positions[:index], positions[index + 1 :]
        for position in _advance(member, positions[index], step):
            others = members[:index] + members[index + 1 :]
            if _all_survive(others, before + after, step):
                yield (*before, position, *after)


def _advance(node: Node, position: Position, step: Step) -> Iterator[Position]:
    """Every position of the node after it has taken the event."""
    if position is True or (isinstance(position, OpenPosition) and _is_expired(node, position, step)):
        return
    cancelled = position is not False and not node.unless.isdisjoint(step.kinds)
    first = position.first if isinstance(position, OpenPosition) else step.event
    for index, inner in _advance_form(node, position or OpenPosition(0, (), None), step):
        if _is_complete(inner):
            yield True
        elif not cancelled:
            yield OpenPosition(index, inner, first if node.within is not None else None)


def _advance_form(node: Node, position: OpenPosition, step: Step) -> Iterator[tuple[int, tuple[Position, ...]]]:
    """The new index and inner positions; all of them are True when the node is complete."""
    match node:
        case Leaf():
            if node.kind in step.kinds:
                yield 0, (True,)
        case Seq():
            yield from _advance_ordered(node.members[position.member], len(node.members), position, step)
        case Times():
            yield from _advance_ordered(node.of, node.count, position, step)
        case AnyOf():
            alternatives = [position.member] if position.inner else range(len(node.members))
            for index in alternatives:
                inner = position.inner[0] if position.inner else False
                yield from ((index, (advanced,)) for advanced in _advance(node.members[index], inner, step))
        case AllOf():
            positions = position.inner or (False,) * len(node.members)
            yield from ((0, advanced) for advanced in _advance_one(node.members, positions, step))


def _advance_ordered(
    member: Node, count: int, position: OpenPosition, step: Step
) -> Iterator[tuple[int, tuple[Position, ...]]]:
    for advanced in _advance(member, position.inner[0] if position.inner else False, step):
        if advanced is not True:
            yield position.member, (advanced,)
        else:
            yield position.member + 1, (position.member + 1 == count,)


def _all_survive(members: tuple[Node, ...], positions: tuple[Position, ...], step: Step) -> bool:
    return all(_survives(member, position, step) for member, position in zip(members, positions, strict=True))


def _survives(node: Node, position: Position, step: Step) -> bool:
    """Whether an open position stays valid after an event that it does not take."""
    if not isinstance(position, OpenPosition):
        return True
    if _is_expired(node, position, step) or not node.unless.isdisjoint(step.kinds):
        return False
    return _all_survive(_open_members(node, position), position.inner, step)


def _open_members(node: Node, position: OpenPosition) -> tuple[Node, ...]:
    match node:
        case Seq() | AnyOf():
            return (node.members[position.member],)
        case Times():
            return (node.of,)
        case AllOf():
            return node.members
    raise TypeError(node)


def _is_expired(node: Node, position: OpenPosition, step: Step) -> bool:
    return node.within is not None and position.first is not None and step.event.at - position.first.at > node.within


def _is_complete(positions: tuple[Position, ...]) -> bool:
    return all(position is True for position in positions)


def _drop_dominated(assignments: list[Assignment], ranks_by_start: bool, budget: Budget) -> tuple[Assignment, ...]:
    """The Pareto front: drops each assignment that another one dominates or equals. Of equals the first one stays."""
    groups: dict[Skeleton, list[tuple[tuple[int, ...], Assignment]]] = {}
    for assignment in assignments:
        skeleton, starts = _split_starts(assignment.positions)
        if ranks_by_start:
            starts = (*starts, assignment.start)
        front = groups.setdefault(skeleton, [])
        budget.take(_COMPARISON_UNITS * (1 + 2 * len(front)), "the pattern")
        if not any(_dominates(other, starts) for other, _ in front):
            front[:] = [(other, kept) for other, kept in front if not _dominates(starts, other)]
            front.append((starts, assignment))
    return tuple(assignment for front in groups.values() for _, assignment in front)


def _dominates(starts: tuple[int, ...], others: tuple[int, ...]) -> bool:
    return all(start >= other for start, other in zip(starts, others, strict=True))


def _split_starts(positions: tuple[Position, ...]) -> tuple[Skeleton, tuple[int, ...]]:
    """The positions without the starts of their windows, and those starts."""
    skeleton: list[object] = []
    starts: list[int] = []
    for position in positions:
        if isinstance(position, OpenPosition):
            inner, inner_starts = _split_starts(position.inner)
            skeleton.append((position.member, inner))
            starts += [position.first.number] if position.first else []
            starts += inner_starts
        else:
            skeleton.append(position)
    return tuple(skeleton), tuple(starts)
