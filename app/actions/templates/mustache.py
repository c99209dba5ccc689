"""Mustache: what `{mustache: TEXT}` in place of a Liquid text becomes. Authors are not trusted, so all is bounded.

Comes in: a text and the names of a run. Goes out: the rendered text, or MustacheError. By the Mustache specification with
sections, inverted sections, dotted names, comments and other delimiters; without partials, lambdas and inheritance.

A name is looked for in the innermost section first, then among what the run has set (`vars`), in the events' data (`latest`,
each field's latest value), and last among the names that Liquid texts see (`distinct_id`, `data.order_id`, `steps.ID`). A
field whose own name has a dot in it is found by that name as well. Values print as they were sent: numbers exact, true and
false, null as nothing, lists and objects as JSON. Only where the text is HTML is what comes from data escaped.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import mstache

from app.actions.templates.decimals import Number
from app.actions.templates.liquid import MAX_OUTPUT_BYTES, write_json

MAX_TEMPLATE_CHARS = 64 * 1024
MAX_DEPTH = 30
_MAX_ROUNDS = 10_000
_MAX_SECONDS = 0.5
# Section tags times letters: each section keeps its text once more while a template is read.
_MAX_WORK = 64_000_000
# Beyond this an int is too large for a float, which the library makes of what a section stands on.
_MAX_BITS = 1_000

Tokens = Sequence[tuple[bool, bool, bool, bytes, bytes, int]]


class MustacheError(Exception):
    """A template cannot be read or rendered: why, and at which letter of the text where that is known."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


def source_of(value: Any) -> str | None:
    """The Mustache text that a value is, as in `{mustache: TEXT}`; None when it is none."""
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get("mustache"), str):
        return str(value["mustache"])
    return None


# Reading


def parse(source: str) -> Tokens:
    """A template, read; raises MustacheError."""
    if len(source) > MAX_TEMPLATE_CHARS:
        raise MustacheError(f"the template has {len(source)} characters; {MAX_TEMPLATE_CHARS} are allowed")
    begin = "" if "{{=" in source else "{{"
    if (source.count(f"{begin}#") + source.count(f"{begin}^")) * len(source) > _MAX_WORK:
        raise MustacheError("there are too many sections")
    try:
        # Comments are asked for, so that names are found where they stand and not in a comment before.
        tokens: Tokens = mstache.tokenize(source.encode(), comments=True, cache={})
    except mstache.TokenException as exc:
        raise _misread(exc, source) from None
    except UnicodeEncodeError as exc:
        raise MustacheError("there is half of a surrogate pair", exc.start) from None
    depth = 0
    for kind, label, index in _tags(tokens, source):
        if kind == "partial":
            raise MustacheError(f"{{{{> {label}}}}}: there are no partials here", index)
        if not label and kind != "text":
            raise MustacheError("there is a tag without a name", index)
        if label.startswith(_SIGNS) and kind != "delimiters":
            raise MustacheError(f"{label[0]} has to stand right behind the braces, and before a name", index)
        depth += {"open": 1, "close": -1}.get(kind, 0)
        if depth > MAX_DEPTH:
            raise MustacheError(f"sections are nested deeper than {MAX_DEPTH}", index)
    return tokens


def _tags(tokens: Tokens, source: str) -> Iterator[tuple[str, str, int]]:
    """What stands in a template, one after the other: (text, name, open, close, partial or delimiters; its label; where)."""
    raw, at = source.encode(), 0
    for first, second, third, label, content, _ in tokens:
        kind = _KINDS[(first, second, third)]
        sought = content if kind == "text" else label
        at = max(raw.find(sought, at), at)
        yield kind, "" if kind == "text" else label.decode(), len(raw[:at].decode(errors="ignore"))
        at += len(sought)
        if kind == "delimiters":
            at = raw.find(content, at) + len(content)


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
_PLACE = re.compile(r" at line (\d+) column (\d+)\Z")


