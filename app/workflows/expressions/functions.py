"""The functions that `if`, `set` and `until` can call in addition to CEL's own: exact arithmetic, and lists.

A function returns a value or raises ValueError with the reason. A number has at most 308 digits before the point; a
result with infinitely many digits (a third, a root) is rounded to 34 digits.

CEL has only 64-bit integers and doubles. `ExactNumbers` remembers which exact number each double represents, so that
functions calculate with that number and the expression returns it with all its digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from functools import reduce
from types import UnionType
from typing import Any, TypeAlias

Number: TypeAlias = int | Decimal

_MAX_DIGITS = 308
_MAX_NEIGHBOURS = 64
_LIMIT = Decimal(10) ** _MAX_DIGITS
# Sums and products of numbers that CEL can represent have fewer digits.
_EXACT = Context(prec=700, Emin=-999_999, Emax=999_999, traps=[InvalidOperation, DivisionByZero, Overflow])
_ROUNDED = Context(prec=34, Emin=-999_999, Emax=999_999, traps=[InvalidOperation, DivisionByZero, Overflow])


_TYPES: tuple[tuple[type | UnionType, str], ...] = (
    (type(None), "null"), (bool, "true or false"), (str, "text"), (int | float, "a number"), (list, "a list"),
    (Mapping, "an object"), (datetime, "a timestamp"), (timedelta, "a duration"),
)  # fmt: skip


class ExactNumbers:
    """The exact number that each double of one evaluation represents. If two numbers have the same double, the second is
    represented by a neighbouring one, in the direction of the difference."""

    __slots__ = ("_known",)

    def __init__(self, literals: Iterable[Decimal] = ()) -> None:
        """`literals`: the numbers in the text of the expression, whose doubles CEL chooses."""
        self._known: dict[float, Number | None] = {}
        for literal in literals:
            double = float(literal)
            self._known[double] = literal if self._known.get(double, literal) == literal else None

    def to_double(self, number: Number) -> float:
        """The double that represents a number."""
        try:
            double = float(number)
        except OverflowError:
            double = math.inf if number > 0 else -math.inf
        for _ in range(_MAX_NEIGHBOURS):
            if double == 0 or math.isinf(double):
                return double
            known = self._known.setdefault(double, number)
            if known is None or known == number:
                return double
            double = math.nextafter(double, math.inf if number > known else -math.inf)
        return float(number)

    def to_exact(self, value: Any) -> Any:
        """A CEL value with exact numbers, also inside of lists and objects."""
        if isinstance(value, float):
            known = self._known.get(value)
            return value if known is None else known
        if isinstance(value, list):
            return [self.to_exact(member) for member in value]
        if isinstance(value, Mapping):
            return {name: self.to_exact(member) for name, member in value.items()}
        return value

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function for CEL: it receives exact numbers, and returns doubles to CEL."""

        def call(*arguments: Any) -> Any:
            return self._to_cel(function(*map(self.to_exact, arguments)))

        return call

    def _to_cel(self, value: Any) -> Any:
        if isinstance(value, Decimal) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63):
            return self.to_double(value)
        if isinstance(value, list):
            return [self._to_cel(member) for member in value]
        if isinstance(value, Mapping):
            return {name: self._to_cel(member) for name, member in value.items()}
        return value


# Numbers


