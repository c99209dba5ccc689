"""A line of a file about the past becomes a verified `Event` with the moment that it tells.

Comes in: the bytes of a line, which hold what a request would hold, and when it was. Goes out: an `Event`; or a Problem
that says what is wrong with the line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, read_object
from app.core.models import Event
from app.ingest.limechat.batch_items import check_key
from app.ingest.limechat.parser import event_in

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A number is seconds since 1970 below the first of these, milliseconds below the second, microseconds from there on.
_MILLISECONDS_FROM, _MICROSECONDS_FROM = 10**11, 10**14

Identify = Callable[[datetime, str | None], UUID]


def read_past(line: bytes, *, account_id: int, time_field: str, latest: datetime, identify: Identify) -> Event:
    """The event of a line; `identify` gives the id that goes with its moment and its idempotency key. Raises Problem.

    `time_field` is a field such as received_at, or a path into data such as data.created_at. A field beside data is
    used up; one inside of data stays there.
    """
    exact = read_object(line)
    key = check_key(exact.value.get("idempotency_key"))
    try:
        moment = _moment(_at(exact.value, time_field))
    except (ValueError, OverflowError) as wrong:
        raise _wrong_time(time_field, str(wrong)) from None
    if not EARLIEST <= moment <= latest:
        raise _wrong_time(time_field, f"is {moment:%Y-%m-%d %H:%M:%S} UTC; it has to be from 2000 to now")
    used_up = {"idempotency_key", time_field}
    return event_in(
        ExactObject(_without(exact.value, used_up), _without(exact.raw, used_up)),
        account_id=account_id,
        event_id=identify(moment, key),
        received_at=moment,
        idempotency_key=key,
        body_digest=None,
    )


def _without(members: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in names}


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise ValueError("is missing: when the event was")
        value = value[name]
    return value


def _moment(value: Any) -> datetime:
    """A time as text (ISO 8601; UTC unless it says else) or as a number since 1970. Raises ValueError, OverflowError."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("is no time such as 2026-11-22T10:00:00Z") from None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("has to be a time such as 2026-11-22T10:00:00Z, or a number of seconds since 1970")
    if abs(value) < _MILLISECONDS_FROM:
        return _EPOCH + timedelta(seconds=value)
    return _EPOCH + (
        timedelta(milliseconds=value) if abs(value) < _MICROSECONDS_FROM else timedelta(microseconds=value)
    )


def _wrong_time(field: str, message: str) -> Problem:
    return Problem(ProblemType.VALIDATION_FAILED, f"{field} {message}", errors=[{"field": field, "message": message}])
