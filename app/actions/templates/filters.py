"""The filters of Liquid texts: those of the library and our own, each with limits on its arguments, its work and its result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from liquid.builtin.filters.array import concat
from liquid.exceptions import FilterError, UndefinedError
from liquid.undefined import StrictUndefined

from app.actions.templates import decimals
from app.actions.templates.dates import format_date
from app.actions.templates.decimals import Number, total
from app.actions.templates.locales import format_money, format_number, read_currency, read_decimals, read_locale
from app.actions.templates.template_budget import LimitError
from app.actions.templates.template_values import List, to_text, weight, write_json
from app.core.time_zones import find_zone

if TYPE_CHECKING:
    from app.actions.templates.liquid import Context

MAX_RESULT_CHARS = 1_000_000
MAX_MEMBERS = 100_000
MAX_RANGE = 10_000

Filter = Callable[..., Any]

# Units for each 16 characters of a text, where they are not one.
_TEXT_COST = {"escape_once": 4, "escapejs": 8, "strip_html": 8, "url_decode": 4, "url_encode": 6}
# How lists and objects are counted: not at all, by their members, by a quarter of their characters, or else by all of them.
_FREE = ("default", "first", "last", "size")
_BY_MEMBER = ("compact", "concat", "find", "find_index", "has", "map", "reject", "reverse", "slice", "where")
_BY_QUARTER = ("join", "json", "sort", "sort_natural", "sum", "uniq")
# Units of a call of a filter that is slow for any argument.
_CALL_COST = {**dict.fromkeys(decimals.FILTERS, 40), "date": 100, "money": 400, "number": 400}
_TEXT_MODULES = ("liquid.builtin.filters.string", "liquid.builtin.filters.extra")


def filters(built_in: Mapping[str, Filter], missing: type[StrictUndefined]) -> dict[str, Filter]:
    """All filters by name. `missing` is the type of a missing value in strict templates."""
    return {name: _bounded(name, function, missing) for name, function in {**built_in, **_OWN}.items()}


def _bounded(name: str, function: Filter, missing: type[StrictUndefined]) -> Filter:
    """A filter with limits. A missing value in strict templates is an error, except for `default`."""
    is_text = function.__module__ in _TEXT_MODULES and name != "slice"
    needs_environment = getattr(function, "with_environment", False)
    needs_context = getattr(function, "with_context", False)
    call_cost = _CALL_COST.get(name, 8)

    def call(value: Any, *arguments: Any, context: Context, **named: Any) -> Any:
        given = [members_of_range(each) if isinstance(each, range) else each for each in (value, *arguments)]
        for each in given[1:] if name == "default" else (*given, *named.values()):
            if isinstance(each, missing):
                raise UndefinedError(each.msg, token=each.token)
        context.budget.charge(call_cost + sum(_units(name, each) for each in given))
        if is_text:
            given = [_as_text(each, is_input=position == 0) for position, each in enumerate(given)]
        if needs_environment:
            named["environment"] = context.env
        if needs_context:
            named["context"] = context
        try:
            result = function(*given, **named)
        except (ValueError, ArithmeticError) as exc:
            raise FilterError(f"{name}: {exc}", token=None) from None
        return _limited(result, context)

    call.with_context = True  # type: ignore[attr-defined]
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def members_of_range(value: range) -> List:
    """A range as a list; raises LimitError."""
    if value.stop - value.start > MAX_RANGE:
        raise LimitError(f"a range of more than {MAX_RANGE} members; use a shorter one")
    return List(value)


def _units(name: str, value: Any) -> int:
    """The units of work for an argument of a filter."""
    if name in _FREE:
        return 0
    if not isinstance(value, list | dict):
        return _TEXT_COST.get(name, 1) * (weight(value) >> 4)
    return 2 * len(value) if name in _BY_MEMBER else weight(value) >> (2 if name in _BY_QUARTER else 0)


def _as_text(value: Any, *, is_input: bool) -> Any:
    """The text of a value. Numbers among the further arguments stay numbers."""
    if isinstance(value, str) or not (is_input or value is None or isinstance(value, bool | list | tuple | dict)):
        return value
    if weight(value) > MAX_RESULT_CHARS:
        raise _too_large()
    return to_text(value)


def _limited(result: Any, context: Context) -> Any:
    """The result of a filter; raises LimitError if it is too large. A list gets its weight."""
    if isinstance(result, list | tuple):
        if len(result) > MAX_MEMBERS:
            raise LimitError(
                f"the result of a filter is too large: more than {MAX_MEMBERS} members; use a shorter value"
            )
        context.budget.charge(len(result))
        result = List(result)
    size = weight(result)
    if size > MAX_RESULT_CHARS:
        raise _too_large()
    context.budget.charge(size >> 5)
    return result


def _too_large() -> LimitError:
    return LimitError(
        f"the result of a filter is too large: more than {MAX_RESULT_CHARS} characters; use a shorter value"
    )


# Filters in place of the library's. Those make too large results, need quadratic time, or invent members.


def _replace(value: object, old: object, new: object = "") -> str:
    text, old, new = to_text(value), to_text(old), to_text(new)
    if len(text) + text.count(old) * len(new) > MAX_RESULT_CHARS:
        raise _too_large()
    return text.replace(old, new)


def _split(value: object, separator: object) -> list[str]:
    """The parts of a text: its characters for an empty separator, its words for a space."""
    text, separator = to_text(value), to_text(separator)
    if text in ("", separator):
        return []
    if (len(text) if not separator else text.count(separator)) > MAX_MEMBERS:
        raise LimitError(f"the result of split is too large: more than {MAX_MEMBERS} members; use a shorter value")
    if not separator:
        return list(text)
    return text.split() if separator == " " else text.split(separator)


def _join(value: object, separator: object = " ") -> str:
    parts = [to_text(part) for part in _flatten(value)]
    separator = to_text(separator)
    if sum(map(len, parts)) + len(parts) * len(separator) > MAX_RESULT_CHARS:
        raise _too_large()
    return separator.join(parts)


def _sum(value: object, key: object = None) -> int | Number:
    """The sum, with all digits, of the members or of their member `key`."""
    parts = _flatten(value)
    if key is None:
        return total(list(parts))
    return total([part.get(to_text(key)) for part in parts if isinstance(part, dict)])


def _flatten(value: Any) -> Iterator[Any]:
    """The members of a list, and of the lists in it; any other value itself."""
    if not isinstance(value, list | tuple):
        yield value
        return
    for member in value:
        yield from _flatten(member)


def _first(value: object) -> object:
    return value[0] if isinstance(value, list | tuple) and value else None


def _last(value: object) -> object:
    return value[-1] if isinstance(value, list | tuple) and value else None


def _map(value: object, key: object) -> list[object]:
    """The member `key` of each object; null where there is none."""
    name = to_text(key)
    return [part.get(name) if isinstance(part, dict) else None for part in _flatten(value)]


def _compact(value: object, key: object = None) -> list[object]:
    """The members that are not null, or whose member `key` is not."""
    if key is None:
        return [part for part in _flatten(value) if part is not None]
    name = to_text(key)
    return [part for part in _flatten(value) if isinstance(part, dict) and part.get(name) is not None]


def _uniq(value: object, key: object = None) -> list[object]:
    """The members without repetitions: those that print the same JSON, or whose member `key` does."""
    name = None if key is None else to_text(key)
    found: dict[Decimal | str, object] = {}
    for part in _flatten(value):
        compared = part if name is None else part.get(name) if isinstance(part, dict) else None
        found.setdefault(_identity(compared), part)
    return list(found.values())


def _identity(value: object) -> Decimal | str:
    """What is the same for equal values: 1 equals 1.0, but neither "1" nor true."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return Decimal(repr(value) if isinstance(value, float) else value)
    return write_json(value)


