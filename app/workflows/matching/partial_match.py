"""One event comes in; the partial matches that it grows, completes or ends go out.

1. Whatever has to end before a member of `seq` or `times` may begin is that member's *stem*. The later a match begins,
   the better its stem, and the longer it outlasts every window and every `unless` around it.
2. So of all partial matches that stand at the same place of the pattern only the one that began last is kept: it does
   whatever the others could do. Places are the pattern's; their number does not depend on the subject.
3. Members of `all` that cannot want the same event are followed each on its own, so that 2 holds for each of them.
   Those that can are a `Tangle`, in which partial matches compete for events (`tangle.py`).
4. A stem's `until` is the end of the narrowest window open around it; an event later than that finds it dead.
5. An event that matches a node's `unless` ends what began before it in that node, not what begins with it. A match
   that it completes stays: the last event does not lie between first and last.
"""

from dataclasses import replace
from datetime import datetime

from app.workflows.matching.match_state import NO_OUTCOME, NOTHING, Match, Outcome, Standing, Stem, Turn, in_order
from app.workflows.matching.pattern_ast import AllOf, AnyOf, Leaf, Node, Seq, Tangle, Times
from app.workflows.matching.shared_all import step_tangle


def step(node: Node, turn: Turn, stem: Stem | None) -> Outcome:
    """Let one node see the event. On `stem` a match may begin with it; None: nothing may begin here yet."""
    if stem is None and turn.old is NOTHING:
        return NO_OUTCOME
    if turn.old is NOTHING or node.unless.isdisjoint(turn.hits):
        return step_form(node, turn, stem)
    completed = step_form(node, replace(turn, new=Standing()), stem).match
    return Outcome(completed, step_form(node, replace(turn, old=NOTHING), stem).stands)


def step_form(node: Node, turn: Turn, stem: Stem | None) -> Outcome:
    match node:
        case Leaf():
            return step_leaf(node, turn, stem)
        case Seq():
            return step_seq(node, turn, stem)
        case Times():
            return step_times(node, turn, stem)
        case AllOf():
            return step_all(node, turn, stem)
        case AnyOf():
            return step_any(node, turn, stem)
        case Tangle():
            return step_tangle(node, turn, stem)
    raise TypeError(node)


def step_leaf(node: Leaf, turn: Turn, stem: Stem | None) -> Outcome:
    if stem is None or node.kind not in turn.hits:
        return NO_OUTCOME
    return Outcome(Match((turn.seen,), stem), False)


def step_seq(node: Seq, turn: Turn, stem: Stem | None) -> Outcome:
    """`old.stems[path][k]` is the stem of member k + 1: the match of the first k + 1 members that began last."""
    last = len(node.members) - 1
    done = living(turn, node, last)
    grown, completed, stands = list(done), None, False
    for place, member in enumerate(node.members):
        match, member_stands = step(member, turn, done[place - 1] if place else enter(node, turn, stem))
        stands |= member_stands
        if match is None:
            continue
        longer = rooted(node, match) if place == 0 else prolonged(match)
        if place == last:
            completed = ending(longer)
        else:
            grown[place], stands = later(longer, done[place]), True
    keep(turn, node, grown)
    return Outcome(completed, stands)


def step_times(node: Times, turn: Turn, stem: Stem | None) -> Outcome:
    """`old.stems[path]` are the repetitions so far, the last one first; any number of the first few is a beginning."""
    chain = living_chain(turn, turn.old.stems.get(node.path, ()))
    payload = None if stem is None else Stem((), limit(node, turn, stem), stem, chain)
    match, stands = step(node.of, turn, payload)
    completed = None
    if match is not None:
        link = Stem(match.used, match.stem.until, match.stem.outer)
        links = (link, *living_chain(turn, match.stem.earlier))
        if len(links) == node.count:
            completed = ending(joined(links))
        if not chain or began(link) > began(chain[0]):
            chain = links[: node.count - 1]
        stands |= node.count > 1
    keep(turn, node, chain)
    return Outcome(completed, stands)


def step_all(node: AllOf, turn: Turn, stem: Stem | None) -> Outcome:
    """`old.stems[path][k]` is the match of part k that began last. Parts never want the same event."""
    done = living(turn, node, len(node.parts))
    grown, completed, stands = list(done), None, False
    ground = enter(node, turn, stem)
    for place, part in enumerate(node.parts):
        match, part_stands = step(part, turn, ground)
        stands |= part_stands
        if match is None:
            continue
        mine = rooted(node, match)
        others = [other for at, other in enumerate(done) if at != place and other is not None]
        if len(others) == len(done) - 1:
            completed = ending(interleaved([mine, *others]))
        if len(done) > 1:
            grown[place], stands = later(mine, done[place]), True
    keep(turn, node, grown)
    return Outcome(completed, stands)


def step_any(node: AnyOf, turn: Turn, stem: Stem | None) -> Outcome:
    ground = enter(node, turn, stem)
    outcomes = [step(member, turn, ground) for member in node.members]
    ends = [rooted(node, outcome.match) for outcome in outcomes if outcome.match is not None]
    completed = ending(max(ends, key=began)) if ends else None
    return Outcome(completed, any(outcome.stands for outcome in outcomes))


def enter(node: Node, turn: Turn, stem: Stem | None) -> Stem | None:
    """The stem for a match of `node` that begins now: the same, or one that also lapses with the node's window."""
    if stem is None or node.within is None:
        return stem
    return Stem((), limit(node, turn, stem), stem)


def limit(node: Node, turn: Turn, stem: Stem) -> datetime | None:
    if node.within is None:
        return stem.until
    end = turn.seen.at + node.within
    return end if stem.until is None else min(end, stem.until)


def rooted(node: Node, match: Match) -> Stem:
    """The stretch of a first member, on the stem outside of the node (see `enter`)."""
    outer = match.stem if node.within is None else match.stem.outer
    return Stem(match.used, match.stem.until, outer)


def prolonged(match: Match) -> Stem:
    """The stem that a later member began on, with that member behind it."""
    return Stem(match.stem.used + match.used, match.stem.until, match.stem.outer)


def joined(links: tuple[Stem, ...]) -> Stem:
    first = links[-1]
    return Stem(tuple(seen for link in reversed(links) for seen in link.used), first.until, first.outer)


def interleaved(stretches: list[Stem]) -> Stem:
    first = min(stretches, key=began)
    return Stem(in_order(seen for stretch in stretches for seen in stretch.used), first.until, first.outer)


def ending(stretch: Stem) -> Match:
    assert stretch.outer is not None
    return Match(stretch.used, stretch.outer)


def later(stretch: Stem, other: Stem | None) -> Stem:
    """Of two equal beginnings the one that was complete first."""
    return other if other is not None and began(other) >= began(stretch) else stretch


def began(stretch: Stem) -> int:
    return stretch.used[0].number


def living(turn: Turn, node: Node, places: int) -> tuple[Stem | None, ...]:
    stems = turn.old.stems.get(node.path)
    if stems is None:
        return (None,) * places
    return tuple(stem if stem is not None and turn.alive(stem) else None for stem in stems)


def living_chain(turn: Turn, chain: tuple[Stem | None, ...]) -> tuple[Stem, ...]:
    """Repetitions that began earlier lapse earlier: the living ones are the first of the chain."""
    return tuple(link for link in chain if link is not None and turn.alive(link))


def keep(turn: Turn, node: Node, stems: list[Stem | None] | tuple[Stem, ...]) -> None:
    if any(stem is not None for stem in stems):
        turn.new.stems[node.path] = tuple(stems)
