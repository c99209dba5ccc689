"""Spans of time in CxEngage's notation: a number and a unit, two nodes, become a duration of ours."""

from __future__ import annotations

from app.core.durations import LONGEST, read_duration
from app.workflows.cxengage.parser import Node, Number, Word, unexpected

UNITS = ("seconds", "minutes", "hours", "days")
_LETTERS = {unit: unit[0] for unit in UNITS} | {unit[:-1]: unit[0] for unit in UNITS}
_SIZES = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def a_span(count: Node, unit: Node, *, most: str | None = None) -> str:
    """A duration as documents write it (`30m`); raises Unexpected, also for one that is longer than `most`."""
    if not isinstance(count, Number) or not isinstance(count.value, int) or count.value < 1:
        raise unexpected(count, "a whole number of at least 1")
    if not isinstance(unit, Word) or unit.name not in _LETTERS:
        raise unexpected(unit, f"one of {', '.join(UNITS)}")
    letter = _LETTERS[unit.name]
    longest = int((LONGEST if most is None else read_duration(most)).total_seconds())
    if count.value * _SIZES[letter] > longest:
        told = "ten years" if most is None else most
        raise unexpected(count, f"at most {told} here", f"{count.value} {unit.name}")
    return f"{count.value}{letter}"
