"""Members of `all` that may want the same event: one event comes in, the strands that it grows go out.

A strand is one way to have shared out the events among the members. Strands that stand at the same places differ only
in when their open windows began: those that another one beats in every respect are dropped. The rest is a frontier
whose size depends on the pattern alone (`frontier.py` says why).
"""

from collections.abc import Iterator

from app.workflows.matching.match_state import Match, Outcome, Position, Stand, Stem, Strand, Turn
from app.workflows.matching.pattern_ast import AllOf, AnyOf, Leaf, Node, Seq, Tangle, Times

Skeleton = tuple[object, ...]


def step_tangle(node: Tangle, turn: Turn, stem: Stem | None) -> Outcome:
    """One event's turn in members of an `all` that may want the same event."""
    alive = [strand for strand in turn.old.strands.get(node.path, ()) if turn.alive(strand.stem)]
    fresh = [] if stem is None else [Strand((False,) * len(node.members), (), stem)]
    grown = [longer for strand in alive + fresh for longer in grow_strand(node, strand, turn)]
    whole = [strand for strand in grown if is_done(strand.positions)]
    partial = [strand for strand in grown if not is_done(strand.positions)]
    kept = [strand for strand in alive if all_survive(node.members, strand.positions, turn)]
    if kept or partial:
        turn.new.strands[node.path] = frontier(kept + partial, node.by_start)
    best = max(whole, key=began, default=None)
    return Outcome(None if best is None else Match(best.used, best.stem), bool(partial))


def grow_strand(node: Tangle, strand: Strand, turn: Turn) -> Iterator[Strand]:
    for positions in grow_one(node.members, strand.positions, turn):
        yield Strand(positions, (*strand.used, turn.seen), strand.stem)


def grow_one(members: tuple[Node, ...], positions: tuple[Position, ...], turn: Turn) -> Iterator[tuple[Position, ...]]:
    """One member takes the event; the others have to survive it."""
    for place, member in enumerate(members):
        before, after = positions[:place], positions[place + 1 :]
        for position in grow(member, positions[place], turn):
            others = members[:place] + members[place + 1 :]
            if all_survive(others, before + after, turn):
                yield (*before, position, *after)


def grow(node: Node, position: Position, turn: Turn) -> Iterator[Position]:
    """Every position of this node after it has taken the event."""
    if position is True or (isinstance(position, Stand) and is_overdue(node, position, turn)):
        return
    barred = position is not False and not node.unless.isdisjoint(turn.hits)
    start = position.start if isinstance(position, Stand) else turn.seen
    for place, inner in grow_form(node, position or Stand(0, (), None), turn):
        if is_done(inner):
            yield True
        elif not barred:
            yield Stand(place, inner, start if node.within is not None else None)


def grow_form(node: Node, stand: Stand, turn: Turn) -> Iterator[tuple[int, tuple[Position, ...]]]:
    """The new place and inner positions; all of them True when the node is done."""
    match node:
        case Leaf():
            if node.kind in turn.hits:
                yield 0, (True,)
        case Seq():
            yield from grow_chain(node.members[stand.place], len(node.members), stand, turn)
        case Times():
            yield from grow_chain(node.of, node.count, stand, turn)
        case AnyOf():
            open_places = [stand.place] if stand.inner else range(len(node.members))
            for place in open_places:
                inner = stand.inner[0] if stand.inner else False
                yield from ((place, (position,)) for position in grow(node.members[place], inner, turn))
        case AllOf():
            positions = stand.inner or (False,) * len(node.members)
            yield from ((0, grown) for grown in grow_one(node.members, positions, turn))


def grow_chain(member: Node, count: int, stand: Stand, turn: Turn) -> Iterator[tuple[int, tuple[Position, ...]]]:
    for position in grow(member, stand.inner[0] if stand.inner else False, turn):
        if position is not True:
            yield stand.place, (position,)
        else:
            yield stand.place + 1, (stand.place + 1 == count,)


def all_survive(members: tuple[Node, ...], positions: tuple[Position, ...], turn: Turn) -> bool:
    return all(survives(member, position, turn) for member, position in zip(members, positions, strict=True))


def survives(node: Node, position: Position, turn: Turn) -> bool:
    """Does an open position outlast an event that it does not take?"""
    if not isinstance(position, Stand):
        return True
    if is_overdue(node, position, turn) or not node.unless.isdisjoint(turn.hits):
        return False
    return all_survive(open_members(node, position), position.inner, turn)


def open_members(node: Node, stand: Stand) -> tuple[Node, ...]:
    match node:
        case Seq() | AnyOf():
            return (node.members[stand.place],)
        case Times():
            return (node.of,)
        case AllOf():
            return node.members
    raise TypeError(node)


def is_overdue(node: Node, stand: Stand, turn: Turn) -> bool:
    return node.within is not None and stand.start is not None and turn.seen.at - stand.start.at > node.within


def is_done(positions: tuple[Position, ...]) -> bool:
    return all(position is True for position in positions)


def frontier(strands: list[Strand], by_start: bool) -> tuple[Strand, ...]:
    """Drop each strand that another one beats or equals; of equals the one that is there already stays."""
    groups: dict[Skeleton, list[tuple[tuple[int, ...], Strand]]] = {}
    for strand in strands:
        skeleton, starts = outline(strand.positions)
        if by_start:
            starts = (*starts, began(strand))
        rivals = groups.setdefault(skeleton, [])
        if not any(beats(rival, starts) for rival, _ in rivals):
            rivals[:] = [(rival, other) for rival, other in rivals if not beats(starts, rival)]
            rivals.append((starts, strand))
    return tuple(strand for rivals in groups.values() for _, strand in rivals)


def beats(starts: tuple[int, ...], others: tuple[int, ...]) -> bool:
    return all(start >= other for start, other in zip(starts, others, strict=True))


def outline(positions: tuple[Position, ...]) -> tuple[Skeleton, tuple[int, ...]]:
    """The places without the windows' beginnings, and the beginnings."""
    skeleton: list[object] = []
    starts: list[int] = []
    for position in positions:
        if isinstance(position, Stand):
            inner, inner_starts = outline(position.inner)
            skeleton.append((position.place, inner))
            starts += [position.start.number] if position.start else []
            starts += inner_starts
        else:
            skeleton.append(position)
    return tuple(skeleton), tuple(starts)


def began(strand: Strand) -> int:
    return strand.used[0].number
