"""Templates: Liquid texts, or `{mustache: TEXT}` (`mustache.py`), over the names of a run and `now`.

Authors are not trusted, so everything is limited. Missing values print as nothing; in strict templates they are an error.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

from liquid import Environment
from liquid.exceptions import LiquidError

from app.actions.templates.decimals import Number
from app.actions.templates.liquid import ENVIRONMENT, STRICT, Template, write_json
from app.actions.templates.mustache import MustacheError, Tokens, mustache_source
from app.actions.templates.mustache import members_read as mustache_members_read
from app.actions.templates.mustache import parse as parse_mustache
from app.actions.templates.mustache import render as render_mustache
from app.core.ids import utc_text
from app.core.template_names import EVENT_NAMES, RUN_NAMES

T = TypeVar("T")

NAMES = (*EVENT_NAMES, *RUN_NAMES)

MAX_TEMPLATE_CHARS = 64 * 1024
MAX_VALUE_CHARS = 256 * 1024
_CACHED_CHARACTERS = 2_000_000

# Liquid's own patterns need quadratic time for these, which no author writes on purpose.
_MANY_SPACES = re.compile(r"\{[{%]-?\s{200}|\{%-?\s{0,199}\w{1,50}\s{200}")
_VERBATIM = re.compile(r"\{%-?\s{0,199}(?:raw|doc)\b")
_MAX_VERBATIM = 20
# Python refuses to print an int of more than 4,300 digits.
_MAX_BITS = 14_000

# Liquid, or {"mustache": text}.
Text = str | Mapping[str, Any]


class TemplateError(Exception):
    """A template cannot be parsed or rendered; the message says where and why."""


class Names(dict[str, Any]):
    """The names that a template can read, as `prepare` makes them. With `strict`, a missing name is an error."""

    strict = False


class _Object(dict[str, Any]):
    """An object of the data, which prints as JSON."""

    def __str__(self) -> str:
        return write_json(self)


def prepare(names: Mapping[str, Any], *, strict: bool = False) -> Names:
    """`names` with decimals as `Number`, objects that print as JSON, and timestamps as text. Reuse them for several texts."""
    if isinstance(names, Names):
        return names
    prepared = Names((name, _prepared(value)) for name, value in names.items())
    prepared.strict = strict
    return prepared


def _prepared(value: Any) -> Any:
    if isinstance(value, Decimal) or (isinstance(value, int) and value.bit_length() > _MAX_BITS):
        return Number(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return _Object((str(name), _prepared(member)) for name, member in value.items())
    if isinstance(value, list | tuple):
        return [_prepared(member) for member in value]
    if isinstance(value, datetime):
        return utc_text(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def is_text(value: Any) -> bool:
    """Whether a value is a template: a Liquid text, or `{mustache: TEXT}`."""
    return isinstance(value, str) or mustache_source(value) is not None


def check(text: Text) -> str | None:
    """The error of a template, or None."""
    try:
        if not isinstance(text, str):
            _parsed_mustache(text)
            return None
        for name, _, index in _names_read(_parsed(text)):
            if name not in NAMES:
                return f"{_position(text, index)}: {name} is unknown; a template can read {', '.join(NAMES)}"
    except TemplateError as exc:
        return str(exc)
    return None


def check_texts(value: Any, path: str) -> list[tuple[str, str]]:
    """The errors of all templates in a value of lists and objects, as (path, message)."""
    errors = ((text_path, check(text)) for text_path, text in find_texts(value, path))
    return [(text_path, f"in the template: {message}") for text_path, message in errors if message is not None]


def find_texts(value: Any, path: str) -> Iterator[tuple[str, Text]]:
    """Each template in a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif is_text(value):
        yield f"{path}.mustache", value
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from find_texts(member, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            yield from find_texts(member, f"{path}[{index}]")


def members_read(text: Text, root: str) -> frozenset[str]:
    """The members of `root` that a template reads (of `steps`: `nudge` in `steps.nudge.body`); none for an invalid template."""
    try:
        if not isinstance(text, str):
            return mustache_members_read(_parsed_mustache(text)[1], root)
        return frozenset(member for name, member, _ in _names_read(_parsed(text)) if name == root and member)
    except TemplateError:
        return frozenset()


def render(text: Text, names: Mapping[str, Any], *, as_html: bool = False) -> str:
    """The rendered text, at most MAX_OUTPUT_BYTES; raises TemplateError.

    With `as_html`, Mustache escapes values for HTML. Liquid does not escape.
    """
    names = prepare(names)
    if not isinstance(text, str):
        return _render_mustache(text, names, as_html=as_html)
    template = _parsed(text, strict=names.strict)
    if template is None:
        return text
    try:
        return template.fill(names)
    except LiquidError as exc:
        raise TemplateError(_message(exc, text)) from None
    except RecursionError:
        raise TemplateError("the template is nested too deep") from None
    except Exception as exc:
        raise TemplateError(f"the template cannot be rendered: {type(exc).__name__}: {exc}"[:300]) from None


def render_scalar(value: Any, names: Mapping[str, Any]) -> str:
    """A rendered text, or the text of a number."""
    return render(value if is_text(value) else str(value), names)


def render_value(value: Any, names: Mapping[str, Any]) -> Any:
    """`value` with all texts in its lists and objects rendered; together at most MAX_VALUE_CHARS."""
    return _rendered(value, prepare(names), [MAX_VALUE_CHARS])


def _rendered(value: Any, names: Names, remaining: list[int]) -> Any:
    if is_text(value):
        text = render(value, names)
        remaining[0] -= len(text)
        if remaining[0] < 0:
            raise TemplateError(f"all texts together have more than {MAX_VALUE_CHARS} characters")
        return text
    if isinstance(value, Mapping):
        return {name: _rendered(member, names, remaining) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_rendered(member, names, remaining) for member in value]
    return value


def _render_mustache(text: Text, names: Names, *, as_html: bool) -> str:
    source, tokens = _parsed_mustache(text)
    try:
        return render_mustache(source, tokens, names, strict=names.strict, as_html=as_html)
    except MustacheError as exc:
        raise TemplateError(str(exc)) from None
    except Exception as exc:
        raise TemplateError(f"the template cannot be rendered: {type(exc).__name__}: {exc}"[:300]) from None


# Parsing, once per text


class _Cache(Generic[T]):
    """The parsed templates that were used last, as many as have _CACHED_CHARACTERS together."""

    def __init__(self, parse: Callable[[str], T]) -> None:
        self._parse = parse
        self._templates: OrderedDict[str, T] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def get(self, text: str) -> T:
        with self._lock:
            if (found := self._templates.get(text)) is not None:
                self._templates.move_to_end(text)
                return found
        template = self._parse(text)
        with self._lock:
            if text not in self._templates:
                self._templates[text] = template
                self._characters += len(text)
            while self._characters > _CACHED_CHARACTERS:
                self._characters -= len(self._templates.popitem(last=False)[0])
        return template


def _parsed(text: str, *, strict: bool = False) -> Template | None:
    """The parsed template of a text; None for a text without tags."""
    return _caches[strict].get(text) if "{{" in text or "{%" in text else None


def _parsed_mustache(text: Text) -> tuple[str, Tokens]:
    """A Mustache text and its tokens; raises TemplateError."""
    source = mustache_source(text)
    if source is None:
        raise TemplateError("must be text, or {mustache: text}")
    return source, _mustaches.get(source)


def _parse_mustache(source: str) -> Tokens:
    try:
        return parse_mustache(source)
    except MustacheError as exc:
        position = "" if exc.index is None else f"{_position(source, exc.index)}: "
        raise TemplateError(f"{position}{exc}") from None


def _parse(text: str, environment: Environment) -> Template:
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"the template has {len(text)} characters; {MAX_TEMPLATE_CHARS} are allowed")
    if _MANY_SPACES.search(text):
        raise TemplateError("a tag contains hundreds of spaces")
    if len(_VERBATIM.findall(text)) > _MAX_VERBATIM:
        raise TemplateError(f"more than {_MAX_VERBATIM} raw blocks")
    for begin, end in (("{{", "}}"), ("{%", "%}")):
        if text.rfind(begin) > text.rfind(end):
            raise TemplateError(f"{_position(text, text.rfind(begin))}: {begin} is not closed by {end}")
    try:
        template = environment.from_string(text)
        unknown = [name for name in template.analyze().filters if name not in environment.filters]
    except LiquidError as exc:
        is_too_deep = isinstance(exc.__cause__, RecursionError)
        raise TemplateError("the template is nested too deep" if is_too_deep else _message(exc, text)) from None
    except RecursionError:
        raise TemplateError("the template is nested too deep") from None
    if unknown:
        raise TemplateError(
            f"the filter {unknown[0]} is unknown; known filters are {', '.join(sorted(environment.filters))}"
        )
    assert isinstance(template, Template)
    template.limit_rounds(len(text))
    return template


def _message(exc: LiquidError, text: str) -> str:
    message = str(exc.args[0]) if exc.args else type(exc).__name__
    token = exc.token
    if token is None or token.start_index < 0:
        return message
    return f"{_position(text, token.start_index)}: {message}"


def _position(text: str, index: int) -> str:
    return f"line {text.count(chr(10), 0, index) + 1}, column {index - text.rfind(chr(10), 0, index)}"


def _names_read(template: Template | None) -> Iterator[tuple[str, str, int]]:
    """Each name that a template reads, with its first member if that is literal (else ""), and its index."""
    for name, uses in template.analyze().globals.items() if template else ():
        for use in uses:
            member = use.segments[1] if len(use.segments) > 1 else None
            yield name, member if isinstance(member, str) else "", use.span.index


_caches = {
    False: _Cache(lambda text: _parse(text, ENVIRONMENT)),
    True: _Cache(lambda text: _parse(text, STRICT)),
}
_mustaches = _Cache(_parse_mustache)