def _slice(value: object, start: object, length: object = 1) -> object:
    """A part of a text or a list, from a position on (counted from the end if negative)."""
    members: Any = value if isinstance(value, list | tuple | str) else to_text(value)
    begin, count = _whole(start), _whole(length)
    begin = begin + len(members) if begin < 0 else begin
    return members[begin : begin + count] if begin >= 0 and count > 0 else members[:0]


def _concat(value: object, other: object) -> object:
    return concat(value, _list(other))


def _list(value: object) -> list[object] | tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{to_text(value)[:50]!r} is not a list")
    return value


def _whole(value: object) -> int:
    number = decimals.read_number(value)
    if number != int(number) or (number == 0 and to_text(value).strip("+-0.") != ""):
        raise ValueError(f"{to_text(value)[:50]!r} is not a whole number")
    return int(number)


def _length(value: object) -> None:
    # The library drops the fraction of a number.
    if not isinstance(value, float):
        _whole(value)


_HIDDEN = {"<script": "</script>", "<style": "</style>", "<!--": "-->"}


def _strip_html(value: object) -> str:
    """The text without tags, comments, scripts and styles. A `<` that begins no tag stays."""
    return "".join(_visible_parts(to_text(value)))


def _visible_parts(text: str) -> Iterator[str]:
    lowered = text.lower()
    # With other letters, `lower` may change the length.
    lowered = lowered if len(lowered) == len(text) else text
    closings = dict.fromkeys(_HIDDEN, True)
    position = 0
    while (start := text.find("<", position)) >= 0:
        if not (text[start + 1 : start + 2].isalpha() or text[start + 1 : start + 2] in ("/", "!", "?")):
            yield text[position : start + 1]
            position = start + 1
            continue
        yield text[position:start]
        begin = next((begin for begin in _HIDDEN if closings[begin] and lowered.startswith(begin, start)), None)
        closing = ">" if begin is None else _HIDDEN[begin]
        end = lowered.find(closing, start)
        if end < 0 and begin is not None:
            # Nothing further on closes it either.
            closings[begin] = False
            closing, end = ">", lowered.find(">", start)
        if end < 0:
            yield text[start:]
            return
        position = end + len(closing)
    yield text[position:]


