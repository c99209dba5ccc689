"""Many workflows, one event: which of them are worth asking? Pure.

Comes in: workflows whose filters begin with a comparison of a value and a constant. Goes out, for an event: the few whose
comparison holds (or may hold), and for all the others together why not. Ten thousand workflows cost a look-up for each
value that they compare, not ten thousand evaluations.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from app.workflows.expressions.cel_analysis import Comparison

T = TypeVar("T")

# Beyond this, CEL may compare integers and doubles otherwise than Python does: such are asked one by one.
_EXACT = 2**53
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Workflows that an event cannot start: how many, and why."""

    reason: str
    count: int


class Screen(Generic[T]):
    """The workflows that compare the value at one path with constants."""

    def __init__(self, path: str, members: Iterable[tuple[Comparison, T]]) -> None:
        self.path = path
        self.count = 0
        self._names = path.split(".")
        self._equal: dict[tuple[str, Any], list[T]] = {}
        ordered: dict[str, list[tuple[float, int, T]]] = {}
        for number, (comparison, member) in enumerate(members):
            self.count += 1
            if comparison.sign == "==":
                self._equal.setdefault(_as_key(comparison.constant), []).append(member)
            else:
                ordered.setdefault(comparison.sign, []).append((float(comparison.constant), number, member))
        self._ordered = {sign: sorted(entries, key=lambda entry: entry[:2]) for sign, entries in ordered.items()}
        self._limits = {sign: [entry[0] for entry in entries] for sign, entries in self._ordered.items()}

    def sift(self, names: Mapping[str, Any]) -> tuple[list[T], Refusal | None]:
        """Those worth asking about an event, and what is to be said of the others."""
        value: Any = names
        for name in self._names:
            value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
            if value is _ABSENT:
                return [], Refusal(f"{self.path} is missing", self.count)
        worth = list(self._equal.get(_as_key(value), ()))
        if isinstance(value, int | float) and not isinstance(value, bool):
            for sign in self._ordered:
                worth += self._passing(sign, value)
        others = self.count - len(worth)
        return worth, Refusal(f"filters on {self.path} are false", others) if others else None

    def _passing(self, sign: str, value: float) -> list[T]:
        entries, limits = self._ordered[sign], self._limits[sign]
        if abs(value) >= _EXACT or value != value:
            return [entry[2] for entry in entries]
        if sign == ">":
            found = entries[: bisect_left(limits, value)]
        elif sign == ">=":
            found = entries[: bisect_right(limits, value)]
        elif sign == "<":
            found = entries[bisect_right(limits, value) :]
        else:
            found = entries[bisect_left(limits, value) :]
        return [entry[2] for entry in found]


def screenable(comparison: Comparison) -> bool:
    """Whether a comparison can be looked up: equality with any constant, order with numbers of moderate size."""
    if comparison.sign == "==":
        return not (isinstance(comparison.constant, int | float) and abs(comparison.constant) >= _EXACT)
    number = isinstance(comparison.constant, int | float) and not isinstance(comparison.constant, bool)
    return number and abs(float(comparison.constant)) < _EXACT


def _as_key(value: Any) -> tuple[str, Any]:
    """Equal for values that CEL finds equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return "truth", value
    if isinstance(value, int | float):
        return "number", value
    return ("text", value) if isinstance(value, str) else ("other", None)
