"""The functions that `if`, `set` and `until` may call beside CEL's own: arithmetic with all its digits, and lists.

Comes in: the arguments as CEL has them. Goes out: a value, or ValueError with the reason. Pure and bounded: a number has at
most 308 digits before the point, and what goes on for ever (a third, a root) is rounded to 34 digits.

CEL knows 64-bit integers and doubles and nothing else. `Digits` remembers for each double what number with more digits
it stands for, so that functions calculate with that one, and it comes out of the expression as it went in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from functools import reduce
from typing import Any, TypeAlias

Number: TypeAlias = int | Decimal

_MOST_DIGITS = 308
_MOST_NEIGHBOURS = 64
_TOO_LARGE = Decimal(10) ** _MOST_DIGITS
# Sums and products of numbers that CEL can hold have fewer digits.
_EXACT = Context(prec=700, Emin=-999_999, Emax=999_999, traps=[InvalidOperation, DivisionByZero, Overflow])
_ROUNDED = Context(prec=34, Emin=-999_999, Emax=999_999, traps=[InvalidOperation, DivisionByZero, Overflow])


class Digits:
    """Which number each double of one evaluation stands for. Where two numbers have the same double the second one gets a
    neighbour of it, in the direction in which it lies."""

    __slots__ = ("_known",)

    def __init__(self, literals: Iterable[Decimal] = ()) -> None:
        """`literals`: the numbers that the expression writes itself, whose doubles CEL chooses."""
        self._known: dict[float, Number | None] = {}
        for literal in literals:
            double = float(literal)
            self._known[double] = literal if self._known.get(double, literal) == literal else None

    def double(self, number: Number) -> float:
        """The double that stands for a number."""
        try:
            double = float(number)
        except OverflowError:
            double = math.inf if number > 0 else -math.inf
        for _ in range(_MOST_NEIGHBOURS):
            if double == 0 or math.isinf(double):
                return double
            known = self._known.setdefault(double, number)
            if known is None or known == number:
                return double
            double = math.nextafter(double, math.inf if number > known else -math.inf)
        return float(number)

    def number(self, value: Any) -> Any:
        """What a value of CEL stands for, however deep in lists and objects."""
        if isinstance(value, float):
            known = self._known.get(value)
            return value if known is None else known
        if isinstance(value, list):
            return [self.number(member) for member in value]
        if isinstance(value, Mapping):
            return {name: self.number(member) for name, member in value.items()}
        return value

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, as CEL may call it: exact numbers in, doubles out."""

        def call(*arguments: Any) -> Any:
            return self._given(function(*map(self.number, arguments)))

        return call

    def _given(self, value: Any) -> Any:
        if isinstance(value, Decimal) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63):
            return self.double(value)
        if isinstance(value, list):
            return [self._given(member) for member in value]
        if isinstance(value, Mapping):
            return {name: self._given(member) for name, member in value.items()}
        return value


# Numbers


