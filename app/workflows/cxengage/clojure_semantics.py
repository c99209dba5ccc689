"""Comparisons with Clojure's semantics, as CEL conditions: a missing value is nil, and no comparison fails below a `not`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.workflows.cxengage.cel_writer import (
    AND,
    COMPARISON,
    OR,
    PRIMARY,
    And,
    Atom,
    Condition,
    Constant,
    Not,
    Or,
    Path,
    all_of,
    is_number,
    literal,
)
from app.workflows.cxengage.notation_parser import Form, Node, arguments, at_least

OPERATORS = {"=": "==", ">": ">", "<": "<", ">=": ">=", "<=": "<="}
_NO_CONSTANT: Any = object()


@dataclass(frozen=True, slots=True)
class Value:
    """A CEL expression and what is known of its value.

    `path`: the value is read from data; `constant`: the value of a literal; `reads`: the paths that must exist for
    evaluation; `is_boolean`; `is_collection`: a list or a map; `precedence` of the outermost operator.
    """

    text: str
    path: Path | None = None
    constant: Any = _NO_CONSTANT
    reads: tuple[Path, ...] = ()
    is_boolean: bool = False
    is_collection: bool = False
    precedence: int = PRIMARY

    @property
    def is_constant(self) -> bool:
        """Whether the value is a literal."""
        return self.constant is not _NO_CONSTANT

    @property
    def operand(self) -> str:
        """The text as an operand of any operator."""
        return self.text if self.precedence == PRIMARY else f"({self.text})"

    @property
    def to_set(self) -> str | int:
        """The value for a `set` step: an integer, true or false as itself, everything else as CEL."""
        return self.constant if self.is_constant and isinstance(self.constant, int) else self.text


def constant_value(constant: Constant) -> Value:
    """A literal."""
    return Value(literal(constant), constant=constant, is_boolean=isinstance(constant, bool))


def read_from(path: Path) -> Value:
    """A value that is read from data."""
    return Value(path.text, path=path, reads=(path,))


def guards_of(*values: Value) -> tuple[str, ...]:
    """Conditions that are true if all paths that the values read exist."""
    guards = [guard for value in values for path in value.reads for guard in path.present()]
    return tuple(dict.fromkeys(guards))


def equal(left: Value, right: Value) -> Condition:
    """Whether two values are equal; two missing values are equal."""
    if left.is_constant and not right.is_constant:
        left, right = right, left
    if right.is_constant and right.constant is None and left.reads and left.path is not None:
        return Atom(f"!({all_of(left.path.present())}) || {left.text} == null", OR)
    if left.path is not None and right.path is not None and left.reads and right.reads:
        both_exist = all_of(guards_of(left, right))
        return Atom(f"{both_exist} && {left.text} == {right.text} || {_is_nil(left)} && {_is_nil(right)}", OR)
    return Atom(f"{left.operand} == {right.operand}", COMPARISON, guards_of(left, right))


def _is_nil(value: Value) -> str:
    assert value.path is not None
    return f"(!({all_of(value.path.present())}) || {value.text} == null)"


def ordered(operator: str, left: Value, right: Value) -> Condition:
    """Whether one number is less or greater than another; false for values that are not numbers."""
    numbers = [is_number(value.text) for value in (left, right) if value.path is not None]
    text = f"{left.operand} {operator} {right.operand}"
    if is_a_number(left.constant) or is_a_number(right.constant):
        return Atom(text, COMPARISON, (*guards_of(left, right), *numbers))
    return Atom(all_of([*numbers, text]), AND if numbers else COMPARISON, guards_of(left, right))


def is_a_number(constant: Any) -> bool:
    """Whether a constant is a number."""
    return isinstance(constant, int | Decimal) and not isinstance(constant, bool)


def among(value: Value, constants: list[Constant]) -> Condition:
    """Whether a value equals one of several constants."""
    listed = ", ".join(literal(constant) for constant in constants)
    return Atom(f"{value.operand} in [{listed}]", COMPARISON, guards_of(value))


def containing(value: Value, constant: Constant) -> Condition:
    """Whether a list contains the constant as a member, or a text contains it as a part."""
    text, part = value.text, literal(constant)
    listed = f"type({text}) == list && {part} in {text}"
    if not isinstance(constant, str):
        return Atom(listed, AND, guards_of(value))
    return Atom(f"{listed} || type({text}) == string && {text}.contains({part})", OR, guards_of(value))


def is_true(value: Value) -> Condition:
    """Whether a value is true in Clojure: all values are except nil, missing and false."""
    if value.is_boolean:
        return Atom(value.text, value.precedence)
    if value.is_constant:
        return Atom("false" if value.constant is None else "true", PRIMARY)
    return And(
        (
            Atom(f"{value.operand} != null", COMPARISON, guards_of(value)),
            Atom(f"{value.operand} != false", COMPARISON),
        )
    )


def logical(form: Form, expected: str, condition: Callable[[Node], Condition]) -> Condition | None:
    """An `and`, `or` or `not` whose members `condition` compiles; None for another form. Raises Unexpected."""
    if form.head == "not":
        return Not(condition(arguments(form, (expected,))[0]))
    if form.head not in ("and", "or"):
        return None
    members = tuple(condition(member) for member in at_least(form, expected))
    return And(members) if form.head == "and" else Or(members)
