"""A tangle comes in; how many strands it can ever hold at once, and how many events they name, go out.

For each arrangement of places (a shape per member) the strands that no other one beats differ in when their open
windows began, and all members cannot begin as late as each could alone. How many such strands can there be?

1. Call what one member has used, one event after the other, a thread; an `all` inside of a member splits it into more.
2. Fix everything else that a strand uses. Then a thread of w events has one best beginning: the latest that avoids
   those b events of the rest that it could want. Over all that the rest may use, there are at most C(w + b, w) such
   beginnings (a maximum representative family of w-sets against b-sets). Events that nobody else could want do not
   count. Where the thread is a chain of r runs of equal leaves, with no window or `unless` closed on the way, only how
   many events of each run are taken matters: C(r + b, r).
3. A strand on the frontier is one such choice per open window, and the last choice follows from the others. (Not where
   a member holds an `all` of its own: what lies before it has to end before any of its threads begins.)
4. Where a window or a repetition further out makes the first event of the whole count, that is one choice more, unless
   each member that has begun shows its beginning in a window of its own.
"""

from collections.abc import Iterator
from itertools import product
from math import comb, prod
from typing import NamedTuple

from app.workflows.matching.pattern_ast import AllOf, AnyOf, Leaf, Node, Seq, Tangle, Times, may_meet

Slot = frozenset[tuple[int, str]]  # the leaves, as (kind, name), that one used event may have filled
Thread = tuple[Slot, ...]


class Window(NamedTuple):
    threads: tuple[Thread, ...]
    plain: bool


class Shape(NamedTuple):
    """One way in which a member can stand: what it has used, and the windows that are open in it.

    `shown`: a window of its own shows where it began.
    """

    threads: tuple[Thread, ...]
    windows: tuple[Window, ...]
    plain: bool
    shown: bool

    def slots(self) -> Thread:
        return tuple(slot for thread in self.threads for slot in thread)


UNTOUCHED = Shape((), (), True, True)


def strands_of(node: Tangle) -> Iterator[tuple[int, int]]:
    """For each arrangement of places: the events that a strand uses, the strands that there can be."""
    for shapes in arrangements(node.members):
        yield sum(len(shape.slots()) for shape in shapes), frontier_size(shapes, node.by_start)


def positions(node: Node) -> int:
    """In how many ways a strand can stand in `node`: not begun, done, and everything between."""
    match node:
        case Times():
            return node.count * (positions(node.of) - 1) + 1
        case Seq():
            return sum(positions(member) - 1 for member in node.members) + 1
        case AnyOf():
            return sum(positions(member) - 2 for member in node.members) + 2
        case AllOf() | Tangle():
            return prod(map(positions, node.members))
    return 2


def frontier_size(shapes: tuple[Shape, ...], by_start: bool) -> int:
    choices, hidden, shown = [], 0, 0
    for at, shape in enumerate(shapes):
        rivals = [slot for place, other in enumerate(shapes) if place != at for slot in other.slots()]
        choices += [beginnings(shape, window.threads, window.plain, rivals) for window in shape.windows]
        if shape.threads and not shape.shown:
            hidden += beginnings(shape, shape.threads, shape.plain, rivals)
        shown = shown or bool(shape.threads and shape.shown)
    if by_start and hidden:
        choices.append(hidden + shown)
    if any(len(shape.threads) > 1 for shape in shapes):
        return prod(choices)
    return prod(sorted(choices)[:-1])


def beginnings(shape: Shape, threads: tuple[Thread, ...], plain: bool, rivals: list[Slot]) -> int:
    if len(shape.threads) == 1:
        return sum(best_beginnings(thread, plain, rivals) for thread in threads)
    return sum(best_beginnings(thread, plain, [*rivals, *shape.slots()]) for thread in threads)


def best_beginnings(thread: Thread, plain: bool, rivals: list[Slot]) -> int:
    taken = sum(any(may_be_one(rival, slot) for slot in set(thread)) for rival in rivals)
    kinds = set(rivals)
    wanted = [slot for slot in thread if any(may_be_one(rival, slot) for rival in kinds)]
    own = len(runs(wanted)) if plain else len(wanted)
    return comb(own + taken, own)


def runs(slots: list[Slot]) -> list[Slot]:
    """The slots that follow each other and may be one."""
    return [slot for at, slot in enumerate(slots) if at == 0 or slots[at - 1] != slot]


def may_be_one(slot: Slot, other: Slot) -> bool:
    """May one event fill both?"""
    return may_meet(frozenset(name for _, name in slot), frozenset(name for _, name in other))


def arrangements(members: tuple[Node, ...]) -> Iterator[tuple[Shape, ...]]:
    """Every combination but the one in which nothing has begun and the one in which everything is done."""
    ends = [done(member) for member in members]
    ways = [[UNTOUCHED, end, *shapes_of(member)] for member, end in zip(members, ends, strict=True)]
    for shapes in product(*ways):
        begun = any(shape is not UNTOUCHED for shape in shapes)
        open_ = any(shape is not end for shape, end in zip(shapes, ends, strict=True))
        if begun and open_:
            yield shapes


def shapes_of(node: Node) -> Iterator[Shape]:
    """Every way in which `node` can be begun and not done."""
    plain = is_plain(node)
    for shape in open_shapes(node):
        own = (Window(shape.threads, plain),) if node.within is not None else ()
        yield Shape(shape.threads, shape.windows + own, plain, node.within is not None)


def open_shapes(node: Node) -> Iterator[Shape]:
    match node:
        case Times():
            yield from chain_shapes((node.of,) * node.count)
        case Seq():
            yield from chain_shapes(node.members)
        case AnyOf():
            for member in node.members:
                yield from shapes_of(member)
        case AllOf():
            for shapes in arrangements(node.members):
                threads = tuple(thread for shape in shapes for thread in shape.threads)
                yield Shape(threads, tuple(window for shape in shapes for window in shape.windows), False, False)


def chain_shapes(members: tuple[Node, ...]) -> Iterator[Shape]:
    before: Thread = ()
    for member in members:
        if before:
            yield Shape((before,), (), True, False)
        for shape in shapes_of(member):
            yield shape._replace(threads=following(before, shape.threads))
        before += used_by(member)


def following(before: Thread, threads: tuple[Thread, ...]) -> tuple[Thread, ...]:
    if len(threads) == 1:
        return (before + threads[0],)
    return (before, *threads) if before else threads


def done(node: Node) -> Shape:
    plain = is_plain(node) and node.within is None and not node.unless
    return Shape((used_by(node),), (), plain, False)


def used_by(node: Node) -> Thread:
    """The slots of one whole match; of alternatives the longer one, filled by either."""
    match node:
        case Leaf():
            return (frozenset({(node.kind, node.name)}),)
        case Times():
            return used_by(node.of) * node.count
        case AnyOf():
            return either([used_by(member) for member in node.members])
        case Seq() | AllOf():
            return tuple(slot for member in node.members for slot in used_by(member))
    raise TypeError(node)


def either(threads: list[Thread]) -> Thread:
    length = max(map(len, threads))
    return tuple(frozenset().union(*(thread[at] for thread in threads if at < len(thread))) for at in range(length))


def is_plain(node: Node) -> bool:
    """Runs of leaves one after the other, without a window or an `unless` inside of this node (its own aside)."""
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
    return all(member.within is None and not member.unless and is_plain(member) for member in inner)
