"""The words of the matcher: a checked pattern as a tree of frozen nodes. Imports nothing of ours.

`kind` numbers the distinct leaf tests of one pattern: two leaves with the same event name and the same filter have
the same kind, and an event is reduced to the set of kinds that it matches before any node sees it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

ANY_NAME = "*"

Test = Callable[[Any], bool]
CompileFilter = Callable[[str], Test]


class Event(Protocol):
    """What the matcher reads of an event; the injected filters may read more."""

    @property
    def id(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def received_at(self) -> datetime: ...


class FilterFailed(Exception):
    """An injected filter could not be evaluated; the text is the reason that the decision keeps."""


def may_meet(names: frozenset[str], others: frozenset[str]) -> bool:
    """May one event have one of these names and one of the others?"""
    return ANY_NAME in names or ANY_NAME in others or not names.isdisjoint(others)


@dataclass(frozen=True, slots=True)
class LeafTest:
    """One distinct question to an event; `path` is where the document asks it first."""

    kind: int
    path: str
    name: str
    passes: Test | None


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a pattern: its place in the document, its window, and the kinds that cancel it."""

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
    """The same, several times over."""

    count: int
    of: Node


@dataclass(frozen=True, slots=True)
class Seq(Node):
    """One after the other."""

    members: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf(Node):
    """One of them."""

    members: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AllOf(Node):
    """`parts` are the members again, those that may want the same event gathered in a `Tangle`."""

    members: tuple[Node, ...]
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Tangle(Node):
    """Members of one `all` that may want the same event.

    `by_start`: a later beginning may be worth more here, because of a window or a repetition further out.
    """

    members: tuple[Node, ...]
    by_start: bool


@dataclass(frozen=True, slots=True)
class Quiet:
    """A trailing `none`: nothing of these kinds for that long."""

    kinds: frozenset[int]
    names: tuple[str, ...]
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Bound:
    """What one subject's progress holds at most, however many events it sends.

    `references`: places in partial matches that name an event; no more events than that are remembered.
    `records`: partial matches and the stretches that they build on.
    """

    references: int
    records: int

    def size(self, id_length: int) -> int:
        """Bytes of compact ASCII JSON that are never exceeded when event ids have at most `id_length` characters."""
        return 200 + self.references * (id_length + 60) + self.records * 220


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. `names` are all event names that it reads, cancelling ones included (`*`: every name)."""

    root: Node
    quiet: Quiet | None
    tests: tuple[LeafTest, ...]
    names: frozenset[str]
    bound: Bound


def cancelling_kinds(node: Node) -> frozenset[int]:
    """The kinds that `unless` names anywhere in a pattern."""
    inner = (node.of,) if isinstance(node, Times) else getattr(node, "members", ())
    return node.unless.union(*(cancelling_kinds(member) for member in inner))
