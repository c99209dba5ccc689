"""Exact numbers for templates: 0.1234567890123456789 keeps its digits when it is printed, compared and added.

The functions replace Liquid's own filters, which use binary floats.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from typing import Any

from app.actions.templates.template_budget import LimitError

MAX_DIGITS = 1_000
_EXACT = Context(prec=MAX_DIGITS, Emax=999_999, Emin=-999_999)
_DIVIDING = Context(prec=28, Emax=999_999, Emin=-999_999)


class NumberError(ValueError):
    """A calculation without a result: a division by zero, or a number that is too large."""


class Number(Decimal):
    """A decimal that prints without an exponent, and compares with a float by the float's shortest text."""

    __slots__ = ()

    def __str__(self) -> str:
        return format(self, "f") if self.is_finite() and -400 < self.adjusted() < 400 else Decimal.__str__(self)

    __repr__ = __str__
    __hash__ = Decimal.__hash__

    def __eq__(self, other: object) -> bool:
        return Decimal.__eq__(self, _as_decimal(other))

    def __int__(self) -> int:
        # With a large exponent, `1e131071`, this takes a second and makes a number of 54 kB.
        if self.is_finite() and self.adjusted() >= MAX_DIGITS:
            raise LimitError(f"a number of more than {MAX_DIGITS} digits is used as an integer")
        return Decimal.__int__(self)

    def __lt__(self, other: Any) -> bool:
        return Decimal.__lt__(self, _as_decimal(other))

    def __le__(self, other: Any) -> bool:
        return Decimal.__le__(self, _as_decimal(other))

    def __gt__(self, other: Any) -> bool:
        return Decimal.__gt__(self, _as_decimal(other))

    def __ge__(self, other: Any) -> bool:
        return Decimal.__ge__(self, _as_decimal(other))


def _as_decimal(other: Any) -> Any:
    return Decimal(repr(other)) if isinstance(other, float) else other


def read_number(value: object) -> int | Number:
    """A value as a number by Liquid's rules: text is parsed, and anything that is not a number is 0."""
    if isinstance(value, bool) or value is None:
        return 0
    if isinstance(value, int):
        return value
    if isinstance(value, Decimal):
        return Number(value)
    if isinstance(value, float):
        return Number(repr(value))
    if isinstance(value, str) and len(value) <= MAX_DIGITS:
        try:
            number = Number(value.strip())
        except decimal.InvalidOperation:
            return 0
        if not number.is_finite():
            return 0
        return int(number) if value.strip().lstrip("+-").isdigit() else number
    return 0


def calculation(operation: Callable[[Decimal, Decimal], Decimal]) -> Callable[..., int | Number]:
    """A filter of two numbers. The result is whole if both are, otherwise exact to MAX_DIGITS digits."""

    def calculate(value: object, other: object) -> int | Number:
        left, right = read_number(value), read_number(other)
        try:
            result = operation(Decimal(left), Decimal(right))
        except ArithmeticError:
            raise NumberError("a number that is too large") from None
        return whole(result) if isinstance(left, int) and isinstance(right, int) else Number(result)

    return calculate


def whole(value: Decimal) -> int:
    """A decimal without a fraction as an int. Raises NumberError beyond MAX_DIGITS digits."""
    if not value.is_finite() or value.adjusted() >= MAX_DIGITS:
        raise NumberError("a number that is too large")
    return int(value)


def read_divisor(value: object) -> int | Number:
    """`read_number` of what another number is divided by; raises NumberError for zero."""
    number = read_number(value)
    if number == 0:
        raise NumberError("a division by zero")
    return number


def divided_by(value: object, other: object) -> int | Number:
    """`value` divided by `other`. The quotient of two whole numbers is rounded down."""
    left, right = read_number(value), read_divisor(other)
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    return calculation(_DIVIDING.divide)(left, right)


def modulo(value: object, other: object) -> int | Number:
    """The remainder, with the sign of the divisor as in Liquid."""
    return calculation(_remainder)(value, read_divisor(other))


def _remainder(left: Decimal, right: Decimal) -> Decimal:
    remainder = _EXACT.remainder(left, right)
    return _EXACT.add(remainder, right) if remainder and (remainder < 0) != (right < 0) else remainder


def rounded(value: object, digits: object = 0) -> int | Number:
    """`value` rounded to `digits` decimals, halves away from zero. Without decimals the result is whole."""
    number, decimals = read_number(value), min(int(read_number(digits)), MAX_DIGITS)
    if isinstance(number, int):
        return number
    if decimals <= 0:
        return whole(number.to_integral_value(ROUND_HALF_UP))
    if number.adjusted() + decimals >= MAX_DIGITS:
        return number
    return Number(number.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP, _EXACT).normalize(_EXACT))


def total(values: list[object]) -> int | Number:
    """The sum of `values`, each by the rules of `read_number`."""
    result: int | Number = 0
    for value in values:
        result = FILTERS["plus"](result, value)
    return result


FILTERS: dict[str, Callable[..., int | Number]] = {
    "abs": lambda value: abs(n) if isinstance(n := read_number(value), int) else Number(n.copy_abs()),
    "at_least": lambda value, other: max(read_number(value), read_number(other)),
    "at_most": lambda value, other: min(read_number(value), read_number(other)),
    "ceil": lambda value: whole(Decimal(read_number(value)).to_integral_value(ROUND_CEILING)),
    "floor": lambda value: whole(Decimal(read_number(value)).to_integral_value(ROUND_FLOOR)),
    "round": rounded,
    "plus": calculation(_EXACT.add),
    "minus": calculation(_EXACT.subtract),
    "times": calculation(_EXACT.multiply),
    "divided_by": divided_by,
    "modulo": modulo,
}
