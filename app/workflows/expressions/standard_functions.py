"""Functions of the CEL specification that the engine lacks or computes in another way: time, conversions, and sizes.

They replace the engine's functions of the same names. Timestamps and durations have microseconds. A function returns a
value or raises ValueError with the reason, which does not repeat the value. Specification:
https://github.com/google/cel-spec/blob/master/doc/langdef.md#list-of-standard-definitions
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.core.subjects import plain_digits
from app.core.time_zones import find_zone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MIN_INTEGER, _MAX_INTEGER = -(1 << 63), (1 << 63) - 1
# As for google.protobuf.Duration.
_MAX_DURATION = timedelta(seconds=315_576_000_000)

_TIMESTAMP = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})[Tt](?P<time>\d{2}:\d{2}:\d{2})(?:\.(?P<fraction>\d+))?(?P<offset>[Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)
_AMOUNT, _UNIT = r"(?:\d++\.?+\d*+|\.\d++)", r"(?:h|ms|m|s|us|µs|ns)"
_PART = re.compile(rf"(?P<number>{_AMOUNT})(?P<unit>{_UNIT})", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:0|(?:{_AMOUNT}{_UNIT})+)", re.ASCII)
_MICROSECONDS = {
    "h": Decimal(3_600_000_000),
    "m": Decimal(60_000_000),
    "s": Decimal(1_000_000),
    "ms": Decimal(1_000),
    "us": Decimal(1),
    "µs": Decimal(1),
    "ns": Decimal("0.001"),
}
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def to_timestamp(value: Any) -> datetime:
    """`timestamp(text or whole seconds since 1970)`, in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return _EPOCH + timedelta(seconds=value)
        except OverflowError:
            raise ValueError("the timestamp is not in the years 1 to 9999") from None
    match = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("takes a text such as 2024-05-31T09:00:00Z, or whole seconds since 1970")
    microseconds = (match["fraction"] or "")[:6].ljust(6, "0")
    offset = "+00:00" if match["offset"] in "Zz" else match["offset"]
    try:
        return datetime.fromisoformat(f"{match['day']}T{match['time']}.{microseconds}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("the text is not a date and time of the years 1 to 9999") from None


def to_duration(value: Any) -> timedelta:
    """`duration(text)`, with hours as the largest unit."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or len(value) > 100 or not _DURATION.fullmatch(value):
        raise ValueError("takes a text such as 1h30m or 90s, with the units h, m, s, ms, us and ns")
    parts = (Decimal(match["number"]) * _MICROSECONDS[match["unit"]] for match in _PART.finditer(value))
    microseconds = int(sum(parts, Decimal(0)))
    if microseconds > _MAX_DURATION / timedelta(microseconds=1):
        raise ValueError("the duration is longer than 10,000 years")
    return timedelta(microseconds=-microseconds if value[0] == "-" else microseconds)


def to_integer(value: Any) -> int:
    """`int(number, text or timestamp)`. Numbers lose their fraction, timestamps become seconds since 1970."""
    if isinstance(value, datetime):
        return (value - _EPOCH) // _SECOND
    if isinstance(value, str):
        if len(value) > 20 or not _INTEGER.fullmatch(value):
            raise ValueError("the text is not a whole number of up to 64 bits")
        number = int(value)
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise ValueError("takes a number, a text or a timestamp")
    elif isinstance(value, float) and value <= _MIN_INTEGER:
        # The smallest integer is a double too, but so are numbers that were rounded to it.
        raise ValueError("a number is too large")
    else:
        number = math.trunc(value)
    if not _MIN_INTEGER <= number <= _MAX_INTEGER:
        raise ValueError("a number is too large")
    return number


def to_bool(value: Any) -> bool:
    """`bool(true, false or text)`."""
    if value in ("true", "True", "TRUE", "t", "1"):
        return True
    if value in ("false", "False", "FALSE", "f", "0"):
        return False
    if not isinstance(value, bool):
        raise ValueError("the text is not true or false")
    return value


def to_text(value: Any) -> str:
    """`string(value)`: numbers with all digits and no exponent, timestamps in UTC, durations in seconds."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        at = value.astimezone(UTC).replace(tzinfo=None)
        return at.isoformat(timespec="seconds") + _fraction(at.microsecond) + "Z"
    if isinstance(value, timedelta):
        seconds, microseconds = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
        return f"{'-' if value < timedelta() else ''}{seconds}{_fraction(microseconds)}s"
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError("the bytes are not UTF-8") from None
    if isinstance(value, int) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    if isinstance(value, float | Decimal):
        return plain_digits(Decimal(repr(value)) if isinstance(value, float) else value)
    raise ValueError("takes a text, number, timestamp, duration, bytes, true or false")


def _fraction(microseconds: int) -> str:
    """The fraction of a second with as many digits as it needs."""
    return f".{microseconds:06}".rstrip("0") if microseconds else ""


def find_size(*values: Any) -> int:
    """`size(text, bytes, list or object)`: of a text its characters."""
    if len(values) != 1 or not isinstance(values[0], str | bytes | list | Mapping):
        raise ValueError("takes one text, bytes, list or object")
    return len(values[0])


# Parts of timestamps and durations


def _part(of_timestamp: Callable[[datetime], int], of_duration: Callable[[timedelta], int] | None = None) -> Any:
    """An accessor of timestamps, in UTC or in the zone of the second argument, and of durations."""
    takes = "takes a timestamp" + (" or a duration" if of_duration else "") + ", and for a timestamp a time zone"

    def find(*values: Any) -> int:
        match values:
            case [timedelta() as duration] if of_duration is not None:
                return of_duration(duration)
            case [datetime() as at] | [datetime() as at, _]:
                zone = UTC if len(values) == 1 else find_zone(values[1])
                try:
                    return of_timestamp(at.astimezone(zone))
                except OverflowError:
                    raise ValueError("the timestamp is not in the years 1 to 9999") from None
        raise ValueError(takes)

    return find


def _in_units(unit: timedelta) -> Callable[[timedelta], int]:
    """How many whole units a duration has, without the fraction."""
    return lambda duration: abs(duration) // unit * (-1 if duration < timedelta() else 1)


def _milliseconds(duration: timedelta) -> int:
    """The milliseconds of a duration in addition to its whole seconds."""
    return _in_units(timedelta(milliseconds=1))(duration) - 1_000 * _in_units(_SECOND)(duration)


STANDARD_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "timestamp": to_timestamp,
    "duration": to_duration,
    "int": to_integer,
    "string": to_text,
    "size": find_size,
    "getFullYear": _part(lambda at: at.year),
    "getMonth": _part(lambda at: at.month - 1),
    "getDate": _part(lambda at: at.day),
    "getDayOfMonth": _part(lambda at: at.day - 1),
    "getDayOfWeek": _part(lambda at: at.isoweekday() % 7),
    "getDayOfYear": _part(lambda at: at.timetuple().tm_yday - 1),
    "getHours": _part(lambda at: at.hour, _in_units(timedelta(hours=1))),
    "getMinutes": _part(lambda at: at.minute, _in_units(timedelta(minutes=1))),
    "getSeconds": _part(lambda at: at.second, _in_units(_SECOND)),
    "getMilliseconds": _part(lambda at: at.microsecond // 1_000, _milliseconds),
}
