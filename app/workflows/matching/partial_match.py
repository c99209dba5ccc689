"""The partial matches of one subject in one pattern, as frozen values."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from app.workflows.expressions.work_budget import Budget


class EventRef(NamedTuple):
    """A remembered event. Numbers rise in the order of acceptance."""

    number: int
    id: str
    at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A matched part of the pattern that the next part builds on.

    `used`: its events, in order. `expires_at`: when it expires (None: never). `parent`: the prefix that it builds on
    itself. `earlier`: in a `times`, the repetitions before this one, the last one first.
    """

    used: tuple[EventRef, ...]
    expires_at: datetime | None
    parent: "Prefix | None"
    earlier: "tuple[Prefix, ...]" = ()

    @property
    def start(self) -> int:
        """The number of its first event."""
        return self.used[0].number

    def is_live(self, at: datetime) -> bool:
        """Whether the prefix has not expired at a time."""
        return self.expires_at is None or at <= self.expires_at


EMPTY_PREFIX = Prefix((), None, None)


class OpenPosition(NamedTuple):
    """The position of one assignment in a node that has begun and is not complete.

    `member`: the index of the current member (of a `times`: how many are complete). `inner`: the positions of what
    is matched now. `first`: the first event, kept if the node has a window.
    """

    member: int
    inner: "tuple[Position, ...]"
    first: EventRef | None


# False: not begun. True: complete.
Position = OpenPosition | bool


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A partial match of a `SharedAll`: the position in each member, the events used, and the prefix that it builds on."""

    positions: tuple[Position, ...]
    used: tuple[EventRef, ...]
    prefix: Prefix

    @property
    def start(self) -> int:
        """The number of its first event."""
        return self.used[0].number


@dataclass(frozen=True, slots=True)
class PartialMatches:
    """All partial matches of one subject, by the path of their node."""

    prefixes: dict[str, tuple[Prefix | None, ...]] = field(default_factory=dict)
    assignments: dict[str, tuple[Assignment, ...]] = field(default_factory=dict)


NO_PARTIAL_MATCHES = PartialMatches()


@dataclass(frozen=True, slots=True)
class Step:
    """One event, the kinds that it matches, the partial matches before and after it (`after` is being written), and the
    budget of work."""

    event: EventRef
    kinds: frozenset[int]
    before: PartialMatches
    after: PartialMatches
    budget: Budget


class NodeMatch(NamedTuple):
    """A complete match of a node, and the prefix that it builds on."""

    used: tuple[EventRef, ...]
    prefix: Prefix


class NodeResult(NamedTuple):
    """`match`: of the node's matches that end in this event, the one that began last. `has_partial`: a partial match
    ends in this event too."""

    match: NodeMatch | None
    has_partial: bool


NO_RESULT = NodeResult(None, False)
