"""Reads the names of time zones, in CEL and in templates alike."""

from __future__ import annotations

import re
from datetime import timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MAX_LENGTH = 64
_OFFSET = re.compile(r"(?P<sign>[+-]?)(?P<hours>\d{1,2}):(?P<minutes>[0-5]\d)", re.ASCII)
# Files of a zone database that are no places: the zone of the machine, an example, a placeholder, and copies of all zones, with
# leap seconds in `right`.
_NOT_A_ZONE = re.compile(r"localtime|posixrules|Factory|(?:posix|right)/.*", re.DOTALL)


def find_zone(name: Any) -> tzinfo:
    """The time zone with an IANA name such as Asia/Kolkata, or a fixed offset such as +05:30. Raises ValueError."""
    zone = _find_zone(name) if isinstance(name, str) and len(name) <= _MAX_LENGTH else None
    if zone is None:
        raise ValueError("the time zone is not known; use a name such as Asia/Kolkata, or an offset such as +05:30")
    return zone


@lru_cache(maxsize=1_024)
def _find_zone(name: str) -> tzinfo | None:
    match = _OFFSET.fullmatch(name)
    if match is not None and int(match["hours"]) < 24:
        offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"]))
        return timezone(-offset if match["sign"] == "-" else offset)
    if _NOT_A_ZONE.fullmatch(name):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
