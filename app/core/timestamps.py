"""Timestamps as text, in one form everywhere."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_text(timestamp: datetime) -> str:
    """`timestamp` (aware) in UTC as RFC 3339 text, always with microseconds: `2026-11-22T03:37:29.056370Z`."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
