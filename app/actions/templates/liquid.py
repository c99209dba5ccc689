"""Liquid as templates know it: its own filters, exact numbers, and bounds on all that a rendering may use up.

Each filter minds the processor time that is left and the size of what it makes; what could multiply is measured first.
Loops count their rounds over the whole template. There is no include, no file, and no attribute of a Python object.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
from liquid import BoundTemplate, Environment, FalsyStrictUndefined, RenderContext, Undefined
from liquid.builtin.filters.misc import date as liquid_date
from liquid.exceptions import (
    FilterError,
    LiquidError,
    LoopIterationLimitError,
    OutputStreamLimitError,
    UndefinedError,
)
from liquid.output import LimitedStringIO

from app.actions.templates.decimals import FILTERS, Number, NumberError, total

MAX_OUTPUT_BYTES = 64 * 1024
_MAX_FILTER_RESULT = 1_000_000
_MAX_ROUNDS = 10_000
# Rounds times letters: a long template may go round less often.
_MAX_WORK = 20_000_000
_MAX_SECONDS = 0.5


def write_json(value: Any) -> str:
    """A value of a template as JSON text, every number exact."""
    return _JSON.encode(value).decode()


def _plain(value: Any) -> Any:
    return Decimal(value) if isinstance(value, Number) else str(value)


_JSON = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain)


class _Context(RenderContext):
    """What one rendering has used up so far."""

    __slots__ = ("ends", "rounds")

    def __init__(self, template: BoundTemplate, **options: Any) -> None:
        super().__init__(template, **options)
        self.rounds = 0
        self.ends = time.thread_time() + _MAX_SECONDS

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Count the rounds of each loop that begins, nested or not."""
        assert isinstance(self.template, Template)
        self.rounds += length
        if self.rounds > self.template.max_rounds:
            raise LoopIterationLimitError(f"loops of more than {self.template.max_rounds} rounds", token=None)

    def check_time(self) -> None:
        """Raise once the processor time is used up."""
        if time.thread_time() > self.ends:
            raise FilterError("it takes too long", token=None)

    def get_buffer(self, buf: Any = None) -> _Buffer:
        """The output of a `capture`."""
        return _Buffer(self)


class _Buffer(LimitedStringIO):
    """Output that minds its size and the time."""

    def __init__(self, context: _Context) -> None:
        super().__init__(limit=MAX_OUTPUT_BYTES)
        self._context = context

    def write(self, text: str) -> int:
        self._context.check_time()
        try:
            return super().write(text)
        except OutputStreamLimitError:
            raise OutputStreamLimitError(f"the text becomes larger than {MAX_OUTPUT_BYTES} bytes", token=None) from None


class Template(BoundTemplate):
    """A parsed text."""

    context_class = _Context
    max_rounds = _MAX_ROUNDS

    def limit_rounds(self, letters: int) -> None:
        """Set how often its loops may go round altogether, by the length of its text."""
        self.max_rounds = min(_MAX_ROUNDS, _MAX_WORK // max(1, letters))

    def fill(self, names: Mapping[str, Any]) -> str:
        """Render with `names`; raises LiquidError, and whatever a filter trips over."""
        context = _Context(self, globals={"now": None, "today": None, **names})
        buffer = _Buffer(context)
        self.render_with_context(context, buffer)
        return buffer.getvalue()


class _Environment(Environment):
    template_class = Template
    local_namespace_limit = 4 * MAX_OUTPUT_BYTES
    block_nesting_limit = 30


class _Missing(FalsyStrictUndefined):
    """What is not there, for strict templates: `if` and the filter `default` may ask about it, all else is an error."""

    force_liquid_default = True


Filter = Callable[..., Any]


def _bounded(function: Filter, *, of_what_is_missing: bool = False) -> Filter:
    """A filter that minds the time, and the size of what it makes; and, in strict templates, that what it is given is
    there, unless it is made for that."""
    wants_environment = getattr(function, "with_environment", False)

    def call(value: Any, *arguments: Any, context: _Context, **named: Any) -> Any:
        context.check_time()
        for given in arguments if of_what_is_missing else (value, *arguments, *named.values()):
            if type(given) is _Missing:
                raise UndefinedError(given.msg, token=given.token)
        if wants_environment:
            named["environment"] = context.env
        try:
            made = function(value, *arguments, **named)
        except NumberError as exc:
            raise FilterError(str(exc), token=None) from None
        except (ValueError, OverflowError) as exc:
            raise FilterError(f"{exc}", token=None) from None
        if _weight(made) > _MAX_FILTER_RESULT:
            raise FilterError("what a filter makes becomes too large", token=None)
        return made

    call.with_context = True  # type: ignore[attr-defined]
    return call


def _weight(value: Any) -> int:
    """About how many letters a value would print; counts no further than what is too large."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 1
    weight = 1
    for member in value.values() if isinstance(value, dict) else value:
        weight += _weight(member)
        if weight > _MAX_FILTER_RESULT:
            break
    return weight


def _replace(value: object, old: object, new: object = "") -> str:
    """Liquid's replace; what it would make is measured first."""
    text, old, new = _text(value), _text(old), _text(new)
    if len(text) + text.count(old) * len(new) > _MAX_FILTER_RESULT:
        raise FilterError("what a filter makes becomes too large", token=None)
    return text.replace(old, new)


def _join(value: object, separator: object = " ") -> str:
    """Liquid's join; what it would make is measured first."""
    parts = list(_flat(value if isinstance(value, list | tuple | range) else [value]))
    if sum(map(_weight, parts)) + len(parts) * len(_text(separator)) > _MAX_FILTER_RESULT:
        raise FilterError("what a filter makes becomes too large", token=None)
    return _text(separator).join(map(_text, parts))


def _sum(value: object, key: object = None) -> int | Number:
    """Liquid's sum, exact; of the members `key` where one is named."""
    parts = list(_flat(value if isinstance(value, list | tuple | range) else [value]))
    if key is not None:
        parts = [part.get(_text(key)) for part in parts if isinstance(part, Mapping)]
    return total(parts)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _date(value: object, shape: object = "", *, context: _Context) -> str:
    """Liquid's date: seconds since 1970, or text that reads like a date, in strftime's shape; UTC on every machine."""
    shape, text = _text(shape), _text(value)
    if text in ("now", "today"):
        text = _text(context.globals.get("now")) or datetime.now(UTC).isoformat()
    if not shape or len(shape) > 200 or len(text) > 100:
        return text
    try:
        counted = isinstance(value, int | float | Decimal) or (text.isascii() and text.isdigit())
        moment = datetime.fromtimestamp(float(text), UTC) if counted else text
        return str(liquid_date(moment, shape, environment=context.env))
    except (LiquidError, ValueError, OverflowError, OSError):
        return text


_date.with_context = True  # type: ignore[attr-defined]


def _build(undefined: type[Undefined] = Undefined) -> _Environment:
    environment = _Environment(undefined=undefined)
    for tag in ("include", "render", "liquid"):
        del environment.tags[tag]
    own: dict[str, Filter] = {"replace": _replace, "join": _join, "sum": _sum, "json": write_json, **FILTERS}
    for name, function in {**environment.filters, **own}.items():
        environment.filters[name] = _bounded(function, of_what_is_missing=name == "default")
    environment.filters["date"] = _date
    return environment


ENVIRONMENT = _build()
STRICT = _build(_Missing)
