"""The Liquid dialect of templates: exact numbers, and limits on everything that a rendering may use.

Each filter checks the remaining CPU time and the size of its result; filters that multiply text compute the size first. The
rounds of all loops of a template are counted together. Templates cannot include other templates, read files, or access
attributes of Python objects.
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

from app.actions.templates.decimals import FILTERS, Number, total

MAX_OUTPUT_BYTES = 64 * 1024
_MAX_FILTER_RESULT = 1_000_000
_MAX_ROUNDS = 10_000
# Rounds times characters: a longer template may have fewer rounds.
_MAX_WORK = 20_000_000
_MAX_SECONDS = 0.5


def write_json(value: Any) -> str:
    """A value of a template as JSON text, with exact numbers."""
    return _JSON.encode(value).decode()


def _plain(value: Any) -> Any:
    return Decimal(value) if isinstance(value, Number) else str(value)


_JSON = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain)


class _Context(RenderContext):
    """The resources that one rendering has used."""

    __slots__ = ("deadline", "rounds")

    def __init__(self, template: BoundTemplate, **options: Any) -> None:
        super().__init__(template, **options)
        self.rounds = 0
        self.deadline = time.thread_time() + _MAX_SECONDS

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Count the rounds of each loop that begins; raises beyond the limit."""
        assert isinstance(self.template, Template)
        self.rounds += length
        if self.rounds > self.template.max_rounds:
            raise LoopIterationLimitError(f"loops of more than {self.template.max_rounds} rounds", token=None)

    def check_time(self) -> None:
        """Raise when the CPU time is used up."""
        if time.thread_time() > self.deadline:
            raise FilterError("rendering takes too long", token=None)

    def get_buffer(self, buf: Any = None) -> _Buffer:
        """A buffer for the output of a `capture`."""
        return _Buffer(self)


class _Buffer(LimitedStringIO):
    """Output with limits on its size and on the CPU time."""

    def __init__(self, context: _Context) -> None:
        super().__init__(limit=MAX_OUTPUT_BYTES)
        self._context = context

    def write(self, text: str) -> int:
        self._context.check_time()
        try:
            return super().write(text)
        except OutputStreamLimitError:
            raise OutputStreamLimitError(f"the text is larger than {MAX_OUTPUT_BYTES} bytes", token=None) from None


class Template(BoundTemplate):
    """A parsed template."""

    context_class = _Context
    max_rounds = _MAX_ROUNDS

    def limit_rounds(self, characters: int) -> None:
        """Set how many rounds its loops may have together, by the length of its text."""
        self.max_rounds = min(_MAX_ROUNDS, _MAX_WORK // max(1, characters))

    def fill(self, names: Mapping[str, Any]) -> str:
        """Render with `names`; raises LiquidError, and any exception of a filter."""
        context = _Context(self, globals={"now": None, "today": None, **names})
        buffer = _Buffer(context)
        self.render_with_context(context, buffer)
        return buffer.getvalue()


class _Environment(Environment):
    template_class = Template
    local_namespace_limit = 4 * MAX_OUTPUT_BYTES
    block_nesting_limit = 30


class _Missing(FalsyStrictUndefined):
    """A missing value in strict templates: `if` and the filter `default` accept it, any other use is an error."""

    force_liquid_default = True


Filter = Callable[..., Any]


def _bounded(function: Filter, *, allow_missing: bool = False) -> Filter:
    """A filter with limits on the CPU time and on the size of its result. In strict templates its arguments must not be
    missing; with `allow_missing` its first may be."""
    needs_environment = getattr(function, "with_environment", False)

    def call(value: Any, *arguments: Any, context: _Context, **named: Any) -> Any:
        context.check_time()
        for argument in arguments if allow_missing else (value, *arguments, *named.values()):
            if type(argument) is _Missing:
                raise UndefinedError(argument.msg, token=argument.token)
        if needs_environment:
            named["environment"] = context.env
        try:
            result = function(value, *arguments, **named)
        except (ValueError, OverflowError) as exc:
            raise FilterError(str(exc), token=None) from None
        if _size(result) > _MAX_FILTER_RESULT:
            raise FilterError("the result of a filter is too large", token=None)
        return result

    call.with_context = True  # type: ignore[attr-defined]
    return call


def _size(value: Any) -> int:
    """About how many characters a value prints; stops counting above the limit."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 1
    size = 1
    for member in value.values() if isinstance(value, dict) else value:
        size += _size(member)
        if size > _MAX_FILTER_RESULT:
            break
    return size


def _replace(value: object, old: object, new: object = "") -> str:
    """Liquid's replace, which computes the size of its result first."""
    text, old, new = _text(value), _text(old), _text(new)
    if len(text) + text.count(old) * len(new) > _MAX_FILTER_RESULT:
        raise FilterError("the result of a filter is too large", token=None)
    return text.replace(old, new)


def _join(value: object, separator: object = " ") -> str:
    """Liquid's join, which computes the size of its result first."""
    parts = list(_flatten(value if isinstance(value, list | tuple | range) else [value]))
    if sum(map(_size, parts)) + len(parts) * len(_text(separator)) > _MAX_FILTER_RESULT:
        raise FilterError("the result of a filter is too large", token=None)
    return _text(separator).join(map(_text, parts))


def _sum(value: object, key: object = None) -> int | Number:
    """Liquid's sum with exact numbers, of the members `key` if given."""
    parts = list(_flatten(value if isinstance(value, list | tuple | range) else [value]))
    if key is not None:
        parts = [part.get(_text(key)) for part in parts if isinstance(part, Mapping)]
    return total(parts)


def _flatten(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flatten(value)
        else:
            yield value


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _date(value: object, format: object = "", *, context: _Context) -> str:
    """Liquid's date: formats seconds since 1970 or a text by strftime; always in UTC."""
    pattern, text = _text(format), _text(value)
    if text in ("now", "today"):
        text = _text(context.globals.get("now")) or datetime.now(UTC).isoformat()
    if not pattern or len(pattern) > 200 or len(text) > 100:
        return text
    try:
        is_number = isinstance(value, int | float | Decimal) or (text.isascii() and text.isdigit())
        timestamp = datetime.fromtimestamp(float(text), UTC) if is_number else text
        return str(liquid_date(timestamp, pattern, environment=context.env))
    except (LiquidError, ValueError, OverflowError, OSError):
        return text


_date.with_context = True  # type: ignore[attr-defined]


def _build(undefined: type[Undefined] = Undefined) -> _Environment:
    environment = _Environment(undefined=undefined)
    for tag in ("include", "render", "liquid"):
        del environment.tags[tag]
    own: dict[str, Filter] = {"replace": _replace, "join": _join, "sum": _sum, "json": write_json, **FILTERS}
    for name, function in {**environment.filters, **own}.items():
        environment.filters[name] = _bounded(function, allow_missing=name == "default")
    environment.filters["date"] = _date
    return environment


ENVIRONMENT = _build()
STRICT = _build(_Missing)
