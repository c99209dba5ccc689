"""Comparisons as Clojure means them: what is missing is nil, and nothing that is compared makes a filter fail below a `not`.

Comes in: two `Value`s. Goes out: a condition, in CEL.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.workflows.cxengage.cel_writer import (
    AND,
    COMPARED,
    OR,
    WHOLE,
    And,
    Atom,
    Condition,
    Constant,
    Path,
    all_of,
    is_number,
    literal,
)

SIGNS = {"=": "==", ">": ">", "<": "<", ">=": ">=", "<=": "<="}
_NO_CONSTANT: Any = object()


@dataclass(frozen=True, slots=True)
class Value:
    """Something that has a value: its CEL, and what is known of it. `path`: it is read from data as it stands there;
    `constant`: it is written out; `reads`: what has to be there for it to be evaluated; `truth`: it is true or false;
    `several`: it is a list or a map."""

    text: str
    path: Path | None = None
    constant: Any = _NO_CONSTANT
    reads: tuple[Path, ...] = ()
    truth: bool = False
    several: bool = False
    level: int = WHOLE

    @property
    def is_constant(self) -> bool:
        """Whether it is written out."""
        return self.constant is not _NO_CONSTANT

    @property
    def to_set(self) -> str | int:
        """What a `set` takes for it: whole numbers, true and false as they are, all else as CEL."""
        return self.constant if self.is_constant and isinstance(self.constant, int) else self.text


def a_constant(constant: Constant) -> Value:
    """A value that is written out."""
    return Value(literal(constant), constant=constant, truth=isinstance(constant, bool))


def read_from(path: Path) -> Value:
    """A value that is read from data."""
    return Value(path.text, path=path, reads=(path,))


def guards_of(*values: Value) -> tuple[str, ...]:
    """What is true where everything that the values read is there."""
    found = [guard for value in values for path in value.reads for guard in path.present()]
    return tuple(dict.fromkeys(found))


def equal(left: Value, right: Value) -> Condition:
    """Whether two values are the same; two that are missing are."""
    if left.is_constant and not right.is_constant:
        left, right = right, left
    if right.is_constant and right.constant is None and left.reads and left.path is not None:
        return Atom(f"!({all_of(left.path.present())}) || {left.text} == null", OR)
    if left.path is not None and right.path is not None and left.reads and right.reads:
        both = all_of(guards_of(left, right))
        one = f"{both} && {left.text} == {right.text}"
        return Atom(f"{one} || {_nil(left)} && {_nil(right)}", OR)
    return Atom(f"{_inner(left)} == {_inner(right)}", COMPARED, guards_of(left, right))


def _nil(value: Value) -> str:
    assert value.path is not None
    return f"(!({all_of(value.path.present())}) || {value.text} == null)"


def _inner(value: Value) -> str:
    return value.text if value.level == WHOLE else f"({value.text})"


def ordered(sign: str, left: Value, right: Value) -> Condition:
    """Whether a number is larger or smaller than another one; false for what is no number, also for two texts."""
    numbers = [is_number(value.text) for value in (left, right) if value.path is not None]
    text = f"{_inner(left)} {sign} {_inner(right)}"
    if is_a_number(left.constant) or is_a_number(right.constant):
        return Atom(text, COMPARED, (*guards_of(left, right), *numbers))
    return Atom(all_of([*numbers, text]), AND if numbers else COMPARED, guards_of(left, right))


def is_a_number(constant: Any) -> bool:
    """Whether a constant can be compared by size."""
    return isinstance(constant, int | Decimal) and not isinstance(constant, bool)


def among(value: Value, constants: list[Constant]) -> Condition:
    """Whether a value is one of several constants."""
    listed = ", ".join(literal(constant) for constant in constants)
    return Atom(f"{_inner(value)} in [{listed}]", COMPARED, guards_of(value))


def containing(value: Value, constant: Constant) -> Condition:
    """Whether a list has the constant as a member, or a text has it as a part."""
    text, part = value.text, literal(constant)
    listed = f"type({text}) == list && {part} in {text}"
    if not isinstance(constant, str):
        return Atom(listed, AND, guards_of(value))
    return Atom(f"{listed} || type({text}) == string && {text}.contains({part})", OR, guards_of(value))


def truth_of(value: Value) -> Condition:
    """Whether a value counts as true: everything does but what is missing, nil and false."""
    if value.truth:
        return Atom(value.text, value.level)
    if value.is_constant:
        return Atom("false" if value.constant is None else "true", WHOLE)
    return And(
        (
            Atom(f"{_inner(value)} != null", COMPARED, guards_of(value)),
            Atom(f"{_inner(value)} != false", COMPARED),
        )
    )