def _misread(wrong: mstache.TokenException, source: str) -> MustacheError:
    """The library's error in our words, its place in letters."""
    if isinstance(wrong, mstache.UnopenedSectionException):
        told = "this tag closes no section, or another one than the last that was opened"
    elif isinstance(wrong, mstache.UnclosedSectionException):
        told = "the section that begins here is never closed"
    elif isinstance(wrong, mstache.DelimiterTokenException):
        told = "delimiters are set like {{=<% %>=}}"
    else:
        told = "the tag that begins here is never closed"
    match = _PLACE.search(str(wrong))
    assert match is not None
    line, column = int(match[1]), int(match[2])
    raw = source.encode()
    begins = 0
    for _ in range(line - 1):
        begins = raw.index(b"\n", begins) + 1
    # Columns are bytes, and beyond the first line one too many.
    at = begins + column - (1 if line == 1 else 2)
    return MustacheError(told, len(raw[:at].decode(errors="ignore")))


def members_read(tokens: Tokens, root: str) -> frozenset[str]:
    """What a template reads of a name: of `steps`, `nudge` in `{{steps.nudge.body}}`."""
    labels = (
        label.decode().split(".") for first, second, third, label, _, _ in tokens if (second, third) != (True, True)
    )
    return frozenset(parts[1] for parts in labels if parts[0] == root and len(parts) > 1 and parts[1])


# Rendering


def render(source: str, tokens: Tokens, names: Mapping[str, Any], *, strict: bool, as_html: bool) -> str:
    """The text with its tags filled in; raises MustacheError. `names` are prepared as for Liquid."""
    scopes = _Scopes(strict)
    data = names.get("latest", names.get("data"))
    parts = mstache.process(
        source.encode(),
        names.get("vars") or {},
        scopes=(names, data if isinstance(data, Mapping) else {}),
        resolver=_no_partials,
        getter=scopes.get,
        stringify=_written,
        escape=_escaped if as_html else _as_it_is,
        cache=_Read(tokens),
        text=True,
    )
    made = bytearray()
    for part in parts:
        made += part
        scopes.check_time()
        if len(made) > MAX_OUTPUT_BYTES:
            raise MustacheError(f"the text becomes larger than {MAX_OUTPUT_BYTES} bytes")
    return made.decode()


class _Read(dict[Any, Any]):
    """In the place of the library's cache: the one template that has been read."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self._tokens = tokens

    def get(self, key: Any, default: Any = None) -> Any:
        return self._tokens


class _Scopes:
    """Looks names up, in what is plain data only; minds the time and counts the rounds of all sections."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._rounds = 0
        self._ends = time.thread_time() + _MAX_SECONDS

    def check_time(self) -> None:
        """Raise once the processor time is used up."""
        if time.thread_time() > self._ends:
            raise MustacheError("it takes too long")

    def get(self, scope: Any, scopes: Sequence[Any], name: Any, default: Any) -> Any:
        """What a name stands for. The library asks with None as default when it wants to know about a section."""
        self.check_time()
        section = default is None
        found = scope if name == "." else _found(str(name), (scope, *reversed(scopes)))
        if found is _MISSING:
            if self._strict and not section:
                raise MustacheError(f"{name} is missing")
            return default
        if section and isinstance(found, list):
            self._rounds += len(found)
            if self._rounds > _MAX_ROUNDS:
                raise MustacheError(f"sections of more than {_MAX_ROUNDS} rounds")
        return _countable(found) if section and isinstance(found, int | Decimal) else found


def _countable(number: int | Decimal) -> Any:
    """A number that a section stands on, such that the library can find out whether it is one."""
    if not number:
        return False
    return Number(number) if isinstance(number, int) and number.bit_length() > _MAX_BITS else number


_MISSING = object()
_INDEX = re.compile(r"[0-9]{1,9}")


def _found(name: str, scopes: Sequence[Any]) -> Any:
    """The value of a name in the first scope that has it, or at least its part before the first dot."""
    first, *further = name.split(".")
    for scope in scopes:
        if not isinstance(scope, Mapping):
            continue
        if name in scope:
            return scope[name]
        if first in scope:
            return _inside(scope[first], further)
    return _MISSING


def _inside(value: Any, parts: Sequence[str]) -> Any:
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


def _written(value: Any, text: bool) -> bytes:
    """A value as the bytes of its text."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    made = write_json(value) if isinstance(value, Mapping | list) else str(value)
    return made.encode("utf-8", "replace")


def _escaped(text: bytes) -> bytes:
    return html.escape(text.decode()).encode()


def _as_it_is(text: bytes) -> bytes:
    return text
