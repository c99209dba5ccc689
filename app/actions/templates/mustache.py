"""Mustache templates, written `{mustache: TEXT}` in place of a Liquid text. Authors are not trusted, so everything is limited.

By the Mustache specification, with sections, inverted sections, dotted names, comments and set delimiters; without partials,
lambdas and inheritance.

A name is looked up in the innermost section first, then in the run's variables (`vars`), in the data of its events (`latest`,
the latest value of each field), and last in the names of Liquid texts (`distinct_id`, `data.order_id`, `steps.ID`). A field
with a dot in its name is found by that name as well. Values print as they were sent: exact numbers, true and false, null as
nothing, lists and objects as JSON. Values are escaped only when the text is HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import mstache

from app.actions.templates.decimals import Number
from app.actions.templates.liquid import MAX_OUTPUT_BYTES, too_large
from app.actions.templates.template_budget import Rounds, TemplateBudget
from app.actions.templates.template_values import weight, write_json
from app.core.pacing import pause_if_due

MAX_TEMPLATE_CHARS = 64 * 1024
MAX_DEPTH = 30
# Section tags times characters: the library copies the text of each section while it parses a template.
_MAX_WORK = 64_000_000
# The library converts the value of a section to a float; a larger int does not fit.
_MAX_BITS = 1_000

Tokens = Sequence[tuple[bool, bool, bool, bytes, bytes, int]]


class MustacheError(Exception):
    """A template cannot be parsed or rendered; `index` is the position in the text, if known."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


def mustache_source(value: Any) -> str | None:
    """The TEXT of `{mustache: TEXT}`; None for any other value."""
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get("mustache"), str):
        return str(value["mustache"])
    return None


# Parsing


def parse(source: str) -> Tokens:
    """The tokens of a template; raises MustacheError."""
    if len(source) > MAX_TEMPLATE_CHARS:
        raise MustacheError(f"the template has {len(source)} characters; {MAX_TEMPLATE_CHARS} are allowed")
    begin = "" if "{{=" in source else "{{"
    if (source.count(f"{begin}#") + source.count(f"{begin}^")) * len(source) > _MAX_WORK:
        raise MustacheError("too many sections")
    try:
        # With comments, so that the position of a name is not found inside an earlier comment.
        tokens: Tokens = mstache.tokenize(source.encode(), comments=True, cache={})
    except mstache.TokenException as exc:
        raise _parse_error(exc, source) from None
    except UnicodeEncodeError as exc:
        raise MustacheError("contains a lone surrogate", exc.start) from None
    depth = 0
    for kind, label, index in _tags(tokens, source):
        pause_if_due()
        if kind == "partial":
            raise MustacheError(f"{{{{> {label}}}}}: partials are not supported", index)
        if not label and kind != "text":
            raise MustacheError("a tag has no name", index)
        if label.startswith(_SIGNS) and kind != "delimiters":
            raise MustacheError(f"{label[0]} must follow the braces directly and precede a name", index)
        depth += {"open": 1, "close": -1}.get(kind, 0)
        if depth > MAX_DEPTH:
            raise MustacheError(f"sections are nested deeper than {MAX_DEPTH}", index)
    return tokens


def _tags(tokens: Tokens, source: str) -> Iterator[tuple[str, str, int]]:
    """The tags and texts of a template in order, as (kind, label, index); the kinds are the values of `_KINDS`."""
    raw, position = source.encode(), 0
    for first, second, third, label, content, _ in tokens:
        kind = _KINDS[(first, second, third)]
        part = content if kind == "text" else label
        position = max(raw.find(part, position), position)
        yield kind, "" if kind == "text" else label.decode(), len(raw[:position].decode(errors="ignore"))
        position += len(part)
        if kind == "delimiters":
            position = raw.find(content, position) + len(content)


_SIGNS = tuple("#^/&!={")
_KINDS = {
    (False, True, True): "text",
    (False, False, False): "text",
    (False, True, False): "name",
    (True, False, True): "open",
    (True, True, True): "close",
    (True, False, False): "partial",
    (False, False, True): "delimiters",
}
_POSITION = re.compile(r" at line (\d+) column (\d+)\Z")


def _parse_error(exc: mstache.TokenException, source: str) -> MustacheError:
    """The library's error with our message, and its position in characters."""
    if isinstance(exc, mstache.UnopenedSectionException):
        message = "this tag does not close the section that was opened last"
    elif isinstance(exc, mstache.UnclosedSectionException):
        message = "this section is not closed"
    elif isinstance(exc, mstache.DelimiterTokenException):
        message = "delimiters must be set like {{=<% %>=}}"
    else:
        message = "this tag is not closed"
    match = _POSITION.search(str(exc))
    assert match is not None
    line, column = int(match[1]), int(match[2])
    raw = source.encode()
    line_start = 0
    for _ in range(line - 1):
        line_start = raw.index(b"\n", line_start) + 1
    # The library counts columns in bytes, and after the first line one too many.
    position = line_start + column - (1 if line == 1 else 2)
    return MustacheError(message, len(raw[:position].decode(errors="ignore")))


