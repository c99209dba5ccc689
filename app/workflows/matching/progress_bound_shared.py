"""Counts the assignments that a `SharedAll` can hold at once, and the events that they reference.

An arrangement is one shape per member: how far the member is. In each arrangement the assignments of the Pareto front
differ in when their open windows began, and not all members can begin as late as each could alone. How many such
assignments are there at most?

1. The events that one member has used, one after the other, form a chain. An `all` inside of a member splits it into
   several chains.
2. Fix everything else that an assignment uses. Then a chain of w events has one best start: the latest that avoids
   those b of the other events that it could use itself. Over all possible choices of the others there are at most
   C(w + b, w) such starts (a maximum representative family of w-sets against b-sets). Events that no other member could
   use do not count. If the chain consists of r runs of equal leaves, and closes no window or `unless` on the way, only
   the number of events taken from each run matters: C(r + b, r).
3. An assignment on the front is one such choice per open window; the last choice follows from the others. (Not if a
   member contains an `all` of its own: its prefix has to end before any of its chains begins.)
4. If an enclosing window or repetition makes the first event of the whole count, that is one choice more, unless each
   member that has begun exposes its start in a window of its own.
"""

from collections.abc import Iterator
from itertools import product
from math import comb, prod
from typing import NamedTuple

from app.workflows.matching.pattern_ast import AllOf, AnyOf, Leaf, Node, Seq, SharedAll, Times, may_overlap

# The leaves, as (kind, name), that one used event may have matched.
Slot = frozenset[tuple[int, str]]
Chain = tuple[Slot, ...]


class Window(NamedTuple):
    """An open window: the chains inside of it."""

    chains: tuple[Chain, ...]
    is_plain: bool


class Shape(NamedTuple):
    """How far a member is: the chains of events that it has used, and the windows that are open in it.

    `exposes_start`: a window of its own exposes where it began.
    """

    chains: tuple[Chain, ...]
    windows: tuple[Window, ...]
    is_plain: bool
    exposes_start: bool

    def slots(self) -> Chain:
        """The slots of all chains."""
        return tuple(slot for chain in self.chains for slot in chain)


_NOT_BEGUN = Shape((), (), True, True)


def count_assignments(node: SharedAll) -> Iterator[tuple[int, int]]:
    """For each arrangement: the number of events that an assignment uses, and the maximum number of assignments."""
    for shapes in _arrangements(node.members):
        yield sum(len(shape.slots()) for shape in shapes), _max_front(shapes, node.ranks_by_start)


def count_positions(node: Node) -> int:
    """The number of positions of an assignment in the node: not begun, complete, and everything between."""
    match node:
        case Times():
            return node.count * (count_positions(node.of) - 1) + 1
        case Seq():
            return sum(count_positions(member) - 1 for member in node.members) + 1
        case AnyOf():
            return sum(count_positions(member) - 2 for member in node.members) + 2
        case AllOf() | SharedAll():
            return prod(map(count_positions, node.members))
    return 2


def _max_front(shapes: tuple[Shape, ...], ranks_by_start: bool) -> int:
    choices, hidden, exposed = [], 0, 0
    for at, shape in enumerate(shapes):
        others = [slot for index, other in enumerate(shapes) if index != at for slot in other.slots()]
        choices += [_count_starts(shape, window.chains, window.is_plain, others) for window in shape.windows]
        if shape.chains and not shape.exposes_start:
            hidden += _count_starts(shape, shape.chains, shape.is_plain, others)
        exposed = exposed or bool(shape.chains and shape.exposes_start)
    if ranks_by_start and hidden:
        choices.append(hidden + exposed)
    if any(len(shape.chains) > 1 for shape in shapes):
        return prod(choices)
    return prod(sorted(choices)[:-1])


def _count_starts(shape: Shape, chains: tuple[Chain, ...], is_plain: bool, others: list[Slot]) -> int:
    if len(shape.chains) == 1:
        return sum(_count_best_starts(chain, is_plain, others) for chain in chains)
    return sum(_count_best_starts(chain, is_plain, [*others, *shape.slots()]) for chain in chains)