def _json(value: object) -> str:
    if weight(value) > MAX_RESULT_CHARS:
        raise _too_large()
    return write_json(value)


_OWN: dict[str, Filter] = {
    "compact": _compact,
    "concat": _concat,
    "date": format_date,
    "first": _first,
    "join": _join,
    "json": _json,
    "last": _last,
    "map": _map,
    "money": format_money,
    "number": format_number,
    "replace": _replace,
    "slice": _slice,
    "split": _split,
    "strip_html": _strip_html,
    "sum": _sum,
    "uniq": _uniq,
    **decimals.FILTERS,
}


# Arguments


def argument_error(name: str, function: Filter, given: Sequence[object], named: Iterable[str]) -> str | None:
    """Why a filter cannot be called with these arguments, of which only literals are known (None: others); None if it can."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    options = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY} - {"environment", "context"}
    accepted = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    required = sum(each.default is each.empty for each in accepted)
    if not required <= len(given) <= len(accepted):
        return f"takes {_count(required, len(accepted))}, not {len(given)}"
    if unknown := [option for option in named if option not in options]:
        return f"has no argument {unknown[0]}" + (f"; it has {', '.join(sorted(options))}" if options else "")
    for index, check in _LITERAL_CHECKS.get(name, {}).items():
        if index < len(given) and (literal := given[index]) is not None:
            try:
                check(literal)
            except ValueError as exc:
                return f"cannot have this argument: {exc}"
    return None


def _count(minimum: int, maximum: int) -> str:
    if maximum == 0:
        return "no arguments"
    number = str(maximum) if minimum == maximum else f"{minimum} to {maximum}"
    return f"{number} argument{'' if number == '1' else 's'}"


def _locale(value: object) -> object:
    return read_locale(to_text(value) or "en")


# The checks of literals by their position; each raises ValueError.
_LITERAL_CHECKS: dict[str, dict[int, Callable[[Any], object]]] = {
    "concat": {0: _list},
    "date": {1: lambda value: find_zone(to_text(value) or "UTC")},
    "divided_by": {0: decimals.read_divisor},
    "modulo": {0: decimals.read_divisor},
    "money": {0: lambda value: read_currency(to_text(value)), 1: _locale},
    "number": {0: _locale, 1: read_decimals},
    "slice": {0: _whole, 1: _whole},
    "truncate": {0: _length},
    "truncatewords": {0: _length},
}