def members_read(tokens: Tokens, root: str) -> frozenset[str]:
    """The members of `root` that a template reads: of `steps`, `nudge` in `{{steps.nudge.body}}`."""
    return frozenset(path[1] for path in _labels(tokens) if path[0] == root and len(path) > 1 and path[1])


def paths_read(tokens: Tokens) -> Iterator[tuple[str, ...]]:
    """What a template may read: each name is one of the template's names, or a variable or field of the data."""
    for path in _labels(tokens):
        for root in ((), ("vars",), ("latest",), ("data",)):
            yield (*root, *path)


def _labels(tokens: Tokens) -> Iterator[tuple[str, ...]]:
    for _, second, third, label, _, _ in tokens:
        if (second, third) != (True, True):
            yield tuple(label.decode().split("."))


# Rendering


def render(
    source: str, tokens: Tokens, names: Mapping[str, Any], budget: TemplateBudget, *, strict: bool, as_html: bool
) -> str:
    """The rendered text; raises MustacheError and LimitError. `names` are prepared as for Liquid."""
    with budget.running():
        return _render(source, tokens, names, budget, strict=strict, as_html=as_html)


def _render(
    source: str, tokens: Tokens, names: Mapping[str, Any], budget: TemplateBudget, *, strict: bool, as_html: bool
) -> str:
    scopes = _Scopes(strict, budget, tokens)
    data = names.get("latest", names.get("data"))
    parts = mstache.process(
        source.encode(),
        names.get("vars") or {},
        scopes=(names, data if isinstance(data, Mapping) else {}),
        resolver=_no_partials,
        getter=scopes.get,
        stringify=scopes.to_bytes,
        escape=_escape if as_html else _unchanged,
        cache=_ParsedTemplate(tokens),
        text=True,
    )
    output = bytearray()
    for part in parts:
        output += part
        budget.charge(2 + (len(part) >> 5))
        if len(output) > MAX_OUTPUT_BYTES:
            raise too_large()
    return output.decode()


class _ParsedTemplate(dict[Any, Any]):
    """Takes the place of the library's cache and contains one parsed template."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    def get(self, key: Any, default: Any = None) -> Any:
        return self._tokens


class _Scopes:
    """Looks up names, in plain data only, and counts the work and the rounds of all sections."""

    def __init__(self, strict: bool, budget: TemplateBudget, tokens: Tokens) -> None:
        self._strict = strict
        self._budget = budget
        # The library may copy the remaining tokens in each round.
        self._copying = len(tokens) >> 6
        self._section_sizes = _section_sizes(tokens)
        budget.charge(4 + len(tokens))

    def get(self, scope: Any, scopes: Sequence[Any], name: Any, default: Any) -> Any:
        """The value of a name. The library passes None as `default` for the name of a section."""
        self._budget.charge(8 + 2 * len(scopes) + (len(name) >> 2))
        is_section = default is None
        found = scope if name == "." else _look_up(str(name), (scope, *reversed(scopes)))
        if found is _MISSING:
            if self._strict and not is_section:
                raise MustacheError(f"{name} is missing")
            return default
        if is_section and isinstance(found, list):
            return Rounds(found, self._budget, 4 + self._copying + self._section_sizes[name])
        return _section_number(found) if is_section and isinstance(found, int | Decimal) else found

    def to_bytes(self, value: Any, text: bool) -> bytes:
        """The text of a value as bytes; raises LimitError for a value that is too large in any case."""
        size = weight(value)
        if size > 4 * MAX_OUTPUT_BYTES:
            raise too_large()
        self._budget.charge(size >> 4)
        return _to_bytes(value)


def _section_sizes(tokens: Tokens) -> dict[str, int]:
    """How many tokens the sections of each name have: the most, if there are several."""
    sizes: dict[str, int] = {}
    begun: list[int] = []
    for index, (first, second, third, label, _, _) in enumerate(tokens):
        kind = _KINDS[(first, second, third)]
        if kind == "open":
            begun.append(index)
        elif kind == "close":
            name = label.decode()
            sizes[name] = max(sizes.get(name, 0), index - begun.pop())
    return sizes


def _section_number(number: int | Decimal) -> Any:
    """The number of a section, in a form that the library can test for zero."""
    if not number:
        return False
    return Number(number) if isinstance(number, int) and number.bit_length() > _MAX_BITS else number


_MISSING = object()
_INDEX = re.compile(r"[0-9]{1,9}")


def _look_up(name: str, scopes: Sequence[Any]) -> Any:
    """The value of a name in the first scope that has it, or its part before the first dot."""
    first, *further = name.split(".")
    for scope in scopes:
        if not isinstance(scope, Mapping):
            continue
        if name in scope:
            return scope[name]
        if first in scope:
            return _member(scope[first], further)
    return _MISSING


def _member(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and _INDEX.fullmatch(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def _no_partials(name: Any) -> None:
    return None


def _to_bytes(value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    rendered = write_json(value) if isinstance(value, Mapping | list) else str(value)
    return rendered.encode("utf-8", "replace")


def _escape(text: bytes) -> bytes:
    return html.escape(text.decode()).encode()


def _unchanged(text: bytes) -> bytes:
    return text
