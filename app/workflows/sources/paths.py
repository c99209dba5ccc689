"""Paths of source documents: `body.customer.id`, `headers['x-shopify-topic']`, and with `[]` the members of lists.

A path without `[]` is a CEL expression, too, for which a missing member is no error. It is read here, since that takes a
tenth of the time of CEL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from app.core.pacing import pause_if_due

Parts = tuple[str | int, ...]

# Members that `[]` goes through in one delivery, those of enclosing lists included.
MAX_MEMBERS = 50_000
_MAX_LISTS = 5
_ROOT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(
    r"""\.(?P<name>[A-Za-z_][A-Za-z0-9_]*) | \[\s*(?P<index>[0-9]{1,9})\s*\]
    | \[\s*(?:'(?P<single>[^'\\]*)'|"(?P<double>[^"\\]*)")\s*\] | (?P<all>\[\s*\])""",
    re.VERBOSE,
)
# A path with a hyphen in a name that is not in quotes.
_HYPHENS = re.compile(r"[A-Za-z_]\w*(?:\.[\w-]+)*\.\w+-[\w-]*\w(?:\.[\w-]+)*", re.ASCII)


class Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"


# What is at a path where nothing is.
MISSING: Final = Missing()


@dataclass(frozen=True, slots=True)
class Path:
    """A path: the variable that it begins with, and names and positions from there."""

    root: str
    parts: Parts


@dataclass(frozen=True, slots=True)
class ListPath:
    """A path with `[]`: the parts before each `[]`, from the body on."""

    text: str
    steps: tuple[Parts, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a list: its value and path in the body, and those of the members that enclose it, outermost first."""

    value: Any
    path: Parts
    parents: tuple[tuple[Any, Parts], ...]


class TooManyMembers(Exception):
    """`[]` goes through more members than MAX_MEMBERS."""


def read_path(text: str) -> Path | None:
    """The path in a text; None if the text is not a path. Names of headers are in lower case."""
    found = _split(text)
    if found is None or None in found[1]:
        return None
    root, parts = found
    if root == "headers":
        parts = [part.lower() if isinstance(part, str) else part for part in parts]
    return Path(root, tuple(part for part in parts if part is not None))


def read_list_path(text: object) -> ListPath:
    """The path of `each`. Raises ValueError for a value that is not such a path."""
    found = _split(text) if isinstance(text, str) else None
    if found is None or found[0] != "body" or found[1][-1:] != [None]:
        raise ValueError("must be a path to the members of a list, such as body.line_items[] or body[]")
    steps: list[Parts] = []
    current: list[str | int] = []
    for part in found[1]:
        if part is None:
            steps.append(tuple(current))
            current = []
        else:
            current.append(part)
    if len(steps) > _MAX_LISTS:
        raise ValueError(f"goes through {len(steps)} lists; at most {_MAX_LISTS} are allowed")
    return ListPath(str(text), tuple(steps))


def has_hyphens(text: str) -> bool:
    """Whether a text looks like a path with hyphens in its names."""
    return _HYPHENS.fullmatch(text.strip()) is not None


def _split(text: str) -> tuple[str, list[str | int | None]] | None:
    """The root and the parts of a path, with None for `[]`; None for a text that is no path."""
    text = text.strip()
    root = _ROOT.match(text)
    if root is None:
        return None
    parts: list[str | int | None] = []
    position = root.end()
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            return None
        position = part.end()
        if part["index"] is not None:
            parts.append(int(part["index"]))
        elif part["all"] is not None:
            parts.append(None)
        else:
            parts.append(next(name for name in part.group("name", "single", "double") if name is not None))
    return root[0], parts


def walk(value: Any, parts: Parts) -> Any:
    """The value at a path from `value` on; MISSING if there is none."""
    for part in parts:
        if isinstance(value, dict):
            value = value.get(part, MISSING)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return MISSING
    return value


def find_members(path: ListPath, body: Any) -> list[Member] | None:
    """The members of the lists at a path, in order; None if the path leads to no list, not even to an empty one.

    A value that is not a list is the only member of itself, a missing one and null have none. Raises TooManyMembers.
    """
    search = _Search()
    search.find(path.steps, Member(body, (), ()))
    return search.members if search.has_list else None


class _Search:
    """A search for members. `has_list`: whether a list, or a value that counts as one, was where the path leads."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.has_list = False
        self._left = MAX_MEMBERS

    def find(self, steps: tuple[Parts, ...], above: Member) -> None:
        """Collect the members below a member. Raises TooManyMembers."""
        first, *further = steps
        found, path = walk(above.value, first), (*above.path, *first)
        if found is MISSING or found is None:
            return
        is_list = isinstance(found, list)
        values = found if is_list else [found]
        self.has_list |= not further or not values
        self._left -= len(values)
        if self._left < 0:
            raise TooManyMembers
        for index, value in enumerate(values):
            pause_if_due()
            here = (*path, index) if is_list else path
            if further:
                self.find(tuple(further), Member(value, here, (*above.parents, (value, here))))
            else:
                self.members.append(Member(value, here, above.parents))
