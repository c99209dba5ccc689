"""What the matcher remembers of one subject while it works on one event: frozen values, no JSON, no clock."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


class Seen(NamedTuple):
    """A remembered event; numbers rise in the order of acceptance."""

    number: int
    id: str
    at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class Stem:
    """What was matched before something else may begin.

    `used`: the events of this stretch, in order. `until`: when it lapses, None: never. `outer`: the stem that the
    stretch itself began on. `earlier`: in a `times`, the repetitions so far, the last one first.
    """

    used: tuple[Seen, ...]
    until: datetime | None
    outer: "Stem | None"
    earlier: "tuple[Stem, ...]" = ()


START = Stem((), None, None)


class Stand(NamedTuple):
    """Where one partial match of a tangle stands in one node.

    `place`: how many members are done, or which alternative was taken. `inner`: for each member that counts now a
    Stand, False (not begun) or True (done). `start`: the first event, kept where the node has a window.
    """

    place: int
    inner: "tuple[Position, ...]"
    start: Seen | None


Position = Stand | bool


@dataclass(frozen=True, slots=True, eq=False)
class Strand:
    """One partial match of a tangle: where it stands in each member, the events that it used, what it began on."""

    positions: tuple[Position, ...]
    used: tuple[Seen, ...]
    stem: Stem


@dataclass(frozen=True, slots=True)
class Standing:
    """All partial matches of one subject, by the path of the node in which they stand."""

    stems: dict[str, tuple[Stem | None, ...]] = field(default_factory=dict)
    strands: dict[str, tuple[Strand, ...]] = field(default_factory=dict)


NOTHING = Standing()


@dataclass(frozen=True, slots=True)
class Turn:
    """One event's turn: the kinds that it matches, what stood before it, and what stands after it (being written)."""

    seen: Seen
    hits: frozenset[int]
    old: Standing
    new: Standing

    def alive(self, stem: Stem) -> bool:
        return stem.until is None or self.seen.at <= stem.until


class Match(NamedTuple):
    """A node's complete match and the stem that it began on."""

    used: tuple[Seen, ...]
    stem: Stem


class Outcome(NamedTuple):
    """`match`: of the node's matches that end in this event the one that began last. `stands`: a partial one ends
    in it, too, and may still be completed."""

    match: Match | None
    stands: bool


NO_OUTCOME = Outcome(None, False)


def in_order(used: Iterable[Seen]) -> tuple[Seen, ...]:
    """Events in the order of acceptance."""
    return tuple(sorted(used))
