"""Compiles and evaluates CEL: filters, which are true or false for an event, and expressions of steps.

Evaluation never raises: a filter that cannot be evaluated is false, with a reason. Only the members of an event that a text
names are converted (`cel_variables.py`), and the work of an evaluation is taken from the event's budget before it starts
(`cel_cost.py`): by the length of the text, the nesting of its loops, and the amount of data that they go through.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from app.core.ids import utc_text
from app.core.pacing import pause_if_due
from app.core.template_names import EVENT_NAMES, RUN_NAMES
from app.workflows.expressions.cel_analysis import (
    LOOPS,
    FilterError,
    Shape,
    find_literals,
    find_position,
    measure,
    rename_calls,
    to_filter_error,
)
from app.workflows.expressions.cel_cost import Cost, Size, analyze
from app.workflows.expressions.cel_variables import TIMES, CelVariables
from app.workflows.expressions.functions import FUNCTIONS, ExactNumbers, describe_type
from app.workflows.expressions.signatures import SIGNATURES, type_of
from app.workflows.expressions.standard_functions import STANDARD_FUNCTIONS, to_bool, to_text
from app.workflows.expressions.work_budget import EXPRESSION_UNITS, NOT_EVALUATED, Budget, BudgetExceeded

if TYPE_CHECKING:
    import cel

# Characters of the text.
MAX_LENGTH = 2_048
# Bytes of an expression's value as JSON.
MAX_VALUE_BYTES = 64 * 1024

_TYPES = frozenset(("int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"))
_BUILT_IN = frozenset(
    (
        *("size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"),
        *("int", "uint", "double", "string", "bytes", "timestamp", "duration"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    )
)
# Implemented in Python, 4 microseconds per filter. Functions whose result can be much larger than their arguments are
# excluded.
_EXTRA = (
    *("min", "max", "sum"),
    *("charAt", "indexOf", "lastIndexOf", "substring", "split", "lowerAscii", "upperAscii", "trim"),
)
_CALL_FAILED = re.compile(r"Function '(\w+)' error: Python function call failed: (\w+): (.*)")
_CONVERSION_FAILED = re.compile(r"Function '(double|uint)' error: string parse error")
_ADVICE = ". Check function arguments and their types."
# Units of work of a filter apart from the engine's.
_FILTER_UNITS = 60
_TOO_LARGE = "the event is too large for this filter, which"
_JSON = msgspec.json.Encoder(decimal_format="number")

# The library logs a line for each event for which a function of _EXTRA fails; the decision has the reason already.
logging.getLogger("cel").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter. Filters with the same text are equal. `functions`: those of Python that it calls."""

    text: str
    _program: cel.Program = field(repr=False, compare=False)
    cost: Cost = field(repr=False, compare=False)
    functions: Mapping[str, Callable[..., Any]] = field(repr=False, compare=False)
    _shape: Shape = field(repr=False, compare=False)

    @property
    def least_units(self) -> int:
        """The units of work that it needs for an event without any data."""
        return _FILTER_UNITS + self.cost.units(dict.fromkeys(self.cost.reads, Size()))

    def evaluate(self, variables: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Whether the filter is true, and if it cannot be evaluated the reason. Never raises.

        Pass the same `CelVariables` to all filters of an event: they share its conversion and its budget.
        """
        shared = variables if isinstance(variables, CelVariables) else CelVariables(variables)
        known = shared.results.get(self.text)
        if known is None:
            known = _to_bool(*self._evaluate(shared, self.functions))
            if TIMES.isdisjoint(path[0] for path in self.cost.reads):
                shared.results[self.text] = known
        return known

    def _evaluate(self, variables: CelVariables, functions: Mapping[str, Callable[..., Any]]) -> tuple[Any, str | None]:
        """The value that CEL returns, or None and the reason."""
        values: Mapping[str, Any] = {}
        try:
            variables.budget.take(_FILTER_UNITS, "a filter")
            work = self.cost.units(variables.sizes(self.cost.reads))
            variables.budget.require(work, _TOO_LARGE)
            bound = variables.bind(self.cost.reads, functions)
            values = bound.values
            variables.budget.take(work, _TOO_LARGE)
            return self._program.execute(bound.context), None
        except BudgetExceeded as exc:
            variables.budget.was_exceeded = True
            return None, f"{NOT_EVALUATED} ({exc})"
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as exc:  # A panic of the Rust engine is a BaseException.
            return None, self._explain(exc, values)

    def _explain(self, exc: BaseException, values: Mapping[str, Any]) -> str:
        text = str(exc).split("\n")[0]
        failed = _CALL_FAILED.match(text)
        if failed is not None:
            return self._explain_call(failed, values)[:200]
        if (conversion := _CONVERSION_FAILED.match(text)) is not None:
            return f"{conversion[1]}: the text is not a number"
        if isinstance(exc, KeyError):
            return f"{self._find_missing_path(str(exc.args[0]) if exc.args else '', values)} is missing"
        if isinstance(exc, ZeroDivisionError):
            return "a division by zero"
        if isinstance(exc, OverflowError):
            return "a number is too large"
        if isinstance(exc, IndexError):
            return text[:200]
        if isinstance(exc, TypeError) or "Undefined variable or function" in text:
            return f"incompatible types{self._describe_types(values)}"
        if isinstance(exc, Exception):
            return text.removesuffix(_ADVICE)[:200]
        return "the CEL engine cannot evaluate the filter for this event"

    def _explain_call(self, failed: re.Match[str], values: Mapping[str, Any]) -> str:
        """The reason of a function; any other error than of its own is one of types."""
        name = f"{failed[1][0].lower()}{failed[1][1:]}"
        if failed[2] in ("ValueError", "IndexError"):
            return f"{name}: {failed[3].removesuffix(_ADVICE).removeprefix(f'{name}: ')}"
        return f"{name}: incompatible types{self._describe_types(values)}"

    def _find_missing_path(self, key: str, values: Mapping[str, Any]) -> str:
        """The path that ends in the missing `key`, or the key itself if the text has no such path."""
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

    def _describe_types(self, values: Mapping[str, Any]) -> str:
        types = []
        for path in self._shape.paths:
            value: Any = values
            for name in path.split("."):
                value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
            if value is not _MISSING:
                types.append(f"{path} is {describe_type(value)}")
        return f": {', '.join(types[:3])}" if types else ""


@dataclass(frozen=True, slots=True)
class Expression(Filter):
    """A compiled expression of a step. It returns any value, can call FUNCTIONS, and numbers keep all their digits."""

    _literals: tuple[Decimal, ...] = field(repr=False, compare=False)

    def evaluate(self, variables: Mapping[str, Any], budget: Budget | None = None) -> tuple[bool, str | None]:
        """Whether the expression is true, and if it cannot be evaluated the reason. Never raises.

        Without a budget, the expression has one of its own.
        """
        _, found, reason = self._calculate(variables, budget)
        return _to_bool(found, reason)

    def value(self, variables: Mapping[str, Any], budget: Budget | None = None) -> tuple[Any, str | None]:
        """The value as JSON, at most MAX_VALUE_BYTES, or None and the reason. Never raises."""
        numbers, found, reason = self._calculate(variables, budget)
        if reason is not None:
            return None, reason
        try:
            value = _to_json(numbers.to_exact(found))
            size = len(_JSON.encode(value))
        except (TypeError, ValueError, RecursionError) as exc:
            return None, str(exc)[:200]
        if size > MAX_VALUE_BYTES:
            return None, f"the value is larger than {MAX_VALUE_BYTES} bytes"
        return value, None

    def _calculate(self, variables: Mapping[str, Any], budget: Budget | None) -> tuple[ExactNumbers, Any, str | None]:
        numbers = ExactNumbers(self._literals)
        functions = {name: numbers.wrap(function) for name, function in self.functions.items()}
        shared = CelVariables(variables, budget or Budget(EXPRESSION_UNITS), numbers)
        return (numbers, *self._evaluate(shared, functions))


def _to_bool(found: Any, reason: str | None) -> tuple[bool, str | None]:
    if reason is not None or isinstance(found, bool):
        return bool(found), reason
    return False, f"the filter gives {describe_type(found)}, not true or false"


def _to_json(value: Any) -> Any:
    """A CEL value as JSON. Raises ValueError if JSON cannot represent it."""
    if value is None or isinstance(value, str | bool | int | Decimal):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError("a number is too large")
        return value
    if isinstance(value, list):
        return [_to_json(member) for member in value]
    if isinstance(value, Mapping):
        return {str(name): _to_json(member) for name, member in value.items()}
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, timedelta):
        return to_text(value)
    raise ValueError(f"the value is {describe_type(value)}, which cannot be stored")


def compile_filter(text: str, *, also: Iterable[str] = ()) -> Filter:
    """Compile a filter over the variables of an event and those in `also` (of RUN_NAMES). Raises FilterError."""
    return Filter(text, *_compile(text, (*EVENT_NAMES, *also), _extra_functions()))


def compile_expression(text: str, names: Iterable[str] = (*EVENT_NAMES, *RUN_NAMES)) -> Expression:
    """Compile an expression over variables, by default those of a run, with FUNCTIONS. Raises FilterError."""
    parts = _compile(text, tuple(names), {**_extra_functions(), **FUNCTIONS})
    return Expression(text, *parts, find_literals(text))


@cache
def _extra_functions() -> Mapping[str, Callable[..., Any]]:
    # The library takes 0.1 s to import, which commands that compile no filter do without.
    from cel import stdlib

    functions = {**{name: stdlib.STDLIB_FUNCTIONS[name] for name in _EXTRA}, "bool": to_bool}
    return {**{name: _typed(name, function) for name, function in functions.items()}, **STANDARD_FUNCTIONS}


def _typed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes values of the types of its signature only."""
    signature = SIGNATURES[name]

    def call(*values: Any) -> Any:
        types = [type_of(value) for value in values]
        if not signature.accepts(types):
            raise ValueError(signature.refusal(types))
        return function(*values)

    return call


def _compile(
    text: str, allowed: tuple[str, ...], available: Mapping[str, Callable[..., Any]]
) -> tuple[cel.Program, Cost, Mapping[str, Callable[..., Any]], Shape]:
    """The program, its cost, the Python functions that it calls, and its shape."""
    pause_if_due()
    if not text.strip():
        raise FilterError("the filter is empty")
    if len(text) > MAX_LENGTH:
        raise FilterError(f"the filter has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    import cel

    shape = measure(text)
    try:
        program = cel.compile(text)
        variables, functions = program.variables(), program.functions()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as exc:
        raise to_filter_error(exc) from None
    for name in variables:
        if name not in allowed and name not in shape.loop_variables and name not in _TYPES:
            raise FilterError(f"{name} is not known; a filter can use {', '.join(allowed)}", *find_position(text, name))
    named = [name for name in functions if name.isidentifier()]
    _check_functions(text, named, available)
    renamed = {name: _name_in_context(name) for name in named if name in STANDARD_FUNCTIONS}
    if renamed:
        program = cel.compile(rename_calls(text, renamed))
    called = {_name_in_context(name): available[name] for name in named if name in available}
    return program, analyze(text, allowed, available), called, shape


def _name_in_context(name: str) -> str:
    """The name of a Python function for the engine, which prefers functions of its own and does not have these names."""
    return name[0].upper() + name[1:] if name in STANDARD_FUNCTIONS else name


def _check_functions(text: str, named: Iterable[str], available: Iterable[str]) -> None:
    for name in named:
        if name in LOOPS or name == "has":
            raise FilterError(f"{name} is used incorrectly; write it like data.items.exists(item, item.price > 10)")
        if name not in _BUILT_IN and name not in available:
            raise FilterError(
                f"the function {name} is not known; available are {', '.join(sorted({*_BUILT_IN, *available, *LOOPS}))}",
                *find_position(text, name),
            )


_MISSING = object()
