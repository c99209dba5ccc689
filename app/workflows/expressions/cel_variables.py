"""The variables of an event for CEL: converts the members that expressions name, once for all expressions of an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from app.workflows.expressions.cel_cost import Path, Size
from app.workflows.expressions.functions import ExactNumbers
from app.workflows.expressions.work_budget import EVENT_UNITS, Budget, BudgetExceeded

if TYPE_CHECKING:
    import cel

_MAX_INTEGER, _MIN_INTEGER = (1 << 63) - 1, -(1 << 63)
# Units (about 0.1 µs each) to convert a text, a container or a name of a member; another value; and to make a context. A value
# that turns out to be too large is given up early, but the look at it has taken some.
_LARGE_VALUE, _SMALL_VALUE, _CONTEXT, _LOOK = 12, 4, 40, 3
_CHARACTERS_PER_UNIT = 200
# A member of up to so many units is converted together with those that other filters of the event name, up to so many in all.
_SMALL_MEMBER = EVENT_UNITS // 400
_SHARED_UNITS = EVENT_UNITS // 10
# The variables that hold the time at which the event is accepted.
TIMES = frozenset(("received_at", "now"))

Functions = Mapping[str, Callable[..., Any]]


class _Member(Struct, frozen=True):
    """A converted member of an event. `is_stub`: the path ends before the one that was asked for, at something that has no
    such member; `units`: to give it to the engine."""

    path: Path
    value: Any
    size: Size
    units: int
    is_stub: bool


class Bound(Struct, frozen=True):
    """What an expression is evaluated with: the engine's context, the same `values` for error messages, and the members and
    functions that the context has."""

    context: cel.Context
    values: dict[str, Any]
    reads: frozenset[Path]
    functions: Functions


class CelVariables(Mapping[str, Any]):
    """Variables for CEL, of one event. `results` holds those of its filters, so that equal filters are evaluated once."""

    def __init__(
        self, values: Mapping[str, Any], budget: Budget | None = None, numbers: ExactNumbers | None = None
    ) -> None:
        """`numbers` remembers which exact number each double represents."""
        self.budget = budget or Budget()
        self.results: dict[str, tuple[bool, str | None]] = {}
        self._values = values
        self._numbers = numbers
        self._expected: frozenset[Path] = frozenset()
        self._functions: Functions = {}
        self._members: dict[Path, _Member | str] = {}
        self._shared: dict[frozenset[Path], Bound] = {}
        self._bound: dict[frozenset[Path], Bound] = {}

    def with_time(self, received_at: datetime) -> CelVariables:
        """The same event at another time, with what is left of its budget, its converted members and its results."""
        other = CelVariables({**self._values, **dict.fromkeys(TIMES, received_at)}, self.budget.fork(), self._numbers)
        other.results = dict(self.results)
        other._expected, other._functions = self._expected, self._functions
        other._members = {path: member for path, member in self._members.items() if path[0] not in TIMES}
        return other

    def expect(self, reads: frozenset[Path], functions: Functions) -> None:
        """Announce what filters of this event read and call, before they are evaluated: small members are then converted
        together. Each function of a context takes the engine half a microsecond, so that it has no others."""
        if not reads <= self._expected:
            self._expected |= reads
        self._add_functions(functions)

    def _add_functions(self, functions: Functions) -> None:
        if not functions.keys() <= self._functions.keys():
            self._functions = {**self._functions, **functions}

    def sizes(self, reads: frozenset[Path]) -> dict[Path, Size]:
        """The size of each member. Raises BudgetExceeded when one is too large to be converted."""
        return {path: self._member(path).size for path in reads}

    def bind(self, reads: frozenset[Path], functions: Functions) -> Bound:
        """A context with these members, shared by filters that read the same large members. Raises BudgetExceeded."""
        bound = self._bound.get(reads)
        if bound is None or not functions.keys() <= bound.functions.keys():
            self._add_functions(functions)
            large = frozenset(path for path in reads if self._member(path).units > _SMALL_MEMBER)
            bound = self._shared.get(large)
            if bound is None:
                wanted = reads if self._expected <= reads else reads | self._small_expected()
                bound = self._shared[large] = self._build(wanted)
            elif not (reads <= bound.reads and functions.keys() <= bound.functions.keys()):
                bound = self._build(reads)
            self._bound[reads] = bound
        return bound

    def _small_expected(self) -> frozenset[Path]:
        """The expected members that are small, as many as may be converted for other filters."""
        found, left = [], min(_SHARED_UNITS, self.budget.left // 4)
        for path in sorted(self._expected):
            try:
                units = self._member(path).units
            except BudgetExceeded:
                continue
            if units <= min(left, _SMALL_MEMBER):
                left -= units
                found.append(path)
        return frozenset(found)

    def _build(self, reads: frozenset[Path]) -> Bound:
        from cel import Context

        members = [self._member(path) for path in reads]
        self.budget.take(_CONTEXT + sum(member.units for member in members), "its conversion")
        values = _combine(members)
        return Bound(Context(values, dict(self._functions)), values, reads, self._functions)

    def _member(self, path: Path) -> _Member:
        member = self._members.get(path)
        if member is None:
            member = self._members[path] = self._convert(path)
        if isinstance(member, str):
            raise BudgetExceeded(member)
        return member

    def _convert(self, path: Path) -> _Member | str:
        """The member at a path; a text if it is too large."""
        value: Any = self._values.get(path[0])
        depth = 1
        while depth < len(path) and isinstance(value, Mapping) and path[depth] in value:
            value = value[path[depth]]
            depth += 1
        is_stub = depth < len(path)
        if is_stub and isinstance(value, Mapping | list | tuple):
            # Only its type matters, for the error message.
            value = {} if isinstance(value, Mapping) else []
        left = self.budget.left
        converter = _Converter(left, self._numbers)
        try:
            converted = converter.convert(value)
        except _TooLargeError:
            name = ".".join(path)[:80]
            return f"{name} is too large: it has more values than the {left:,} units of work that are left suffice for"
        finally:
            self.budget.spend(_LOOK * converter.size.values)
        return _Member(path[:depth], converted, converter.measured(value), converter.units, is_stub)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _combine(members: Iterable[_Member]) -> dict[str, Any]:
    """One object with all members at their paths. A member that is there as a whole contains those at longer paths."""
    values: dict[str, Any] = {}
    whole: set[Path] = set()
    for member in sorted(members, key=lambda each: (len(each.path), each.is_stub)):
        if any(member.path[:length] in whole for length in range(1, len(member.path) + 1)):
            continue
        *parents, last = member.path
        inner = values
        for name in parents:
            inner = inner.setdefault(name, {})
        if member.is_stub and isinstance(member.value, dict):
            inner.setdefault(last, {})
        else:
            inner[last] = member.value
            whole.add(member.path)
    return values


class _TooLargeError(Exception):
    pass


class _Converter:
    """Converts one value to types that CEL accepts, and measures it. Stops when it needs more than `limit` units."""

    __slots__ = ("_left", "_limit", "_numbers", "size")

    def __init__(self, limit: int, numbers: ExactNumbers | None) -> None:
        self._limit = self._left = limit
        self._numbers = numbers
        self.size = Size()

    @property
    def units(self) -> int:
        """The units that the engine takes for what was converted."""
        return self._limit - self._left

    def measured(self, value: Any) -> Size:
        """The size of what was converted, the value."""
        self.size.length = len(value) if isinstance(value, Mapping | list | tuple | str) else 0
        return self.size

    def convert(self, value: Any, depth: int = 0) -> Any:
        """The value: integers beyond 64 bits and decimals become floats. Raises _TooLargeError."""
        self.size.values += 1
        if isinstance(value, str):
            self._take(_LARGE_VALUE + len(value) // _CHARACTERS_PER_UNIT)
            self.size.characters += len(value)
            return value
        if isinstance(value, Mapping | list | tuple):
            return self._convert_members(value, depth)
        self._take(_SMALL_VALUE)
        if value is None or isinstance(value, bool | float | datetime | timedelta):
            return value
        if isinstance(value, int):
            return value if _MIN_INTEGER <= value <= _MAX_INTEGER else self._to_double(value)
        if isinstance(value, Decimal):
            return self._to_double(value)
        return value.isoformat() if isinstance(value, date) else str(value)

    def _convert_members(self, value: Any, depth: int) -> Any:
        size, length = self.size, len(value)
        before = size.values - 1
        is_object = isinstance(value, Mapping)
        least = _SMALL_VALUE + (_LARGE_VALUE if is_object else 0)
        if _LARGE_VALUE + least * length > self._left:
            raise _TooLargeError
        self._left -= _LARGE_VALUE + (_LARGE_VALUE * length if is_object else 0)
        converted: Any
        if is_object:
            size.values += length
            converted = {str(name): self.convert(member, depth + 1) for name, member in value.items()}
        else:
            converted = [self.convert(member, depth + 1) for member in value]
        size.max_length = max(size.max_length, length)
        if depth >= 2:
            size.largest_inner = max(size.largest_inner, size.values - before)
            size.inner_lengths += length
            size.inner_values += size.values - before if depth == 2 else 0
        return converted

    def _take(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise _TooLargeError

    def _to_double(self, value: int | Decimal) -> float:
        return (self._numbers or ExactNumbers()).to_double(value)
