"""Templates: Liquid text over the names of a run becomes text. Authors are not trusted, so all is bounded.

Comes in: a text and the names that a run has (and `now`). Goes out: the rendered text, or TemplateError with a line that
the author understands. What is not there prints as nothing, or, where the author asked for that (`strict`), is an error.

Wherever a text may stand, `{mustache: TEXT}` may stand as well (`mustache.py`).
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
from app.actions.templates.mustache import MustacheError, Tokens, source_of
from app.actions.templates.mustache import members_read as members_named_by_mustache
from app.actions.templates.mustache import parse as parse_mustache
from app.actions.templates.mustache import render as render_mustache
from app.core.template_names import EVENT_NAMES, RUN_NAMES
from app.core.timestamps import utc_text

T = TypeVar("T")

NAMES = (*EVENT_NAMES, *RUN_NAMES)

MAX_TEMPLATE_CHARS = 64 * 1024
MAX_VALUE_CHARS = 256 * 1024
_CACHED_LETTERS = 2_000_000

# Liquid's own patterns take quadratic time over these; nobody writes them on purpose.
_HOSTILE_SPACE = re.compile(r"\{[{%]-?\s{200}|\{%-?\s{0,199}\w{1,50}\s{200}")
_VERBATIM = re.compile(r"\{%-?\s{0,199}(?:raw|doc)\b")
_MAX_VERBATIM = 20
# Python refuses to print an int of more than 4,300 digits.
_MAX_BITS = 14_000

# Liquid, or {"mustache": text}.
Text = str | Mapping[str, Any]


class TemplateError(Exception):
    """A template cannot be read or rendered; the text says where and why."""


class Names(dict[str, Any]):
    """Names made ready for templates: decimals as `Number`, objects that print as JSON, times as ISO text. `strict`: what
    is not among them is an error."""

    strict = False


class _Object(dict[str, Any]):
    """An object of the data; printed as a whole it is its JSON."""

    def __str__(self) -> str:
        return write_json(self)


def prepare(names: Mapping[str, Any], *, strict: bool = False) -> Names:
    """`names` ready for templates; worth keeping where several texts are rendered with them."""
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
    """Whether a value is a text that is rendered: Liquid, or `{mustache: TEXT}`."""
    return isinstance(value, str) or source_of(value) is not None


def check(text: Text) -> str | None:
    """What is wrong with a template, or None."""
    try:
        if not isinstance(text, str):
            _read_mustache(text)
            return None
        for name, _, index in _mentions(_parsed(text)):
            if name not in NAMES and name != "now":
                return f"{_place(text, index)}: {name} is not known; a template speaks of {', '.join(NAMES)}"
    except TemplateError as exc:
        return str(exc)
    return None


def check_texts(value: Any, path: str) -> list[tuple[str, str]]:
    """What is wrong with the templates in a value, however deep in lists and objects, as (path, message)."""
    found = ((place, check(text)) for place, text in find_texts(value, path))
    return [(place, f"in the template: {message}") for place, message in found if message is not None]


def find_texts(value: Any, path: str) -> Iterator[tuple[str, Text]]:
    """Each text in a value, with its path."""
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
    """What a template reads of a name (of `steps`: `nudge` in `steps.nudge.body`); nothing of an unreadable one."""
    try:
        if not isinstance(text, str):
            return members_named_by_mustache(_read_mustache(text)[1], root)
        return frozenset(member for name, member, _ in _mentions(_parsed(text)) if name == root and member)
    except TemplateError:
        return frozenset()


def render(text: Text, names: Mapping[str, Any], *, as_html: bool = False) -> str:
    """The text with its templates filled in, at most LARGEST_OUTPUT bytes; raises TemplateError.

    `as_html`: it is HTML, in which Mustache escapes what comes from data. Liquid never does by itself.
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
    """A text rendered, or a number that stands for its text."""
    return render(value if is_text(value) else str(value), names)


def render_value(value: Any, names: Mapping[str, Any]) -> Any:
    """`value` with each text in it, however deep in lists and objects, rendered; together at most LARGEST_VALUE."""
    return _rendered(value, prepare(names), [MAX_VALUE_CHARS])


