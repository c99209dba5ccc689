"""Pieces of CEL: literals, paths into data, and conditions that stay true to Clojure where a value is missing.

A condition is a tree of `Atom`s under `And`, `Or` and `Not`. Each atom has a plain text, which may fail to be evaluated where a
value is missing or of another kind, and `guards`, which are false there. A filter that fails is false, so the plain text does
wherever nothing turns it around; below a `not` the guards go with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
RESERVED = frozenset(("in", "true", "false", "null"))
_LARGEST, _SMALLEST = (1 << 63) - 1, -(1 << 63)
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

# How tight a text holds together.
OR, AND, COMPARED, WHOLE = 1, 2, 3, 4

Constant = str | int | Decimal | bool | None


def literal(value: Constant) -> str:
    """A constant as CEL writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_escaped(letter) for letter in value) + '"'
    if isinstance(value, int):
        return str(value) if _SMALLEST <= value <= _LARGEST else _as_double(value)
    text = str(value)
    return literal(int(value)) if text.lstrip("-").isdigit() else text


def _as_double(value: int) -> str:
    """An integer that CEL has no room for, with all its digits and none behind the point."""
    sign, digits = "-" if value < 0 else "", str(abs(value))
    return f"{sign}{digits[0]}.{digits[1:]}e{len(digits) - 1}"


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


@dataclass(frozen=True, slots=True)
class Path:
    """Something read from data: the `root` (`data`, `latest`, `vars`, …) and the names below it."""

    root: str
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """The path as CEL reads it."""
        return self._upto(len(self.names))

    @property
    def dotted(self) -> str:
        """The path without its root."""
        return ".".join(self.names)

    def _upto(self, count: int) -> str:
        return self.root + "".join(map(_member, self.names[:count]))

    def present(self) -> list[str]:
        """What is true where there is such a value, in the order in which it may be asked."""
        found = []
        for index, name in enumerate(self.names):
            before = self._upto(index)
            if index:
                found.append(f"type({before}) == map")
            found.append(f"has({before}.{name})" if _is_plain(name) else f"{literal(name)} in {before}")
        return found


def _is_plain(name: str) -> bool:
    return IDENTIFIER.fullmatch(name) is not None and name not in RESERVED


def _member(name: str) -> str:
    return f".{name}" if _is_plain(name) else f"[{literal(name)}]"


def split(name: str) -> tuple[str, ...]:
    """`a.b` reads `b` in `a`; a name that only has dots at its ends or next to each other is one name."""
    parts = tuple(name.split("."))
    return parts if all(parts) else (name,)


@dataclass(frozen=True, slots=True)
class Atom:
    """A condition without parts: its text, how tight it holds together, and what has to be true for it to be evaluated."""

    text: str
    level: int = COMPARED
    guards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class And:
    """All of them."""

    members: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them at least."""

    members: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    of: Condition


Condition = Atom | And | Or | Not


def write(condition: Condition, *, total: bool = False) -> str:
    """A condition as CEL; `total`: one that never fails where a value is missing, instead of failing there."""
    return _written(condition, total)[0]


def _written(condition: Condition, total: bool) -> tuple[str, int]:
    if isinstance(condition, Atom):
        if not total or not condition.guards:
            return condition.text, condition.level
        return _joined([*((guard, COMPARED) for guard in condition.guards), (condition.text, condition.level)], AND)
    if isinstance(condition, Not):
        text, level = _written(condition.of, total=True)
        return (f"!{text}" if level == WHOLE else f"!({text})"), WHOLE
    level = AND if isinstance(condition, And) else OR
    return _joined([_written(member, total) for member in condition.members], level)


def _joined(parts: Sequence[tuple[str, int]], level: int) -> tuple[str, int]:
    if len(parts) == 1:
        return parts[0]
    sign = " && " if level == AND else " || "
    return sign.join(text if inner >= level else f"({text})" for text, inner in parts), level


def all_of(parts: Iterable[str]) -> str:
    """Texts that hold together at least as tight as a comparison, joined by &&."""
    return " && ".join(parts)


def is_number(text: str) -> str:
    """Whether the value of a text is a number."""
    return f"(type({text}) == int || type({text}) == double)"
