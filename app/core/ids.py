"""UUIDv7 identifiers (RFC 9562): 48 bits of milliseconds, 12 bits of their fraction, 62 random bits.

They sort by time to a quarter of a microsecond. Made here because only PostgreSQL 18 and Python 3.14 have them.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_NUMBERED = re.compile(r"EV([0-9]{1,19})-([0-9]{1,39})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> datetime:
    """The present moment, aware, in UTC, to the microsecond."""
    return datetime.now(UTC)


def uuid7(moment: datetime | None = None, chance: bytes | None = None) -> UUID:
    """A new UUIDv7 of `moment` (aware; default: now). `chance`: 8 bytes to be taken for random ones."""
    nanoseconds = time.time_ns() if moment is None else (moment - _EPOCH) // _MICROSECOND * 1_000
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(chance or os.urandom(8), "big") & ((1 << 62) - 1)
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random)


def first_of(moment: datetime) -> UUID:
    """The smallest UUIDv7 of `moment` (aware): ids made from then on are not below it, earlier ones are."""
    return UUID(int=uuid7(max(moment, _EPOCH)).int >> 62 << 62)


def moment_of(identifier: UUID) -> datetime:
    """The moment that a UUIDv7 of ours was made of, to the microsecond."""
    fraction = (identifier.int >> 64) & 0xFFF
    microseconds = -(-fraction * 1_000 >> 12)
    return _EPOCH + timedelta(milliseconds=identifier.int >> 80, microseconds=microseconds)


def numbered(account_id: int, event_id: UUID) -> str:
    """An event's id as CxEngage writes it: EV, the account's id, and the UUID as a decimal number."""
    return f"EV{account_id}-{event_id.int}"


def read_numbered(text: str) -> tuple[int, UUID] | None:
    """The account's id and the event's of which `numbered` made this text; None when it is no such text."""
    match = _NUMBERED.fullmatch(text)
    if match is None or int(match[2]) >= 1 << 128:
        return None
    return int(match[1]), UUID(int=int(match[2]))
