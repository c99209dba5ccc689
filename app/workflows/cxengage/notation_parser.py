"""Parses S-expressions in CxEngage's notation (Clojure's syntax) into nodes with their positions.

Commas are white space, `;` starts a comment. The parser does not recurse; length and nesting are limited.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from app.core.durations import MAX_DURATION, read_duration
from app.core.exact_json import UNSTORABLE
from app.core.pacing import pause_if_due
from app.workflows.yaml_loader import join_surrogates

MAX_BYTES = 64 * 1024
MAX_DEPTH = 100
_MAX_SHOWN = 40
# Digits of the largest 64 bit double.
_MAX_DIGITS = 308

_CLOSING = {"(": ")", "[": "]", "{": "}", "#{": "}"}
_TOKEN = re.compile(
    r"""(?P<space>[\s,\ufeff]+|;[^\n]*)
      | (?P<open>\#\{|[(\[{])
      | (?P<close>[)\]}])
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<other>[^\s,()\[\]{}";]+)
      | (?P<wrong>.)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?(?:(?P<whole>0|[1-9]\d*)N?|(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d{1,4})?M?)", re.ASCII)
_NUMBER_START = re.compile(r"[+-]?\d", re.ASCII)
_NAME = re.compile(r"[^\s,()\[\]{}\"';`~@^\\:$*+#][^\s,()\[\]{}\";`~@^\\]*")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|[0-3]?[0-7]{1,2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "'": "'"}
_UNITS = ("seconds", "minutes", "hours", "days")
_LETTERS = {unit: unit[0] for unit in _UNITS} | {unit[:-1]: unit[0] for unit in _UNITS}
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# The arguments of a duration.
A_DURATION = ("a number", "a unit of time")
_OPERATORS = frozenset(("+", "-", "*", "/", "=", ">", "<", ">=", "<="))


class NotationError(Exception):
    """A pattern that cannot be compiled: what was expected and found, at `line` and `column` (from 1) of the `field` `when`,
    `then`, `code` or `key`."""

    def __init__(self, message: str, line: int, column: int, field: str) -> None:
        super().__init__(f"{field}, line {line}, column {column}: {message}")
        self.message = message
        self.line = line
        self.column = column
        self.field = field


class Unexpected(Exception):
    """The same error without the field, which only the caller knows."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def one_of(words: Iterable[str]) -> str:
    """`one of a, b, c`, or a single word itself."""
    listed = list(words)
    return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"


@dataclass(frozen=True, slots=True)
class Node:
    """A parsed expression and the position of its first character (from 1)."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Named(Node):
    """A node that consists of a name."""

    name: str


class Word(Named):
    """A symbol, such as `event` or `within`."""


class Keyword(Named):
    """`:name`, without the colon."""


class Field(Named):
    """`*name*`, without the stars."""


class Dollar(Named):
    """`$name`, without the dollar."""


class TemplateName(Named):
    """`+TM1`, without the plus."""


@dataclass(frozen=True, slots=True)
class Text(Node):
    """A string without escapes."""

    value: str


@dataclass(frozen=True, slots=True)
class Number(Node):
    """An exact number."""

    value: int | Decimal


@dataclass(frozen=True, slots=True)
class Form(Node):
    """A list `(`, vector `[`, map `{` or set `#{` with its members; `end` is its closing bracket."""

    bracket: str
    members: tuple[Node, ...]
    end: Node

    @property
    def head(self) -> str:
        """The word that a list starts with, or an empty text."""
        first = self.members[0] if self.bracket == "(" and self.members else None
        return first.name if isinstance(first, Word) else ""

    @property
    def rest(self) -> tuple[Node, ...]:
        """The members after the first."""
        return self.members[1:]


@dataclass(slots=True)
class _Open:
    """A form whose closing bracket was not read yet."""

    bracket: str
    start: Node
    members: list[Node]


def read(text: str) -> tuple[list[Node], Node]:
    """All forms of a text, and the position of its end; raises Unexpected."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise Unexpected(f"expected at most {MAX_BYTES} bytes, found {len(text.encode('utf-8', 'replace'))}", 1, 1)
    outermost: list[Node] = []
    opened: list[_Open] = []
    for kind, token, start in _tokens(text):
        members = opened[-1].members if opened else outermost
        if kind == "open":
            if len(opened) == MAX_DEPTH:
                raise unexpected(start, f"at most {MAX_DEPTH} nested brackets", "one more")
            opened.append(_Open(token, start, []))
        elif kind == "close":
            _close(token, start, opened, outermost)
        elif kind != "end":
            members.append(_atom(kind, token, start))
    if opened:
        missing = _CLOSING[opened[-1].bracket]
        raise unexpected(opened[-1].start, f'"{missing}" for this "{opened[-1].bracket}"', "the end of the text")
    return outermost, start


def _tokens(text: str) -> Iterator[tuple[str, str, Node]]:
    line, begin = 1, 0
    for match in _TOKEN.finditer(text):
        pause_if_due()
        kind, token = str(match.lastgroup), match.group()
        if kind != "space":
            yield kind, token, Node(line, match.start() - begin + 1)
        if "\n" in token:
            line += token.count("\n")
            begin = match.start() + token.rfind("\n") + 1
    yield "end", "", Node(line, len(text) - begin + 1)


def _close(token: str, start: Node, opened: list[_Open], outermost: list[Node]) -> None:
    if not opened:
        raise unexpected(start, "the end", f'"{token}"')
    closed = opened.pop()
    if token != _CLOSING[closed.bracket]:
        expected = f'"{_CLOSING[closed.bracket]}" for the "{closed.bracket}" of line {closed.start.line}'
        raise unexpected(start, expected, f'"{token}"')
    form = Form(closed.start.line, closed.start.column, closed.bracket, tuple(closed.members), start)
    (opened[-1].members if opened else outermost).append(form)


def _atom(kind: str, token: str, start: Node) -> Node:
    if kind == "wrong":
        if token.startswith('"'):
            raise unexpected(start, "a closing quote for this one", "the end of the text")
        raise unexpected(start, "a word, a number, a text or a bracket", _shown(token))
    if kind == "text":
        return _text(token, start)
    if UNSTORABLE.search(token):
        raise unexpected(start, "a word without NUL and lone surrogates", _shown(token))
    if _NUMBER_START.match(token):
        return _number(token, start)
    return _named(token, start)


def _named(token: str, start: Node) -> Node:
    at = (start.line, start.column)
    if token in _OPERATORS:
        return Word(*at, token)
    sigil, name = token[0], token[1:]
    if sigil in ":$+" and _NAME.fullmatch(name):
        kinds = {":": Keyword, "$": Dollar, "+": TemplateName}
        return kinds[sigil](*at, name)
    if sigil == "*" and len(token) > 2 and token.endswith("*") and _NAME.fullmatch(token[1:-1]):
        return Field(*at, token[1:-1])
    if not _NAME.fullmatch(token):
        raise unexpected(start, "a word, a number, a text or a bracket", _shown(token))
    return Word(*at, token)


def _number(token: str, start: Node) -> Number:
    match = _NUMBER.fullmatch(token)
    if match is None:
        raise unexpected(start, "a number such as 5 or 2.5", _shown(token))
    if len(token) > 2 * _MAX_DIGITS:
        raise unexpected(start, f"a number of at most {2 * _MAX_DIGITS} digits", _shown(token))
    value = int(token.rstrip("N")) if match["whole"] is not None else Decimal(token.rstrip("M"))
    if value and abs(Decimal(value).adjusted()) >= _MAX_DIGITS:
        raise unexpected(start, f"a number between 1e-{_MAX_DIGITS} and 1e{_MAX_DIGITS}", _shown(token))
    return Number(start.line, start.column, value)


def _text(token: str, start: Node) -> Text:
    with_window = token[1:-1]
    for match in _ESCAPE.finditer(with_window):
        if match[1] not in _ESCAPED and not match[1][0].isdigit() and not (match[1][0] == "u" and len(match[1]) > 1):
            raise unexpected(
                _node_within(token, match.start() + 1, start),
                r"an escape such as \n, \t, \" or \\",
                _shown(match.group()),
            )
    value = _ESCAPE.sub(_unescaped, with_window)
    # Characters beyond U+FFFF may be two escapes.
    value = join_surrogates(value)
    if UNSTORABLE.search(value):
        raise unexpected(start, "a text without NUL and lone surrogates", _shown(token))
    return Text(start.line, start.column, value)


def _node_within(token: str, index: int, start: Node) -> Node:
    """The position of a character of a token."""
    lines = token.count("\n", 0, index)
    return Node(start.line + lines, index - token.rfind("\n", 0, index) if lines else start.column + index)


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "u":
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code[0].isdigit() else _ESCAPED[code]


# Checks of nodes


def unexpected(node: Node, expected: str, found: str | None = None) -> Unexpected:
    """The error `expected …, found …` at the position of a node."""
    return Unexpected(f"expected {expected}, found {found or describe(node)}", node.line, node.column)


def quoted_name(node: Text, unquoted: str) -> Unexpected:
    """The error about a field name in quotes."""
    if not _NAME.fullmatch(node.value):
        instead = f'write a workflow with data["{node.value[:_MAX_SHOWN]}"]'
        return Unexpected(f"the name of this field cannot be written here: {instead}", node.line, node.column)
    return Unexpected(f"quoted field names are not supported: write {unquoted}", node.line, node.column)


def unsupported(node: Node, instead: str, what: str | None = None) -> Unexpected:
    """The error about a part of CxEngage's notation that has no equivalent: what it is, and what to write instead."""
    name = what or (_shown(node.name).strip('"') if isinstance(node, Named) else describe(node))
    return Unexpected(f"{name} is not supported: {instead}", node.line, node.column)


def describe(node: Node) -> str:
    """A node in an error message."""
    if isinstance(node, Form):
        kind = {"(": "a list", "[": "a vector", "{": "a map", "#{": "a set"}[node.bracket]
        return f'"({node.head} …)"' if node.head else kind
    if isinstance(node, Text):
        return f"the text {_shown(node.value)}"
    if isinstance(node, Number):
        return f"the number {node.value}"
    if isinstance(node, Named):
        marks = {Keyword: ":{}", Field: "*{}*", Dollar: "${}", TemplateName: "+{}"}
        return _shown(marks.get(type(node), "{}").format(node.name))
    return "the end"


def _shown(text: str) -> str:
    cut = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
    return '"' + "".join(one if one.isprintable() else "\ufffd" for one in cut) + '"'


def only(forms: list[Node], end: Node, expected: str) -> Node:
    """The only form of a text; raises Unexpected for none or several."""
    if not forms:
        raise unexpected(end, expected, "the end of the text")
    if len(forms) > 1:
        raise unexpected(forms[1], "the end")
    return forms[0]


def arguments(form: Form, expected: tuple[str, ...], optional: int = 0) -> tuple[Node, ...]:
    """The arguments of a list: as many as are `expected`, and up to `optional` more."""
    found = form.rest
    if len(found) < len(expected):
        raise unexpected(form.end, expected[len(found)], f'the end of "({form.head} …)"')
    if len(found) > len(expected) + optional:
        raise unexpected(found[len(expected) + optional], f'the end of "({form.head} …)"')
    return found


def expect_list(node: Node, heads: Collection[str], also: Collection[str] = ()) -> Form:
    """A list that starts with one of `heads`, or of `also`, which errors do not mention; raises Unexpected."""
    # Called for each form of a text.
    pause_if_due()
    if not isinstance(node, Form) or node.bracket != "(":
        raise unexpected(node, f"a list that begins with {one_of(heads)}")
    if not node.members:
        raise unexpected(node.end, one_of(heads), '")"')
    if node.head not in heads and node.head not in also:
        raise unexpected(node.members[0], one_of(heads))
    return node


def at_least(form: Form, *expected: str) -> tuple[Node, ...]:
    """The arguments of a list: as many as are `expected`, or more."""
    return arguments(form, expected, optional=len(form.members))


def expect_word(node: Node, expected: str) -> Word:
    """A node that must be a word."""
    if not isinstance(node, Word):
        raise unexpected(node, expected)
    return node


def expect_count(node: Node, minimum: int, maximum: int, what: str) -> int:
    """An integer within limits."""
    if not isinstance(node, Number) or not isinstance(node.value, int):
        raise unexpected(node, f"{what}: a whole number from {minimum} to {maximum}")
    if not minimum <= node.value <= maximum:
        raise unexpected(node, f"{what} from {minimum} to {maximum}")
    return node.value


def duration_of(count: Node, unit: Node, *, maximum: str | None = None) -> str:
    """A duration for a document (`30m`); raises Unexpected, also when it is longer than `maximum`."""
    if not isinstance(count, Number) or not isinstance(count.value, int) or count.value < 1:
        raise unexpected(count, "a whole number of at least 1")
    if not isinstance(unit, Word) or unit.name not in _LETTERS:
        raise unexpected(unit, f"one of {', '.join(_UNITS)}")
    letter = _LETTERS[unit.name]
    limit = MAX_DURATION if maximum is None else read_duration(maximum)
    if count.value * _SECONDS[letter] > limit.total_seconds():
        raise unexpected(count, f"at most {maximum or 'ten years'} here", f"{count.value} {unit.name}")
    return f"{count.value}{letter}"


def read_map(node: Node) -> dict[str, tuple[Keyword, Node]]:
    """The keys and values of a map by the names of the keys."""
    if not isinstance(node, Form) or node.bracket != "{":
        raise unexpected(node, "a map such as {:key value}")
    found: dict[str, tuple[Keyword, Node]] = {}
    for index in range(0, len(node.members), 2):
        key = node.members[index]
        if isinstance(key, Text) and _NAME.fullmatch(key.value):
            raise quoted_name(key, f":{key.value[:_MAX_SHOWN]}")
        if not isinstance(key, Keyword):
            raise unexpected(key, "a key such as :message")
        if key.name in found:
            raise unexpected(key, "each key only once")
        if index + 1 == len(node.members):
            raise unexpected(node.end, f"a value for :{key.name}", '"}"')
        found[key.name] = (key, node.members[index + 1])
    return found
