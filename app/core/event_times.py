"""When an event happened, as its sender says: the definition of `occurred_at` for all formats and sources.

A time is a text with an offset (RFC 3339; the seconds may be missing), or a number since 1970, also as text. The magnitude of
a number tells its unit: 9 to 11 digits are seconds, 12 to 14 milliseconds, 15 to 17 microseconds. Whether a time is in the future
does not matter: a value always means the same time.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Shorter numbers, such as 0 and 20240531, are not times; seconds before March 1973 look like them.
_NUMBERS_FROM, _NUMBERS_UNTIL = 10**8, 10**17
# Numbers below the first limit are seconds since 1970, below the second milliseconds, above it microseconds.
_MILLISECONDS_FROM, _MICROSECONDS_FROM = 10**11, 10**14
_DIGITS = re.compile(r"\d{9,17}(\.\d{1,9})?", re.ASCII)
_TEXT = re.compile(
    r"(\d{4}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):\d\d)(?::([0-5]\d|60)(\.\d+)?)?(Z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)",
    re.ASCII,
)


def read_event_time(value: object) -> datetime | None:
    """The time in UTC, with microseconds, from 1970 to 9999; None for a value that means none. Never raises."""
    try:
        time = _read(value)
    except (ValueError, ArithmeticError):
        return None
    return time if time is not None and time >= _EPOCH else None


def _read(value: object) -> datetime | None:
    if isinstance(value, str):
        return _read_text(value.strip())
    if isinstance(value, datetime):
        return None if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return read_epoch(value) if value >= _NUMBERS_FROM else None


def _read_text(text: str) -> datetime | None:
    if _DIGITS.fullmatch(text):
        return _read(Decimal(text))
    found = _TEXT.fullmatch(text.upper())
    if found is None:
        return None
    minute, second, fraction, offset = found.groups(default="")
    # A leap second is the start of the next minute, as in Postgres.
    leap = timedelta(seconds=second == "60")
    time = datetime.fromisoformat(f"{minute}:{'59' if leap else second or '00'}{fraction}{offset}")
    return time.astimezone(UTC) + leap


def read_epoch(number: int | float | Decimal) -> datetime:
    """The time in UTC that a number of seconds, milliseconds or microseconds since 1970 means, cut to microseconds as the times
    in texts are. Raises ValueError."""
    if not -_NUMBERS_UNTIL < number < _NUMBERS_UNTIL:
        raise ValueError("is too large for a number of seconds, milliseconds or microseconds since 1970")
    exact = Decimal(repr(number)) if isinstance(number, float) else Decimal(number)
    size = abs(exact)
    unit = 1_000_000 if size < _MILLISECONDS_FROM else 1_000 if size < _MICROSECONDS_FROM else 1
    try:
        return _EPOCH + timedelta(microseconds=math.floor(exact * unit))
    except OverflowError:
        raise ValueError("is not in the years 1 to 9999") from None
