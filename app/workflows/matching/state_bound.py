"""A pattern tree comes in; the most that one subject's progress can ever hold goes out.

Everything but a tangle keeps one partial match per place: a prefix of a `seq`, a repetition of a `times`, a finished
member of an `all`. Each names its own events and, at worst, those of a stem that no other one shares. What a tangle
adds is counted in `frontier.py`.
"""

from collections import Counter
from collections.abc import Iterable

from app.workflows.matching.pattern_ast import ANY_NAME, AllOf, AnyOf, Bound, Node, Pattern, Seq, Tangle, Times
from app.workflows.matching.state_bound_shared import positions, strands_of

LONGEST_TANGLE = 500
MOST_POSITIONS = 2000
NEVER = Bound(10**15, 10**15)
EMPTY = Bound(0, 0)


def bound_of(root: Node, has_quiet: bool) -> Bound:
    """`has_quiet`: the events of one whole match are kept, too, while its deadline is armed."""
    armed = Bound(length(root), 1) if has_quiet else EMPTY
    return plus(armed, load(root, EMPTY))


def plus(*loads: Bound) -> Bound:
    return Bound(sum(each.references for each in loads), sum(each.records for each in loads))


def many(count: int, each: Bound) -> Bound:
    return Bound(count * each.references, count * each.records)


def load(node: Node, stem: Bound) -> Bound:
    """What `node` and the nodes in it keep, when a stem that they begin on holds `stem`."""
    entered = plus(stem, Bound(0, 1))
    match node:
        case Seq():
            return load_seq(node, stem)
        case Times():
            links = many(node.count - 1, plus(Bound(length(node.of), 1), stem))
            return plus(links, load(node.of, plus(entered, links)))
        case AnyOf():
            return plus(*(load(member, entered) for member in node.members))
        case AllOf():
            done = [plus(Bound(length(part), 1), stem) for part in node.parts] if len(node.parts) > 1 else []
            return plus(*done, *(load(part, entered) for part in node.parts))
        case Tangle():
            return load_tangle(node, stem)
    return EMPTY


def load_seq(node: Seq, stem: Bound) -> Bound:
    loads, before = [], 0
    for place, member in enumerate(node.members):
        loads.append(load(member, plus(stem, Bound(before, 1))))
        before += length(member)
        if place < len(node.members) - 1:
            loads.append(plus(Bound(before, 1), stem))
    return plus(*loads)


def load_tangle(node: Tangle, stem: Bound) -> Bound:
    if length(node) > LONGEST_TANGLE or positions(node) > MOST_POSITIONS:
        return NEVER
    strands = strands_of(node)
    return plus(*(many(count, plus(Bound(used, 1 + length(node)), stem)) for used, count in strands))


def length(node: Node) -> int:
    """The most events that one match uses."""
    match node:
        case Times():
            return node.count * length(node.of)
        case AnyOf():
            return max(map(length, node.members))
        case Seq() | AllOf() | Tangle():
            return sum(map(length, node.members))
    return 1


def most_together(patterns: Iterable[Pattern], names: Iterable[str]) -> tuple[int, str]:
    """How many events one subject's progress in all these patterns may name at most, counted over those that look at one
    event, and that event's name: of `names` (`*`: of any) the one that is looked at most."""
    loads: Counter[str] = Counter()
    for pattern in patterns:
        loads.update(dict.fromkeys(pattern.names, pattern.bound.references))
    anywhere = loads.pop(ANY_NAME, 0)
    asked = set(names)
    found = {name: load for name, load in loads.items() if name in asked or ANY_NAME in asked}
    name = max(found, key=lambda name: found[name], default=ANY_NAME)
    return found.get(name, 0) + anywhere, name