def _rendered(value: Any, names: Names, left: list[int]) -> Any:
    if is_text(value):
        text = render(value, names)
        left[0] -= len(text)
        if left[0] < 0:
            raise TemplateError(f"the texts have more than {MAX_VALUE_CHARS} characters together")
        return text
    if isinstance(value, Mapping):
        return {name: _rendered(member, names, left) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_rendered(member, names, left) for member in value]
    return value


def _render_mustache(text: Text, names: Names, *, as_html: bool) -> str:
    source, tokens = _read_mustache(text)
    try:
        return render_mustache(source, tokens, names, strict=names.strict, as_html=as_html)
    except MustacheError as exc:
        raise TemplateError(str(exc)) from None
    except Exception as exc:
        raise TemplateError(f"the template cannot be rendered: {type(exc).__name__}: {exc}"[:300]) from None


# Parsing, once for each text


class _Cache(Generic[T]):
    """The parsed templates that were used last, as many as have _CACHED_LETTERS together."""

    def __init__(self, parse: Callable[[str], T]) -> None:
        self._parse = parse
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._letters = 0
        self._lock = threading.Lock()

    def get(self, text: str) -> T:
        with self._lock:
            if (found := self._kept.get(text)) is not None:
                self._kept.move_to_end(text)
                return found
        template = self._parse(text)
        with self._lock:
            if text not in self._kept:
                self._kept[text] = template
                self._letters += len(text)
            while self._letters > _CACHED_LETTERS:
                self._letters -= len(self._kept.popitem(last=False)[0])
        return template


def _parsed(text: str, *, strict: bool = False) -> Template | None:
    """The template of a text, None for a text without any."""
    return _caches[strict].get(text) if "{{" in text or "{%" in text else None


def _read_mustache(text: Text) -> tuple[str, Tokens]:
    """A Mustache text and what it is made of; raises TemplateError."""
    source = source_of(text)
    if source is None:
        raise TemplateError("has to be text, or {mustache: text}")
    return source, _mustaches.get(source)


def _parse_mustache(source: str) -> Tokens:
    try:
        return parse_mustache(source)
    except MustacheError as exc:
        place = "" if exc.index is None else f"{_place(source, exc.index)}: "
        raise TemplateError(f"{place}{exc}") from None


def _parse(text: str, environment: Environment) -> Template:
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"the template has {len(text)} characters; {MAX_TEMPLATE_CHARS} are allowed")
    if _HOSTILE_SPACE.search(text):
        raise TemplateError("there are hundreds of spaces inside of a tag")
    if len(_VERBATIM.findall(text)) > _MAX_VERBATIM:
        raise TemplateError(f"there are more than {_MAX_VERBATIM} raw blocks")
    for begin, end in (("{{", "}}"), ("{%", "%}")):
        if text.rfind(begin) > text.rfind(end):
            raise TemplateError(f"{_place(text, text.rfind(begin))}: {begin} is never closed with {end}")
    try:
        template = environment.from_string(text)
        unknown = [name for name in template.analyze().filters if name not in environment.filters]
    except LiquidError as exc:
        deep = isinstance(exc.__cause__, RecursionError)
        raise TemplateError("the template is nested too deep" if deep else _message(exc, text)) from None
    except RecursionError:
        raise TemplateError("the template is nested too deep") from None
    if unknown:
        raise TemplateError(f"the filter {unknown[0]} is not known; known are {', '.join(sorted(environment.filters))}")
    assert isinstance(template, Template)
    template.limit_rounds(len(text))
    return template


def _message(wrong: LiquidError, text: str) -> str:
    message = str(wrong.args[0]) if wrong.args else type(wrong).__name__
    token = wrong.token
    if token is None or token.start_index < 0:
        return message
    return f"{_place(text, token.start_index)}: {message}"


def _place(text: str, index: int) -> str:
    return f"line {text.count(chr(10), 0, index) + 1}, column {index - text.rfind(chr(10), 0, index)}"


def _mentions(template: Template | None) -> Iterator[tuple[str, str, int]]:
    """Each name that a template reads: with its first member where that is written out (else ""), and its place."""
    for name, places in template.analyze().globals.items() if template else ():
        for place in places:
            member = place.segments[1] if len(place.segments) > 1 else None
            yield name, member if isinstance(member, str) else "", place.span.index


_caches = {
    False: _Cache(lambda text: _parse(text, ENVIRONMENT)),
    True: _Cache(lambda text: _parse(text, STRICT)),
}
_mustaches = _Cache(_parse_mustache)
