"""Durations as text, such as `90s`, `30m`, `1h30m`, `7d` or `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
SHAPE = re.compile(r"(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
MAX_DURATION = timedelta(days=3_660)
# How long idempotency keys, messages, correlation keys and workers are kept, and deliveries unless their account has set it.
RETENTION = timedelta(days=30)


def read_duration(value: object) -> timedelta:
    """`value` as a duration of 1 second to ten years. Raises ValueError."""
    match = SHAPE.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write it like 90s, 30m, 1h30m, 7d or 2w")
    seconds = sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True))
    if seconds == 0:
        raise ValueError(f"{value!r} is zero; the shortest duration is 1s")
    if seconds > MAX_DURATION.total_seconds():
        raise ValueError(f"{value!r} is longer than ten years")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """A duration for people, in its two largest units: `2h5m`; with a fraction below ten seconds, `4.2s`;
    in milliseconds below one, `850ms`."""
    seconds = max(0.0, duration.total_seconds())
    if seconds < 0.9995:
        return f"{round(seconds * 1000)}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    return "".join(re.findall(r"\d+[a-z]", write_duration(seconds))[:2])


def write_duration(seconds: float) -> str:
    """Whole seconds as the shortest text that `read_duration` reads: 5400 becomes `1h30m`."""
    rest, parts = max(0, round(seconds)), []
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
