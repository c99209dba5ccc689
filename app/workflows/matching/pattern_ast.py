"""A compiled pattern as a tree of frozen nodes.

`kind` numbers the distinct leaf tests of one pattern: two leaves with the same event name and the same filter have
the same kind. The matcher reduces an event to the set of kinds that it matches before any node sees it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

ANY_NAME = "*"

Test = Callable[[Any], bool]
CompileFilter = Callable[[str], Test]


class MatcherEvent(Protocol):
    """What the matcher reads of an event. The filters passed to `compile_pattern` may read more."""

    @property
    def id(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def received_at(self) -> datetime: ...


class FilterFailed(Exception):
    """A filter could not be evaluated. The message becomes the reason in the decision."""


def may_overlap(names: frozenset[str], others: frozenset[str]) -> bool:
    """Whether one event can have a name in both sets."""
    return ANY_NAME in names or ANY_NAME in others or not names.isdisjoint(others)


@dataclass(frozen=True, slots=True)
class LeafTest:
    """A distinct event name and filter. `path` is where it first occurs in the document."""

    kind: int
    path: str
    name: str
    passes: Test | None


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a pattern: its path in the document, its window, and the kinds that cancel it."""

    path: str
    within: timedelta | None
    unless: frozenset[int]


@dataclass(frozen=True, slots=True)
class Leaf(Node):
    """One event of a kind."""

    kind: int
    name: str


@dataclass(frozen=True, slots=True)
class Times(Node):
    """`count` matches of one node, one after the other."""

    count: int
    of: Node


@dataclass(frozen=True, slots=True)
class Group(Node):
    """A node with members."""

    members: tuple[Node, ...]


class Seq(Group):
    """All members, one after the other."""


class AnyOf(Group):
    """One of the members."""


@dataclass(frozen=True, slots=True)
class AllOf(Group):
    """All members in any order. `parts` are the same members, with those that may match the same event grouped in a
    `SharedAll`."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SharedAll(Group):
    """Members of one `all` that may match the same event.

    `ranks_by_start`: an enclosing window or repetition makes a later start better.
    """

    ranks_by_start: bool


@dataclass(frozen=True, slots=True)
class TrailingNone:
    """A `none` at the end of the pattern: no event of these kinds for the duration `wait`."""

    kinds: frozenset[int]
    names: tuple[str, ...]
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Bound:
    """The maximum size of one subject's progress, however many events it sends.

    `references`: event references in partial matches, hence also a limit for the number of remembered events.
    `records`: partial matches and the prefixes that they build on.
    """

    references: int
    records: int

    def max_bytes(self, id_length: int) -> int:
        """The maximum size as compact ASCII JSON when event ids have at most `id_length` characters."""
        return 200 + self.references * (id_length + 60) + self.records * 220


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. `names` are all event names that it reads, including the cancelling ones (`*`: every name)."""

    root: Node
    trailing_none: TrailingNone | None
    tests: tuple[LeafTest, ...]
    names: frozenset[str]
    bound: Bound

    @property
    def triggers(self) -> frozenset[str]:
        """The names of the events that have to be looked at; `*` alone: all events."""
        return frozenset({ANY_NAME}) if ANY_NAME in self.names else self.names


def cancelling_kinds(node: Node) -> frozenset[int]:
    """The kinds that any `unless` of the pattern names."""
    inner = (node.of,) if isinstance(node, Times) else getattr(node, "members", ())
    return node.unless.union(*(cancelling_kinds(member) for member in inner))