def _count_best_starts(chain: Chain, is_plain: bool, others: list[Slot]) -> int:
    competing = sum(any(_may_be_same_event(other, slot) for slot in set(chain)) for other in others)
    distinct = set(others)
    contested = [slot for slot in chain if any(_may_be_same_event(other, slot) for other in distinct)]
    own = len(_runs(contested)) if is_plain else len(contested)
    return comb(own + competing, own)


def _runs(slots: list[Slot]) -> list[Slot]:
    """The slots without those that equal the one before."""
    return [slot for at, slot in enumerate(slots) if at == 0 or slots[at - 1] != slot]


def _may_be_same_event(slot: Slot, other: Slot) -> bool:
    """Whether one event can match both slots."""
    return may_overlap(frozenset(name for _, name in slot), frozenset(name for _, name in other))


def _arrangements(members: tuple[Node, ...]) -> Iterator[tuple[Shape, ...]]:
    """Every combination of shapes but two: no member has begun, and all members are complete."""
    complete = [_complete_shape(member) for member in members]
    options = [[_NOT_BEGUN, end, *_open_shapes(member)] for member, end in zip(members, complete, strict=True)]
    for shapes in product(*options):
        has_begun = any(shape is not _NOT_BEGUN for shape in shapes)
        is_open = any(shape is not end for shape, end in zip(shapes, complete, strict=True))
        if has_begun and is_open:
            yield shapes


def _open_shapes(node: Node) -> Iterator[Shape]:
    """Every shape in which the node has begun and is not complete."""
    is_plain = _is_plain(node)
    for shape in _open_form_shapes(node):
        own = (Window(shape.chains, is_plain),) if node.within is not None else ()
        yield Shape(shape.chains, shape.windows + own, is_plain, node.within is not None)


def _open_form_shapes(node: Node) -> Iterator[Shape]:
    match node:
        case Times():
            yield from _ordered_shapes((node.of,) * node.count)
        case Seq():
            yield from _ordered_shapes(node.members)
        case AnyOf():
            for member in node.members:
                yield from _open_shapes(member)
        case AllOf():
            for shapes in _arrangements(node.members):
                chains = tuple(chain for shape in shapes for chain in shape.chains)
                yield Shape(chains, tuple(window for shape in shapes for window in shape.windows), False, False)


def _ordered_shapes(members: tuple[Node, ...]) -> Iterator[Shape]:
    before: Chain = ()
    for member in members:
        if before:
            yield Shape((before,), (), True, False)
        for shape in _open_shapes(member):
            yield shape._replace(chains=_prepend(before, shape.chains))
        before += _match_slots(member)


def _prepend(before: Chain, chains: tuple[Chain, ...]) -> tuple[Chain, ...]:
    if len(chains) == 1:
        return (before + chains[0],)
    return (before, *chains) if before else chains


def _complete_shape(node: Node) -> Shape:
    is_plain = _is_plain(node) and node.within is None and not node.unless
    return Shape((_match_slots(node),), (), is_plain, False)


def _match_slots(node: Node) -> Chain:
    """The slots of one complete match; for alternatives those of the longest, each open to all alternatives."""
    match node:
        case Leaf():
            return (frozenset({(node.kind, node.name)}),)
        case Times():
            return _match_slots(node.of) * node.count
        case AnyOf():
            return _unite([_match_slots(member) for member in node.members])
        case Seq() | AllOf():
            return tuple(slot for member in node.members for slot in _match_slots(member))
    raise TypeError(node)


def _unite(chains: list[Chain]) -> Chain:
    length = max(map(len, chains))
    return tuple(frozenset().union(*(chain[at] for chain in chains if at < len(chain))) for at in range(length))


def _is_plain(node: Node) -> bool:
    """Whether the node is only runs of leaves, without a window or an `unless` inside of it (its own excepted)."""
    match node:
        case Times():
            inner: tuple[Node, ...] = (node.of,)
        case Seq():
            inner = node.members
        case AnyOf():
            return all(isinstance(member, Leaf) for member in node.members)
        case AllOf():
            return False
        case _:
            return True
    return all(member.within is None and not member.unless and _is_plain(member) for member in inner)
