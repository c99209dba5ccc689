"""Parses templates, once per text, and checks what can be checked without data."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from liquid import Environment, Node, RenderContext
from liquid.builtin.expressions import Filter, FilteredExpression, KeywordArgument, Literal, Path
from liquid.builtin.output import OutputNode
from liquid.builtin.tags.capture_tag import CaptureNode
from liquid.exceptions import LiquidError
from liquid.expression import Expression

from app.actions.templates.filters import argument_error
from app.actions.templates.liquid import ENVIRONMENT, STRICT, Template
from app.actions.templates.member_names import Source, text_position
from app.actions.templates.mustache import MAX_TEMPLATE_CHARS, MustacheError, Tokens, mustache_source
from app.actions.templates.mustache import parse as parse_mustache_source
from app.core.pacing import pause_if_due
from app.core.template_names import SECRET_NAME, SECRETS

T = TypeVar("T")

MAX_TAG_CHARS = 5_000
_CACHED_CHARACTERS = 2_000_000

# Liquid's own patterns need quadratic time for these, which no author writes on purpose.
_MANY_SPACES = re.compile(r"\{[{%]-?\s{200}|\{%-?\s{0,199}\w{1,50}\s{200}")
_VERBATIM = re.compile(r"\{%-?\s{0,199}(?:raw|doc)\b")
_MAX_VERBATIM = 20
# To find what a template reads, the library needs quadratic time for paths within paths: a[b[c]].
_BRACKETS = re.compile(r"\{[{%]|[}%]\}|[\[\]]")
_MAX_BRACKETS = 20

# Liquid, or {"mustache": text}.
Text = str | Mapping[str, Any]


class TemplateError(Exception):
    """A template cannot be parsed or rendered; the message says where and why."""


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


def parse(text: str, *, strict: bool = False) -> Template | None:
    """The parsed template of a Liquid text; None for a text without tags. Raises TemplateError."""
    return _caches[strict].get(text) if "{{" in text or "{%" in text else None


def parse_mustache(text: Text) -> tuple[str, Tokens]:
    """A Mustache text and its tokens; raises TemplateError."""
    source = mustache_source(text)
    if source is None:
        raise TemplateError("must be text, or {mustache: text}")
    return source, _mustaches.get(source)


def _parse_mustache(source: str) -> Tokens:
    try:
        return parse_mustache_source(source)
    except MustacheError as exc:
        position = "" if exc.index is None else f"{text_position(source, exc.index)}: "
        raise TemplateError(f"{position}{exc}") from None


def _parse_liquid(text: str, environment: Environment) -> Template:
    source = _checked_source(text)
    try:
        template = environment.from_string(source.text)
    except LiquidError as exc:
        is_too_deep = isinstance(exc.__cause__, RecursionError)
        raise TemplateError("the template is nested too deep" if is_too_deep else error_message(exc, source)) from None
    except RecursionError:
        raise TemplateError("the template is nested too deep") from None
    assert isinstance(template, Template)
    template.source = source
    for applied in _filters_in(template):
        pause_if_due()
        if (message := _filter_error(applied, environment)) is not None:
            raise TemplateError(f"{source.position(applied.token.start_index)}: {message}")
    return template


def _checked_source(text: str) -> Source:
    """The text for the parser; raises TemplateError for one that would take the parser very long."""
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"the template has {len(text)} characters; {MAX_TEMPLATE_CHARS} are allowed")
    if _MANY_SPACES.search(text):
        raise TemplateError("a tag contains hundreds of spaces")
    if len(_VERBATIM.findall(text)) > _MAX_VERBATIM:
        raise TemplateError(f"more than {_MAX_VERBATIM} raw blocks")
    for begin, end in (("{{", "}}"), ("{%", "%}")):
        if text.rfind(begin) > text.rfind(end):
            raise TemplateError(f"{text_position(text, text.rfind(begin))}: {begin} is not closed by {end}")
    _check_brackets(text)
    source = Source(text)
    if (tag := source.largest_tag) is not None and len(tag[0]) > MAX_TAG_CHARS:
        message = f"the tag has {len(tag[0])} characters; {MAX_TAG_CHARS} are allowed"
        raise TemplateError(f"{text_position(text, tag.start())}: {message}")
    return source


def _check_brackets(text: str) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        pause_if_due()
        if found[0] not in "[]":
            depth = 0
        elif found[0] == "]":
            depth -= 1
        elif (depth := depth + 1) > _MAX_BRACKETS:
            message = f"more than {_MAX_BRACKETS} brackets within each other"
            raise TemplateError(f"{text_position(text, found.start())}: {message}")


# The words of Python in the library's messages, and what they say of a template.
_MESSAGES = (
    (re.compile(r"'<' and '>' are not supported between '(\w+)' and '(\w+)'"), "{} cannot be compared with {}"),
    (re.compile(r"'[<>]=?' not supported between instances of '(\w+)' and '(\w+)'"), "{} cannot be compared with {}"),
    (re.compile(r"'in' and 'contains' are not supported between '(\w+)' and '\w+'"), "{} contains nothing"),
    (re.compile(r"'(\w+)' object is not (?:subscriptable|iterable)"), "{} has no members"),
    (re.compile(r"expected an integer, found (\w+)"), "{} is not a whole number"),
)
_TYPES = {
    **dict.fromkeys(("int", "float", "Number", "Decimal"), "a number"),
    **dict.fromkeys(("List", "list", "tuple"), "a list"),
    **dict.fromkeys(("Object", "dict"), "an object"),
    "str": "a text",
    "bool": "true or false",
    "range": "a range",
    "NoneType": "null",
}


def _in_words(message: str) -> str:
    for pattern, words in _MESSAGES:
        if (found := pattern.fullmatch(message)) is not None:
            return words.format(*(_TYPES.get(name, "this value") for name in found.groups()))
    return message


def error_message(exc: LiquidError, source: Source) -> str:
    """The library's message with the position in the text, in the words of templates."""
    message = _in_words(str(exc.args[0] if exc.args else "cannot be rendered"))[:300]
    token = exc.token
    return message if token is None or token.start_index < 0 else f"{source.position(token.start_index)}: {message}"


