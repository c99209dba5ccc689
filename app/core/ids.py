"""UUIDv7 identifiers (RFC 9562), which sort by time to a quarter of a microsecond, ids of people, and UTC timestamps as text."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from app.core.subjects import MAX_SUBJECT_LENGTH

_NUMBERED = re.compile(r"EV([0-9]{1,19})-([0-9]{1,39})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> datetime:
    """The current time, aware, in UTC, to the microsecond."""
    return datetime.now(UTC)


def uuid7(timestamp: datetime | None = None, random_bytes: bytes | None = None) -> UUID:
    """A new UUIDv7 of `timestamp` (aware; default: now). `random_bytes`: 8 bytes to use as the random part."""
    nanoseconds = time.time_ns() if timestamp is None else (timestamp - _EPOCH) // _MICROSECOND * 1_000
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(random_bytes or os.urandom(8), "big") & ((1 << 62) - 1)
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random)


def first_id_at(timestamp: datetime) -> UUID:
    """The smallest UUIDv7 of `timestamp` (aware): later ids are not below it, earlier ids are."""
    return UUID(int=uuid7(max(timestamp, _EPOCH)).int >> 62 << 62)


def timestamp_of(identifier: UUID) -> datetime:
    """The timestamp of a UUIDv7 that `uuid7` made, to the microsecond."""
    fraction = (identifier.int >> 64) & 0xFFF
    microseconds = -(-fraction * 1_000 >> 12)
    return _EPOCH + timedelta(milliseconds=identifier.int >> 80, microseconds=microseconds)


def cxengage_id(account_id: int, event_id: UUID) -> str:
    """An event's id in CxEngage's format: EV, the account's id, and the UUID as a decimal number."""
    return f"EV{account_id}-{event_id.int}"


def read_cxengage_id(text: str) -> tuple[int, UUID] | None:
    """The account id and event id in an id of CxEngage's format; None for any other text."""
    match = _NUMBERED.fullmatch(text)
    if match is None or int(match[2]) >= 1 << 128:
        return None
    return int(match[1]), UUID(int=int(match[2]))


def utc_text(timestamp: datetime) -> str:
    """`timestamp` (aware) in UTC as RFC 3339 text, always with microseconds: `2026-11-22T03:37:29.056370Z`."""
    if timestamp.tzinfo is not UTC:
        timestamp = timestamp.astimezone(UTC)
    if timestamp.microsecond:
        # The same text in a tenth of the time.
        return str(msgspec.to_builtins(timestamp))
    return timestamp.isoformat(timespec="microseconds")[:-6] + "Z"


def read_distinct_id(value: Any) -> str | None:
    """The `distinct_id` of an event as it is sent: text, or an integer, which is read as its digits; None if it is null or empty.
    Raises ValueError, whose text says what is wrong with it."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to print integers of more than 4,300 digits.
        if abs(value) >= 10**MAX_SUBJECT_LENGTH:
            raise ValueError(f"has more than {MAX_SUBJECT_LENGTH} digits")
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("must be text: an identifier of the person")
    if len(value) > MAX_SUBJECT_LENGTH:
        raise ValueError(f"has {len(value)} characters; it must have 1 to {MAX_SUBJECT_LENGTH}")
    return value
