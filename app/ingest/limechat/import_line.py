"""Parses a line of an import file: an event as in a batch, with the time at which it happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, read_object
from app.core.models import Event
from app.ingest.limechat.parser import BATCH_ITEM, parse_event

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Numbers below the first limit are seconds since 1970, below the second milliseconds, above it microseconds.
_MILLISECONDS_FROM, _MICROSECONDS_FROM = 10**11, 10**14
_NO_ID = UUID(int=0)

Identify = Callable[[datetime, str | None], UUID]


def read_line(line: bytes, *, account_id: int, time_field: str, latest: datetime, identify: Identify) -> Event:
    """The event of a line; raises Problem. `identify` computes its id from its time and its idempotency key.

    `time_field` is a field such as `received_at`, or a path into data such as `data.created_at`. A top-level field is not
    stored as an unknown field.
    """
    exact = read_object(line)
    try:
        received_at = _timestamp(_value_at(exact.value, time_field))
    except (ValueError, OverflowError) as exc:
        raise _invalid_time(time_field, str(exc)) from None
    if not EARLIEST <= received_at <= latest:
        raise _invalid_time(time_field, f"is {received_at:%Y-%m-%d %H:%M:%S} UTC; it has to be from 2000 to now")
    rest = ExactObject(_without(exact.value, time_field), _without(exact.raw, time_field))
    event = parse_event(rest, BATCH_ITEM, account_id=account_id, event_id=_NO_ID, received_at=received_at)
    return replace(event, id=identify(received_at, event.idempotency_key))


def _without(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


def _value_at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise ValueError("is missing: when the event was")
        value = value[name]
    return value


def _timestamp(value: Any) -> datetime:
    """A time as ISO 8601 text (UTC by default) or as a number since 1970. Raises ValueError, OverflowError."""
    if isinstance(value, str):
        try:
            timestamp = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("is no time such as 2026-11-22T10:00:00Z") from None
        return timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp.astimezone(UTC)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("has to be a time such as 2026-11-22T10:00:00Z, or a number of seconds since 1970")
    if abs(value) < _MILLISECONDS_FROM:
        return _EPOCH + timedelta(seconds=value)
    return _EPOCH + (
        timedelta(milliseconds=value) if abs(value) < _MICROSECONDS_FROM else timedelta(microseconds=value)
    )


def _invalid_time(field: str, message: str) -> Problem:
    return Problem(ProblemType.VALIDATION_FAILED, f"{field} {message}", errors=[{"field": field, "message": message}])
