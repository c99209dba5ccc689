"""The predicate index: finds the candidates among many workflows whose filters compare a value with a constant.

Ten thousand workflows cost one lookup for each value that they compare, not ten thousand evaluations.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, TypeVar

from app.workflows.expressions.cel_analysis import Comparison

T = TypeVar("T")

# From here on CEL may compare integers and doubles differently than Python; such comparisons are not indexed.
_EXACT = 2**53
_MISSING = object()
_BISECT = {">": bisect_left, ">=": bisect_right, "<": bisect_right, "<=": bisect_left}


@dataclass(frozen=True, slots=True)
class Skipped:
    """Workflows that an event cannot start: how many, and why."""

    reason: str
    count: int


class PredicateIndex(Generic[T]):
    """The members that compare the value at one path with constants."""

    def __init__(self, path: str, members: Iterable[tuple[Comparison, T]]) -> None:
        self.path = path
        self.count = 0
        self._names = path.split(".")
        self._equal: dict[tuple[str, Any], list[T]] = {}
        ordered: dict[str, list[tuple[float, int, T]]] = {}
        for number, (comparison, member) in enumerate(members):
            self.count += 1
            if comparison.operator == "==":
                self._equal.setdefault(_equality_key(comparison.constant), []).append(member)
            else:
                ordered.setdefault(comparison.operator, []).append((float(comparison.constant), number, member))
        self._ordered = {
            operator: sorted(entries, key=lambda entry: entry[:2]) for operator, entries in ordered.items()
        }
        self._limits = {operator: [entry[0] for entry in entries] for operator, entries in self._ordered.items()}
        self._all_missing = Skipped(f"{path} is missing", self.count)

    def find_candidates(self, variables: Mapping[str, Any]) -> tuple[list[T], Skipped | None]:
        """The members whose comparison holds or may hold, and why the others are skipped."""
        value: Any = variables
        for name in self._names:
            value = value.get(name, _MISSING) if isinstance(value, dict | Mapping) else _MISSING
            if value is _MISSING:
                return [], self._all_missing
        if isinstance(value, Decimal):
            # A number that no double holds exactly. CEL compares the nearest one.
            value = float(value)
        candidates = list(self._equal.get(_equality_key(value), ()))
        if isinstance(value, int | float) and not isinstance(value, bool):
            for operator in self._ordered:
                candidates += self._find_ordered(operator, value)
        others = self.count - len(candidates)
        return candidates, Skipped(f"filters on {self.path} are false", others) if others else None

    def _find_ordered(self, operator: str, value: float) -> list[T]:
        entries, limits = self._ordered[operator], self._limits[operator]
        if abs(value) >= _EXACT or value != value:
            return [entry[2] for entry in entries]
        at = _BISECT[operator](limits, value)
        return [entry[2] for entry in (entries[:at] if operator in (">", ">=") else entries[at:])]


def is_indexable(comparison: Comparison) -> bool:
    """Whether a comparison can be indexed: equality with any constant, order with numbers of moderate size."""
    constant = comparison.constant
    if comparison.operator == "==":
        return not (isinstance(constant, int | float) and abs(constant) >= _EXACT)
    is_number = isinstance(constant, int | float) and not isinstance(constant, bool)
    return is_number and abs(float(constant)) < _EXACT


def _equality_key(value: Any) -> tuple[str, Any]:
    """Equal for values that CEL finds equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int | float):
        return "number", value
    return ("text", value) if isinstance(value, str) else ("other", None)
