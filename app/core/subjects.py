"""The text of a subject: what identifies whom or what an event is about, from a key of a workflow or account."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

MAX_SUBJECT_LENGTH = 255
_TOO_LARGE = 10**MAX_SUBJECT_LENGTH


def subject_text(value: Any) -> str | None:
    """Text itself, a number as its digits; None for a value that is neither, empty, or longer than MAX_SUBJECT_LENGTH.

    Equal numbers have one text, however they are written: without an exponent, without zeros at the end of a fraction, and
    zero without a sign. `app/db/event_queries.py` has the same rule in SQL.
    """
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        value = _number_text(value)
    return value if isinstance(value, str) and 1 <= len(value) <= MAX_SUBJECT_LENGTH else None


def _number_text(number: float | Decimal) -> str | None:
    if isinstance(number, int):
        # Python refuses to print integers of more than 4,300 digits.
        return str(number) if -_TOO_LARGE < number < _TOO_LARGE else None
    exact = number if isinstance(number, Decimal) else Decimal(repr(number))
    if exact == 0:
        return "0"
    if not exact.is_finite() or abs(exact.adjusted()) > MAX_SUBJECT_LENGTH:
        return None
    return plain_digits(exact)


def plain_digits(number: Decimal) -> str:
    """A finite number without an exponent and without zeros at the end of its fraction."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