# Expressions


def _expressions_in(template: Template) -> Iterator[tuple[Expression, bool]]:
    """All expressions of a template, those inside of others too, and whether they are printed: not read by a tag, and not
    captured by one."""
    context = RenderContext(template)

    def in_node(node: Node, is_printed: bool) -> Iterator[tuple[Expression, bool]]:
        for expression in node.expressions():
            yield from in_expression(expression, is_printed and isinstance(node, OutputNode))
        for child in node.children(context, include_partials=False):
            yield from in_node(child, is_printed and not isinstance(node, CaptureNode))

    def in_expression(expression: Expression, is_printed: bool) -> Iterator[tuple[Expression, bool]]:
        yield expression, is_printed
        for child in expression.children():
            yield from in_expression(child, is_printed)

    for node in template.nodes:
        yield from in_node(node, True)


def _filters_in(template: Template) -> Iterator[Filter]:
    """All filters that a template applies."""
    for expression, _ in _expressions_in(template):
        if isinstance(expression, FilteredExpression):
            yield from expression.filters or ()


def find_misread_secret(template: Template) -> str | None:
    """The first mistake in how a template reads secrets, with its position; None if there is none."""
    if all(name != SECRETS for name, _, _ in template.names_read):
        return None
    for expression, is_printed in _expressions_in(template):
        if not isinstance(expression, Path) or expression.head() != SECRETS:
            continue
        position = template.source.position(expression.token.start_index)
        name = expression.path[1] if len(expression.path) == 2 else None
        if not isinstance(name, str) or not SECRET_NAME.fullmatch(name):
            return (
                f"{position}: a secret is read as secrets.NAME, with a name of A-Z, 0-9 and _ such as secrets.SHOPIFY"
            )
        if not is_printed:
            return f"{position}: a secret can only be printed, as {{{{ secrets.{name} }}}}; tags cannot read it"
    return None


def _filter_error(applied: Filter, environment: Environment) -> str | None:
    """What is wrong with a filter and its arguments; None if nothing is."""
    function = environment.filters.get(applied.name)
    if function is None:
        known = ", ".join(sorted(environment.filters))
        return f"the filter {applied.name} is unknown; known filters are {known}"
    named = [argument.name for argument in applied.args if isinstance(argument, KeywordArgument)]
    positional = [argument.value for argument in applied.args if not isinstance(argument, KeywordArgument)]
    given = [each.value if isinstance(each, Literal) else None for each in positional]
    error = argument_error(applied.name, function, given, named)
    return None if error is None else f"the filter {applied.name} {error}"


_caches = {
    False: _Cache(lambda text: _parse_liquid(text, ENVIRONMENT)),
    True: _Cache(lambda text: _parse_liquid(text, STRICT)),
}
_mustaches = _Cache(_parse_mustache)
