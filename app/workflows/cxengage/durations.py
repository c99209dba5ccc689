"""Durations in CxEngage's notation: a number and a unit."""

from __future__ import annotations

from app.core.durations import MAX_DURATION, read_duration
from app.workflows.cxengage.parser import Node, Number, Word, unexpected

UNITS = ("seconds", "minutes", "hours", "days")
_LETTERS = {unit: unit[0] for unit in UNITS} | {unit[:-1]: unit[0] for unit in UNITS}
_SIZES = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration_of(count: Node, unit: Node, *, maximum: str | None = None) -> str:
    """A duration for a document (`30m`); raises Unexpected, also when it is longer than `maximum`."""
    if not isinstance(count, Number) or not isinstance(count.value, int) or count.value < 1:
        raise unexpected(count, "a whole number of at least 1")
    if not isinstance(unit, Word) or unit.name not in _LETTERS:
        raise unexpected(unit, f"one of {', '.join(UNITS)}")
    letter = _LETTERS[unit.name]
    longest = int((MAX_DURATION if maximum is None else read_duration(maximum)).total_seconds())
    if count.value * _SIZES[letter] > longest:
        limit = "ten years" if maximum is None else maximum
        raise unexpected(count, f"at most {limit} here", f"{count.value} {unit.name}")
    return f"{count.value}{letter}"