def _number(value: Any) -> Number:
    """A number for calculation: an integer unchanged, others as the decimal with the same text."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{describe_type(value)} is not a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is too large")
        return Decimal(repr(value))
    return value


def describe_type(value: Any) -> str:
    """The type of a CEL value in words."""
    return next((text for kind, text in _TYPES if isinstance(value, kind)), type(value).__name__)


def _bounded(value: Number) -> Number:
    """The number itself. Raises ValueError if it has too many digits."""
    if not -_LIMIT < value < _LIMIT:
        raise ValueError("a number is too large")
    return value


def _fold(operation: Callable[[Number, Number], Number], min_count: int) -> Callable[..., Number]:
    def calculate(*values: Any) -> Number:
        if len(values) < min_count:
            raise ValueError(f"takes {min_count} numbers or more, not {len(values)}")
        return _bounded(reduce(operation, map(_number, values)))

    return calculate


def _fixed(count: int, operation: Callable[..., Any]) -> Callable[..., Any]:
    def calculate(*values: Any) -> Any:
        if len(values) != count:
            raise ValueError(f"takes {count} number{'' if count == 1 else 's'}, not {len(values)}")
        return _bounded(operation(*map(_number, values)))

    return calculate


def _add(left: Number, right: Number) -> Number:
    return left + right if _are_integers(left, right) else _EXACT.add(left, right)


def _subtract(left: Number, right: Number) -> Number:
    return left - right if _are_integers(left, right) else _EXACT.subtract(left, right)


def _multiply(left: Number, right: Number) -> Number:
    return _bounded(left * right if _are_integers(left, right) else _EXACT.multiply(left, right))


def _are_integers(*numbers: Number) -> bool:
    return all(isinstance(number, int) for number in numbers)


def _divide(left: Number, right: Number) -> Number:
    if right == 0:
        raise ValueError("a division by zero")
    if isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    exact = _EXACT.copy()
    found = exact.divide(Decimal(left), Decimal(right))
    return _ROUNDED.plus(found) if exact.flags[Inexact] else found


def _quotient(left: Number, right: Number) -> int:
    """The quotient without its fractional part."""
    if right == 0:
        raise ValueError("a division by zero")
    if isinstance(left, int) and isinstance(right, int):
        whole = abs(left) // abs(right)
        return whole if (left < 0) == (right < 0) else -whole
    if left and Decimal(left).adjusted() - Decimal(right).adjusted() > _MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(_EXACT.divide_int(Decimal(left), Decimal(right)))


def _remainder(left: Number, right: Number) -> Number:
    """The remainder of `quot`. It has the sign of the first number."""
    return _subtract(left, _multiply(right, _quotient(left, right)))


def _modulo(left: Number, right: Number) -> Number:
    """The remainder with the sign of the second number."""
    rest = _remainder(left, right)
    return _add(rest, right) if rest != 0 and (rest < 0) != (right < 0) else rest


def _rounded(value: Number, rounding: str) -> int:
    if isinstance(value, int):
        return value
    if value.adjusted() > _MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(value.to_integral_value(rounding=rounding, context=_EXACT))


def _root(value: Number) -> Number:
    if value < 0:
        raise ValueError("a negative number has no square root")
    if isinstance(value, int) and math.isqrt(value) ** 2 == value:
        return math.isqrt(value)
    return _ROUNDED.sqrt(Decimal(value))


def _power(base: Number, exponent: Number) -> Number:
    if base == 0 and exponent < 0:
        raise ValueError("a division by zero")
    if base < 0 and exponent != _rounded(exponent, ROUND_FLOOR):
        raise ValueError("a negative number has no such power")
    size = Decimal(base).copy_abs()
    if size not in (0, 1) and abs(math.log10(size) * float(exponent)) > _MAX_DIGITS:
        raise ValueError("a number is too large, or too small")
    if isinstance(base, int) and isinstance(exponent, int):
        found: int = base ** abs(exponent)
        return found if exponent >= 0 else _divide(1, found)
    return _ROUNDED.power(Decimal(base), Decimal(exponent))


# Lists


def _members(values: Sequence[Any]) -> Sequence[Any]:
    """The members of the only argument if it is a list, else all arguments. Raises ValueError if there are none."""
    members = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not members:
        raise ValueError("the list is empty")
    return members


def _total(*values: Any) -> Any:
    members = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if members and all(isinstance(member, timedelta) for member in members):
        return sum(members, timedelta())
    nothing: Number = 0
    return _bounded(reduce(_add, map(_number, members), nothing))


def _extreme(name: str, choose: Callable[[Iterable[Number]], Number]) -> Callable[..., Any]:
    def find(*values: Any) -> Any:
        members = _members(values)
        if any(isinstance(member, str | timedelta | datetime) for member in members):
            from cel import stdlib

            return stdlib.STDLIB_FUNCTIONS[name](*values)
        return choose([_number(member) for member in members])

    return find


def _average(*values: Any) -> Number:
    members = _members(values)
    return _divide(_total(*members), len(members))


def _deviation(*values: Any) -> Number:
    """The standard deviation of a sample; 0 for one number."""
    members = [_number(member) for member in _members(values)]
    if len(members) == 1:
        return 0
    middle = _average(*members)
    squares = [_multiply(gap, gap) for gap in (_subtract(member, middle) for member in members)]
    return _root(_divide(_total(*squares), len(members) - 1))


def _count(*values: Any) -> int:
    if len(values) != 1 or not isinstance(values[0], list | Mapping | str):
        raise ValueError("takes one list")
    return len(values[0])


def _nth(*values: Any) -> Any:
    if len(values) != 2 or not isinstance(values[0], list):
        raise ValueError("takes a list and a number, from 0")
    members, index = values[0], _number(values[1])
    if index != _rounded(index, ROUND_FLOOR) or not 0 <= index < len(members):
        raise ValueError(f"the list has {len(members)} members and no number {index}")
    return members[int(index)]


def _at(index: int) -> Callable[..., Any]:
    def find(*values: Any) -> Any:
        if len(values) != 1 or not isinstance(values[0], list):
            raise ValueError("takes one list")
        return _members(values)[index]

    return find


def _values(*values: Any) -> list[Any]:
    """`values(matched, "price")`: the field in the data of each event, or in each object, that has it, in order."""
    if len(values) != 2 or not isinstance(values[0], list) or not isinstance(values[1], str):
        raise ValueError("takes a list and the path of a field")
    found = (_field(member, values[1].split(".")) for member in values[0])
    return [value for value in found if value is not _MISSING]


_MISSING = object()


def _field(value: Any, path: Sequence[str]) -> Any:
    if isinstance(value, Mapping) and "received_at" in value and isinstance(value.get("data"), Mapping):
        value = value["data"]
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return value


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "add": _fold(_add, 1),
    "sub": _fold(_subtract, 2),
    "mul": _fold(_multiply, 1),
    "div": _fold(_divide, 2),
    "mod": _fixed(2, _modulo),
    "quot": _fixed(2, _quotient),
    "rem": _fixed(2, _remainder),
    "inc": _fixed(1, lambda value: _add(value, 1)),
    "dec": _fixed(1, lambda value: _subtract(value, 1)),
    "abs": _fixed(1, abs),
    "floor": _fixed(1, lambda value: _rounded(value, ROUND_FLOOR)),
    "ceil": _fixed(1, lambda value: _rounded(value, ROUND_CEILING)),
    "sqrt": _fixed(1, _root),
    "pow": _fixed(2, _power),
    "sum": _total,
    "min": _extreme("min", min),
    "max": _extreme("max", max),
    "avg": _average,
    "stdev": _deviation,
    "count": _count,
    "first": _at(0),
    "last": _at(-1),
    "nth": _nth,
    "values": _values,
}
