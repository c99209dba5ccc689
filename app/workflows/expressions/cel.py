"""Filters: one CEL expression that is true or false of an event. Shared ground for rooms that decide something.

Comes in: the text an author wrote, and later the names it may speak of. Goes out: a compiled `Filter`, or FilterError
with the place. Evaluation never raises for any event: what cannot be evaluated is false, with the reason in words.

What one evaluation may cost is bounded before it starts: by the length of the text, by the nesting of its brackets and
loops, and by how much of the event its loops would walk over (CEL copies a list each time it is mentioned).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from app.core.template_names import EVENT_NAMES, RUN_NAMES
from app.core.timestamps import utc_text
from app.workflows.expressions.cel_analysis import (
    LOOPS,
    FilterError,
    Shape,
    as_filter_error,
    literals_in,
    measure,
    place,
)
from app.workflows.expressions.functions import FUNCTIONS, Digits

if TYPE_CHECKING:
    import cel

LONGEST = 2_048
# About 25 to 100 nanoseconds each: a filter that would do more is false for that event, with the reason.
MOST_WORK = 5_000_000
# Of what an expression gives, as JSON.
LARGEST_VALUE = 64 * 1024

_TYPES = frozenset(("int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"))
_BUILT_IN = frozenset(
    (
        *("size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"),
        *("int", "uint", "double", "string", "bytes", "timestamp", "duration"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    )
)
# Written in Python, 4 microseconds a filter; the ones whose result can grow far beyond their arguments are left out.
_EXTRA = (
    *("bool", "min", "max", "sum"),
    *("charAt", "indexOf", "lastIndexOf", "substring", "split", "lowerAscii", "upperAscii", "trim"),
)
_LARGEST_INTEGER, _SMALLEST_INTEGER = (1 << 63) - 1, -(1 << 63)
_CALL_FAILED = re.compile(r"Function '(\w+)' error: Python function call failed: \w+: (.*)")
_ADVICE = ". Check function arguments and their types."
_JSON = msgspec.json.Encoder(decimal_format="number")

# It would write a line for each event on which a function of _EXTRA fails; the decision has the reason.
logging.getLogger("cel").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter. Two filters are equal when their texts are."""

    text: str
    _program: cel.Program = field(repr=False, compare=False)
    _roots: tuple[str, ...] = field(repr=False, compare=False)
    _functions: Mapping[str, Callable[..., Any]] = field(repr=False, compare=False)
    _shape: Shape = field(repr=False, compare=False)

    def evaluate(self, names: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Whether it is true of `names`; when it is false for want of an answer, also why. Never raises.

        Names that several filters are asked about are better given as `Converted`, which does its work once.
        """
        converted = names if isinstance(names, CelVariables) else CelVariables(names)
        return _truth(*self._evaluate(converted, self._functions))

    def _evaluate(self, converted: CelVariables, functions: Mapping[str, Callable[..., Any]]) -> tuple[Any, str | None]:
        """What CEL gives, or None and the reason why it gives nothing."""
        values: dict[str, Any] = {}
        try:
            tally = _Tally(letters=4 if functions else 64)
            for root in self._roots:
                values[root] = converted.value(root, tally)
            if (reason := self._too_much(tally)) is not None:
                return None, reason
            return self._program.execute(_with_functions(values, functions) if functions else values), None
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as wrong:  # a panic in the Rust engine surfaces as a BaseException
            return None, self._reason(wrong, values)

    def _too_much(self, tally: _Tally) -> str | None:
        if self._shape.work(tally.size, tally.longest) <= MOST_WORK:
            return None
        loops = " with loops" if self._shape.loops else ""
        return f"the event is too large for a filter{loops} ({tally.size} values, the longest list has {tally.longest})"

    def _reason(self, wrong: BaseException, values: Mapping[str, Any]) -> str:
        text = str(wrong).split("\n")[0]
        failed = _CALL_FAILED.match(text)
        if failed is not None:
            return f"{failed[1]}: {failed[2].removesuffix(_ADVICE)}"[:200]
        if isinstance(wrong, KeyError):
            return f"{self._missing(str(wrong.args[0]) if wrong.args else '', values)} is missing"
        if isinstance(wrong, ZeroDivisionError):
            return "a division by zero"
        if isinstance(wrong, OverflowError):
            return "a number is too large"
        if isinstance(wrong, IndexError):
            return text[:200]
        if isinstance(wrong, TypeError) or "Undefined variable or function" in text:
            return f"values that do not go together{self._kinds(values)}"
        if isinstance(wrong, Exception):
            return text.removesuffix(_ADVICE)[:200]
        return "the filter's engine cannot evaluate it on this event"

    def _missing(self, key: str, values: Mapping[str, Any]) -> str:
        """The path at which `key` was looked for and not found, where the text tells."""
        for path in self._shape.paths:
            value: Any = values
            names = path.split(".")
            for depth, name in enumerate(names):
                if not isinstance(value, dict) or name not in value:
                    if name == key:
                        return ".".join(names[: depth + 1])
                    break
                value = value[name]
        return key[:80]

    def _kinds(self, values: Mapping[str, Any]) -> str:
        kinds = []
        for path in self._shape.paths:
            value: Any = values
            for name in path.split("."):
                value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
            if value is not _MISSING:
                kinds.append(f"{path} is {_kind(value)}")
        return f": {', '.join(kinds[:3])}" if kinds else ""


@dataclass(frozen=True, slots=True)
class Expression(Filter):
    """A compiled expression of a step: it may give any value, may call FUNCTIONS, and numbers keep their digits."""

    _literals: tuple[Decimal, ...] = field(repr=False, compare=False)

    def evaluate(self, names: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Whether it is true of `names`; when it is false for want of an answer, also why. Never raises."""
        _, found, reason = self._calculate(names)
        return _truth(found, reason)

    def value(self, names: Mapping[str, Any]) -> tuple[Any, str | None]:
        """What it gives, as JSON has it, of LARGEST_VALUE bytes at most; None with the reason where that cannot be told.
        Never raises."""
        digits, found, reason = self._calculate(names)
        if reason is not None:
            return None, reason
        try:
            kept = _kept(digits.number(found))
            size = len(_JSON.encode(kept))
        except (TypeError, ValueError, RecursionError) as wrong:
            return None, str(wrong)[:200]
        if size > LARGEST_VALUE:
            return None, f"the value is larger than {LARGEST_VALUE} bytes"
        return kept, None

    def _calculate(self, names: Mapping[str, Any]) -> tuple[Digits, Any, str | None]:
        digits = Digits(self._literals)
        functions = {
            name: digits.wrap(FUNCTIONS[name]) if name in FUNCTIONS else function
            for name, function in self._functions.items()
        }
        return (digits, *self._evaluate(CelVariables(names, digits), functions))


def _truth(found: Any, reason: str | None) -> tuple[bool, str | None]:
    if reason is not None or isinstance(found, bool):
        return bool(found), reason
    return False, f"the filter gives {_kind(found)}, neither true nor false"


def _kept(value: Any) -> Any:
    """A value that CEL gave, as JSON can have it; ValueError where it cannot."""
    if value is None or isinstance(value, str | bool | int | Decimal):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("a number is too large")
        return value
    if isinstance(value, list):
        return [_kept(member) for member in value]
    if isinstance(value, Mapping):
        return {str(name): _kept(member) for name, member in value.items()}
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    raise ValueError(f"it gives {_kind(value)}, which cannot be kept")


def compile_filter(text: str, *, also: Iterable[str] = ()) -> Filter:
    """Compile a filter over the names of an event, and those in `also` (of RUN_NAMES); raises FilterError."""
    return Filter(text, *_compiled(text, (*EVENT_NAMES, *also), _extra_functions()))


def compile_expression(text: str) -> Expression:
    """Compile an expression over the names that a run has, which may call FUNCTIONS; raises FilterError."""
    parts = _compiled(text, (*EVENT_NAMES, *RUN_NAMES), {**_extra_functions(), **FUNCTIONS})
    return Expression(text, *parts, literals_in(text))


def _with_functions(values: dict[str, Any], functions: Mapping[str, Callable[..., Any]]) -> cel.Context:
    import cel

    return cel.Context(values, dict(functions))


@cache
def _extra_functions() -> Mapping[str, Callable[..., Any]]:
    # The library takes 0.1 s to import, which commands that compile no filter do without.
    from cel import stdlib

    return {name: stdlib.STDLIB_FUNCTIONS[name] for name in _EXTRA}


def _compiled(
    text: str, allowed: tuple[str, ...], callable_: Mapping[str, Callable[..., Any]]
) -> tuple[cel.Program, tuple[str, ...], Mapping[str, Callable[..., Any]], Shape]:
    """The program, the names that it reads, the functions in Python that it calls, and its shape."""
    if not text.strip():
        raise FilterError("the filter is empty")
    if len(text) > LONGEST:
        raise FilterError(f"the filter has {len(text)} characters; {LONGEST} are allowed")
    import cel

    shape = measure(text)
    try:
        program = cel.compile(text)
        variables, functions = program.variables(), program.functions()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as wrong:
        raise as_filter_error(wrong) from None
    for name in variables:
        if name not in allowed and name not in shape.bound and name not in _TYPES:
            raise FilterError(f"{name} is not known here; a filter speaks of {', '.join(allowed)}", *place(text, name))
    named = [name for name in functions if name.isidentifier()]
    for name in named:
        if name in LOOPS or name == "has":
            raise FilterError(f"{name} is not used as it should be, such as data.items.exists(item, item.price > 10)")
        if name not in _BUILT_IN and name not in callable_:
            raise FilterError(
                f"the function {name} is not known; known are {', '.join(sorted({*_BUILT_IN, *callable_, *LOOPS}))}",
                *place(text, name),
            )
    roots = tuple(name for name in variables if name in allowed)
    return program, roots, {name: callable_[name] for name in named if name in callable_}, shape


_MISSING = object()


class _Tally:
    """How large the values are that a filter reads; so many `letters` of a text count as one value."""

    __slots__ = ("digits", "letters", "longest", "size")

    def __init__(self, letters: int, digits: Digits | None = None) -> None:
        self.letters = letters
        self.digits = digits
        self.size = 0
        self.longest = 0


class CelVariables(Mapping[str, Any]):
    """Names, each of them converted to what CEL takes when a filter asks for it for the first time."""

    def __init__(self, names: Mapping[str, Any], digits: Digits | None = None) -> None:
        """`digits`: remembers what the doubles stand for."""
        self._names = names
        self._digits = digits
        self._known: dict[tuple[str, int], tuple[Any, int, int]] = {}

    def value(self, root: str, tally: _Tally) -> Any:
        """The converted value of `root`; its size is added to `tally`."""
        known = self._known.get((root, tally.letters))
        if known is None:
            own = _Tally(tally.letters, self._digits)
            known = self._known[root, tally.letters] = (_convert(self._names.get(root), own), own.size, own.longest)
        tally.size += known[1]
        tally.longest = max(tally.longest, known[2])
        return known[0]

    def __getitem__(self, name: str) -> Any:
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _convert(value: Any, tally: _Tally) -> Any:
    """`value` in types that CEL takes: integers beyond 64 bit and decimals become floats."""
    tally.size += 1
    if isinstance(value, str):
        tally.size += len(value) // tally.letters
        return value
    if value is None or isinstance(value, bool | float | datetime | timedelta):
        return value
    if isinstance(value, int):
        return value if _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER else _double(value, tally)
    if isinstance(value, Mapping):
        tally.longest = max(tally.longest, len(value))
        return {str(name): _convert(member, tally) for name, member in value.items()}
    if isinstance(value, list | tuple):
        tally.longest = max(tally.longest, len(value))
        return [_convert(member, tally) for member in value]
    if isinstance(value, Decimal):
        return _double(value, tally)
    return value.isoformat() if isinstance(value, date) else str(value)


def _double(value: int | Decimal, tally: _Tally) -> float:
    return (tally.digits or Digits()).double(value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for kind, word in ((bool, "true or false"), (str, "text"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return word
    return {dict: "an object", datetime: "a time", timedelta: "a duration"}.get(type(value), type(value).__name__)
