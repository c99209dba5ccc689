"""The filter `date`: reads a point in time, and prints it in a time zone.

It reads ISO 8601, seconds, milliseconds and microseconds since 1970, and other texts that have only one meaning: `5 March 2024`,
`2024/03/05` and `25/12/2024`, but not `05-03-2024`. What it cannot read stays as it is; in strict templates it is an error.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from dateutil import parser  # type: ignore[import-untyped]

from app.actions.templates.template_values import to_text
from app.core.event_times import read_epoch
from app.core.time_zones import find_zone

if TYPE_CHECKING:
    from app.actions.templates.liquid import Context

_MAX_FORMAT = 200
_MAX_TEXT = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?", re.ASCII)
_COMPACT = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
# With the year in front, the month comes before the day everywhere.
_YEAR_FIRST = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?!\d)", re.ASCII)
# "GMT" in front of an offset, and the name of the zone at the end of JavaScript's `Date` as a text.
_ZONE_NAME = re.compile(r"\b(?:GMT|UTC)\s?(?=[+-]\d)", re.ASCII | re.IGNORECASE)
_ZONE_IN_WORDS = re.compile(r" \([^()]*\)$")
_DIRECTIVE = re.compile(r"%([%sL])")
# What a text does not say would come from here. A text without a whole date reads differently with each of them.
_DEFAULTS = (datetime(2001, 1, 1), datetime(2003, 2, 2))  # noqa: DTZ001


class _Ambiguous(ValueError):
    pass


def format_date(value: object, format: object, zone: object = None, *, context: Context) -> str:
    """A point in time by strftime's format, in a time zone (default: UTC). Raises ValueError for an invalid zone or format."""
    pattern, text = to_text(format), to_text(value).strip()
    if len(pattern) > _MAX_FORMAT:
        raise ValueError(f"the format has {len(pattern)} characters; {_MAX_FORMAT} are allowed")
    if not text:
        return ""
    target = find_zone(to_text(zone) or "UTC")
    if text in ("now", "today"):
        text = value = to_text(context.globals.get("now")) or datetime.now(UTC).isoformat()
    try:
        number = value if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else None
        timestamp = read_timestamp(text if number is None else number).astimezone(target)
    except (ValueError, OverflowError) as exc:
        if not context.is_strict:
            return to_text(value)
        reason = str(exc) if isinstance(exc, _Ambiguous) else "is not a date; ISO 8601 and seconds since 1970 are"
        raise ValueError(f"{text[:50]!r} {reason}") from None
    return timestamp.strftime(_DIRECTIVE.sub(lambda match: _directive(match[1], timestamp), pattern))


def _directive(letter: str, timestamp: datetime) -> str:
    """`%s` (seconds since 1970, for which the C library would use the machine's zone) and `%L` (milliseconds)."""
    if letter == "s":
        return str((timestamp - _EPOCH) // timedelta(seconds=1))
    return f"{timestamp.microsecond // 1000:03}" if letter == "L" else "%%"


def read_timestamp(value: int | float | Decimal | str) -> datetime:
    """The point in time of a text or of a number, which means the same as its text; without a zone it is UTC. Raises ValueError
    and OverflowError."""
    if isinstance(value, int):
        value = to_text(value)
    if not isinstance(value, str):
        return read_epoch(value)
    if len(value) > _MAX_TEXT:
        raise ValueError("too long")
    if value.isascii() and value.isdigit() and len(value) in _COMPACT and value[:2] in ("19", "20", "21"):
        try:
            return datetime.strptime(value, _COMPACT[len(value)]).replace(tzinfo=UTC)
        except ValueError:
            pass
    if _NUMBER.fullmatch(value):
        return read_epoch(Decimal(value))
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = _parse(value)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _parse(text: str) -> datetime:
    """The point in time of a text in any other form; raises _Ambiguous for one that can be read in several ways."""
    # dateutil reads GMT+3 as POSIX does, three hours west. People and JavaScript mean east, as in an offset alone.
    text = _ZONE_NAME.sub("", _ZONE_IN_WORDS.sub("", text))
    found = _parse_once(text, _DEFAULTS[0])
    if found != _parse_once(text, _DEFAULTS[1]):
        raise ValueError("no whole date")
    if _YEAR_FIRST.match(text):
        return found
    for order in ({"dayfirst": True}, {"yearfirst": True}):
        if _parse_once(text, _DEFAULTS[0], **order) != found:
            raise _Ambiguous("may have the day or the month first; send ISO 8601, such as 2024-12-25")
    return found


def _parse_once(text: str, default: datetime, **order: bool) -> datetime:
    try:
        found: datetime = parser.parse(text, default=default, tzinfos=_zone_of, **order)
    except (TypeError, IndexError, AttributeError) as exc:
        raise ValueError(str(exc)) from None
    return found


def _zone_of(name: str | None, offset: int | None) -> Any:
    """The offset of a zone in a text. Abbreviations such as IST have several meanings."""
    if offset is None and name is not None and name.upper() not in ("UTC", "GMT", "Z"):
        raise ValueError(f"the zone {name} is unknown")
    return timezone(timedelta(seconds=offset or 0)) if name is not None or offset is not None else None


format_date.with_context = True  # type: ignore[attr-defined]
