"""Writes CEL: literals, paths into data, and conditions that treat missing values as Clojure does.

A condition is a tree of `Atom`s under `And`, `Or` and `Not`. The text of an atom may fail to evaluate where a value is missing
or of another type; its `guards` are false there. A filter that fails counts as false, so the guards are only needed below a
`not`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
RESERVED = frozenset(("in", "true", "false", "null"))
_MAX_INT, _MIN_INT = (1 << 63) - 1, -(1 << 63)
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

# Precedence of the outermost operator of a text, from loose to tight.
OR, AND, COMPARISON, PRIMARY = 1, 2, 3, 4

Constant = str | int | Decimal | bool | None


def literal(value: Constant) -> str:
    """A constant as a CEL literal."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_escaped(char) for char in value) + '"'
    if isinstance(value, int):
        return str(value) if _MIN_INT <= value <= _MAX_INT else _as_double(value)
    text = str(value)
    return literal(int(value)) if text.lstrip("-").isdigit() else text


def _as_double(value: int) -> str:
    """An integer beyond 64 bits as a double literal with all its digits."""
    sign, digits = "-" if value < 0 else "", str(abs(value))
    return f"{sign}{digits[0]}.{digits[1:]}e{len(digits) - 1}"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return char if char.isprintable() else f"\\U{ord(char):08x}"


@dataclass(frozen=True, slots=True)
class Path:
    """A value in data: the `root` (`data`, `latest`, `vars`, …) and the names below it."""

    root: str
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """The path as a CEL expression."""
        return self._prefix(len(self.names))

    def _prefix(self, count: int) -> str:
        return self.root + "".join(map(_member, self.names[:count]))

    def present(self) -> list[str]:
        """Conditions that are all true if the value exists; each may be evaluated if those before it are true."""
        conditions = []
        for index, name in enumerate(self.names):
            parent = self._prefix(index)
            if index:
                conditions.append(f"type({parent}) == map")
            conditions.append(f"has({parent}.{name})" if _is_plain(name) else f"{literal(name)} in {parent}")
        return conditions


def _is_plain(name: str) -> bool:
    return IDENTIFIER.fullmatch(name) is not None and name not in RESERVED


def _member(name: str) -> str:
    return f".{name}" if _is_plain(name) else f"[{literal(name)}]"


def split_name(name: str) -> tuple[str, ...]:
    """The names of a path: `a.b` is `b` in `a`. A name with an empty part is one name."""
    parts = tuple(name.split("."))
    return parts if all(parts) else (name,)


@dataclass(frozen=True, slots=True)
class Atom:
    """A condition without parts: its text, its precedence, and the guards that must be true for it to be evaluated."""

    text: str
    precedence: int = COMPARISON
    guards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class And:
    """All members are true."""

    members: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one member is true."""

    members: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The condition is false."""

    of: Condition


Condition = Atom | And | Or | Not


def write(condition: Condition, *, total: bool = False) -> str:
    """A condition as CEL. If `total`, it is false where a value is missing; otherwise it may fail to evaluate there."""
    return _written(condition, total)[0]


def _written(condition: Condition, total: bool) -> tuple[str, int]:
    if isinstance(condition, Atom):
        if not total or not condition.guards:
            return condition.text, condition.precedence
        return _joined(
            [*((guard, COMPARISON) for guard in condition.guards), (condition.text, condition.precedence)], AND
        )
    if isinstance(condition, Not):
        text, precedence = _written(condition.of, total=True)
        return (f"!{text}" if precedence == PRIMARY else f"!({text})"), PRIMARY
    precedence = AND if isinstance(condition, And) else OR
    return _joined([_written(member, total) for member in condition.members], precedence)


def _joined(parts: Sequence[tuple[str, int]], precedence: int) -> tuple[str, int]:
    if len(parts) == 1:
        return parts[0]
    operator = " && " if precedence == AND else " || "
    return operator.join(text if inner >= precedence else f"({text})" for text, inner in parts), precedence


def all_of(parts: Iterable[str]) -> str:
    """Texts of at least the precedence of a comparison, joined by &&."""
    return " && ".join(parts)


def is_number(text: str) -> str:
    """A condition that is true if the value of an expression is a number."""
    return f"(type({text}) == int || type({text}) == double)"