def _number(value: Any) -> Number:
    """A number to calculate with: integers as they are, all others as the decimal that they are written as."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{_kind(value)} is not a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is too large")
        return Decimal(repr(value))
    return value


def _kind(value: Any) -> str:
    kinds = ((bool, "true or false"), (str, "text"), (list, "a list"), (Mapping, "an object"), (type(None), "null"))
    return next((word for kind, word in kinds if isinstance(value, kind)), type(value).__name__)


def _bounded(value: Number) -> Number:
    """The number, unless it has too many digits."""
    if not -_TOO_LARGE < value < _TOO_LARGE:
        raise ValueError("a number is too large")
    return value


def _folded(operation: Callable[[Number, Number], Number], least: int) -> Callable[..., Number]:
    def calculate(*values: Any) -> Number:
        if len(values) < least:
            raise ValueError(f"takes {least} numbers or more, not {len(values)}")
        return _bounded(reduce(operation, map(_number, values)))

    return calculate


def _of(count: int, operation: Callable[..., Any]) -> Callable[..., Any]:
    def calculate(*values: Any) -> Any:
        if len(values) != count:
            raise ValueError(f"takes {count} number{'' if count == 1 else 's'}, not {len(values)}")
        return _bounded(operation(*map(_number, values)))

    return calculate


def _add(left: Number, right: Number) -> Number:
    return left + right if _whole(left, right) else _EXACT.add(left, right)


def _subtract(left: Number, right: Number) -> Number:
    return left - right if _whole(left, right) else _EXACT.subtract(left, right)


def _multiply(left: Number, right: Number) -> Number:
    return _bounded(left * right if _whole(left, right) else _EXACT.multiply(left, right))


def _whole(*numbers: Number) -> bool:
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
    """Divided, without what is behind the point."""
    if right == 0:
        raise ValueError("a division by zero")
    if isinstance(left, int) and isinstance(right, int):
        whole = abs(left) // abs(right)
        return whole if (left < 0) == (right < 0) else -whole
    if left and Decimal(left).adjusted() - Decimal(right).adjusted() > _MOST_DIGITS:
        raise ValueError("a number is too large")
    return int(_EXACT.divide_int(Decimal(left), Decimal(right)))


def _remainder(left: Number, right: Number) -> Number:
    """What is left over by `quot`; it has the sign of the first number."""
    return _subtract(left, _multiply(right, _quotient(left, right)))


def _modulo(left: Number, right: Number) -> Number:
    """What is left over; it has the sign of the second number."""
    rest = _remainder(left, right)
    return _add(rest, right) if rest != 0 and (rest < 0) != (right < 0) else rest


def _rounded(value: Number, rounding: str) -> int:
    if isinstance(value, int):
        return value
    if value.adjusted() > _MOST_DIGITS:
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
    if size not in (0, 1) and abs(math.log10(size) * float(exponent)) > _MOST_DIGITS:
        raise ValueError("a number is too large, or too small")
    if isinstance(base, int) and isinstance(exponent, int):
        found: int = base ** abs(exponent)
        return found if exponent >= 0 else _divide(1, found)
    return _ROUNDED.power(Decimal(base), Decimal(exponent))


# Lists


def _list(name: str, values: Sequence[Any]) -> Sequence[Any]:
    """The members of the one list that is given, or all arguments."""
    members = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not members:
        raise ValueError(f"the list is empty, it has no {name}")
    return members


def _total(*values: Any) -> Any:
    members = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if members and all(isinstance(member, timedelta) for member in members):
        return sum(members, timedelta())
    nothing: Number = 0
    return _bounded(reduce(_add, map(_number, members), nothing))


def _extreme(name: str, choose: Callable[[Iterable[Number]], Number]) -> Callable[..., Any]:
    def find(*values: Any) -> Any:
        members = _list(name, values)
        if any(isinstance(member, str | timedelta) for member in members):
            from cel import stdlib

            return stdlib.STDLIB_FUNCTIONS[name](*values)
        return choose([_number(member) for member in members])

    return find


def _average(*values: Any) -> Number:
    members = _list("avg", values)
    return _divide(_total(*members), len(members))


def _deviation(*values: Any) -> Number:
    """The standard deviation of a sample; of one number it is 0."""
    members = [_number(member) for member in _list("stdev", values)]
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
        raise ValueError(f"the list has {len(members)} members, none of them is number {index}")
    return members[int(index)]


def _end(name: str, index: int) -> Callable[..., Any]:
    def find(*values: Any) -> Any:
        if len(values) != 1 or not isinstance(values[0], list):
            raise ValueError("takes one list")
        return _list(name, values)[index]

    return find


def _values(*values: Any) -> list[Any]:
    """`values(matched, "price")`: that field of the data of each event that has it, or of each object, in order."""
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
    "add": _folded(_add, 1),
    "sub": _folded(_subtract, 2),
    "mul": _folded(_multiply, 1),
    "div": _folded(_divide, 2),
    "mod": _of(2, _modulo),
    "quot": _of(2, _quotient),
    "rem": _of(2, _remainder),
    "inc": _of(1, lambda value: _add(value, 1)),
    "dec": _of(1, lambda value: _subtract(value, 1)),
    "abs": _of(1, abs),
    "floor": _of(1, lambda value: _rounded(value, ROUND_FLOOR)),
    "ceil": _of(1, lambda value: _rounded(value, ROUND_CEILING)),
    "sqrt": _of(1, _root),
    "pow": _of(2, _power),
    "sum": _total,
    "min": _extreme("min", min),
    "max": _extreme("max", max),
    "avg": _average,
    "stdev": _deviation,
    "count": _count,
    "first": _end("first", 0),
    "last": _end("last", -1),
    "nth": _nth,
    "values": _values,
}
