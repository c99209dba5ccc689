"""A text in CxEngage's notation becomes nodes with their places.

Comes in: S-expressions as Clojure writes them. Goes out: a list of nodes, or Unexpected with the place. Lists, vectors, maps
and sets are a `Form`; what stands in them is a `Word`, `Text`, `Number`, `Keyword`, a `Field` (`*name*`), a `Dollar` (`$name`)
or a `TemplateName` (`+TM1`). Commas are space, `;` begins a comment. There is no recursion: depth and length are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal

from app.workflows.cxengage.errors import Unexpected, one_of

LARGEST = 64 * 1024
DEEPEST = 100
_LONGEST_SHOWN = 40
# What a 64 bit double can hold.
_MOST_DIGITS = 308

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
_LIKE_A_NUMBER = re.compile(r"[+-]?\d", re.ASCII)
_NAME = re.compile(r"[^\s,()\[\]{}\"';`~@^\\:$*+#][^\s,()\[\]{}\";`~@^\\]*")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|[0-3]?[0-7]{1,2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "'": "'"}
_OPERATORS = frozenset(("+", "-", "*", "/", "=", ">", "<", ">=", "<="))
# What Postgres cannot store.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Node:
    """Something that was read, and where it begins (from 1)."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Word(Node):
    """A symbol, such as `event` or `within`."""

    name: str


@dataclass(frozen=True, slots=True)
class Text(Node):
    """A string, its escapes replaced."""

    value: str


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A number with all its digits."""

    value: int | Decimal


@dataclass(frozen=True, slots=True)
class Keyword(Node):
    """`:name`, without the colon."""

    name: str


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`*name*`, without the stars."""

    name: str


@dataclass(frozen=True, slots=True)
class Dollar(Node):
    """`$name`, without the dollar."""

    name: str


@dataclass(frozen=True, slots=True)
class TemplateName(Node):
    """`+TM1`, without the plus."""

    name: str


@dataclass(frozen=True, slots=True)
class Form(Node):
    """A list `(`, a vector `[`, a map `{` or a set `#{` with its members; `end` is where it is closed."""

    bracket: str
    members: tuple[Node, ...]
    end: Node

    @property
    def head(self) -> str:
        """The word that a list begins with, empty where there is none."""
        first = self.members[0] if self.bracket == "(" and self.members else None
        return first.name if isinstance(first, Word) else ""

    @property
    def rest(self) -> tuple[Node, ...]:
        """What comes after the first member."""
        return self.members[1:]


@dataclass(slots=True)
class _Open:
    """A form that is not closed yet."""

    bracket: str
    place: Node
    members: list[Node]


def read(text: str) -> tuple[list[Node], Node]:
    """All forms of a text, and its end; raises Unexpected."""
    if len(text.encode("utf-8", "replace")) > LARGEST:
        raise Unexpected(f"expected at most {LARGEST} bytes, found {len(text.encode('utf-8', 'replace'))}", 1, 1)
    outermost: list[Node] = []
    opened: list[_Open] = []
    for kind, token, place in _tokens(text):
        members = opened[-1].members if opened else outermost
        if kind == "open":
            if len(opened) == DEEPEST:
                raise unexpected(place, f"at most {DEEPEST} brackets inside of each other", "one more")
            opened.append(_Open(token, place, []))
        elif kind == "close":
            _close(token, place, opened, outermost)
        elif kind != "end":
            members.append(_atom(kind, token, place))
    if opened:
        missing = _CLOSING[opened[-1].bracket]
        raise unexpected(opened[-1].place, f'"{missing}" for this "{opened[-1].bracket}"', "the end of the text")
    return outermost, place


def _tokens(text: str) -> Iterator[tuple[str, str, Node]]:
    line, begin = 1, 0
    for match in _TOKEN.finditer(text):
        kind, token = str(match.lastgroup), match.group()
        if kind != "space":
            yield kind, token, Node(line, match.start() - begin + 1)
        if "\n" in token:
            line += token.count("\n")
            begin = match.start() + token.rfind("\n") + 1
    yield "end", "", Node(line, len(text) - begin + 1)


def _close(token: str, place: Node, opened: list[_Open], outermost: list[Node]) -> None:
    if not opened:
        raise unexpected(place, "the end", f'"{token}"')
    closed = opened.pop()
    if token != _CLOSING[closed.bracket]:
        wanted = f'"{_CLOSING[closed.bracket]}" for the "{closed.bracket}" of line {closed.place.line}'
        raise unexpected(place, wanted, f'"{token}"')
    form = Form(closed.place.line, closed.place.column, closed.bracket, tuple(closed.members), place)
    (opened[-1].members if opened else outermost).append(form)


def _atom(kind: str, token: str, place: Node) -> Node:
    if kind == "wrong":
        if token.startswith('"'):
            raise unexpected(place, "a closing quote for this one", "the end of the text")
        raise unexpected(place, "a word, a number, a text or a bracket", _shown(token))
    if kind == "text":
        return _text(token, place)
    if _UNSTORABLE.search(token):
        raise unexpected(place, "a word without NUL and halves of pairs", _shown(token))
    if _LIKE_A_NUMBER.match(token):
        return _number(token, place)
    return _named(token, place)


def _named(token: str, place: Node) -> Node:
    at = (place.line, place.column)
    if token in _OPERATORS:
        return Word(*at, token)
    sigil, name = token[0], token[1:]
    if sigil in ":$+" and _NAME.fullmatch(name):
        kinds = {":": Keyword, "$": Dollar, "+": TemplateName}
        return kinds[sigil](*at, name)
    if sigil == "*" and len(token) > 2 and token.endswith("*") and _NAME.fullmatch(token[1:-1]):
        return Field(*at, token[1:-1])
    if not _NAME.fullmatch(token):
        raise unexpected(place, "a word, a number, a text or a bracket", _shown(token))
    return Word(*at, token)


def _number(token: str, place: Node) -> Number:
    match = _NUMBER.fullmatch(token)
    if match is None:
        raise unexpected(place, "a number such as 5 or 2.5", _shown(token))
    if len(token) > 2 * _MOST_DIGITS:
        raise unexpected(place, f"a number of at most {2 * _MOST_DIGITS} digits", _shown(token))
    value = int(token.rstrip("N")) if match["whole"] is not None else Decimal(token.rstrip("M"))
    if value and abs(Decimal(value).adjusted()) >= _MOST_DIGITS:
        raise unexpected(place, f"a number between 1e-{_MOST_DIGITS} and 1e{_MOST_DIGITS}", _shown(token))
    return Number(place.line, place.column, value)


def _text(token: str, place: Node) -> Text:
    inside = token[1:-1]
    for match in _ESCAPE.finditer(inside):
        if match[1] not in _ESCAPED and not match[1][0].isdigit() and not (match[1][0] == "u" and len(match[1]) > 1):
            wrong = _within(token, match.start() + 1, place)
            raise unexpected(wrong, r"an escape such as \n, \t, \" or \\", _shown(match.group()))
    value = _ESCAPE.sub(_unescaped, inside)
    # Characters beyond U+FFFF may be written as two escapes.
    value = re.sub("[\ud800-\udbff][\udc00-\udfff]", _joined, value)
    if _UNSTORABLE.search(value):
        raise unexpected(place, "a text without NUL and halves of pairs", _shown(token))
    return Text(place.line, place.column, value)


def _within(token: str, index: int, place: Node) -> Node:
    """The place of a letter inside of a token."""
    lines = token.count("\n", 0, index)
    return Node(place.line + lines, index - token.rfind("\n", 0, index) if lines else place.column + index)


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] == "u":
        return chr(int(code[1:], 16))
    return chr(int(code, 8)) if code[0].isdigit() else _ESCAPED[code]


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


# What compilers ask of nodes


def unexpected(node: Node, expected: str, found: str | None = None) -> Unexpected:
    """The error for a node: `expected …, found …` at its place."""
    return Unexpected(f"expected {expected}, found {found or told(node)}", node.line, node.column)


def told(node: Node) -> str:
    """A node as an error names it."""
    if isinstance(node, Form):
        kind = {"(": "a list", "[": "a vector", "{": "a map", "#{": "a set"}[node.bracket]
        return f'"({node.head} …)"' if node.head else kind
    if isinstance(node, Text):
        return f"the text {_shown(node.value)}"
    if isinstance(node, Number):
        return f"the number {node.value}"
    marks = {Keyword: ":{}", Field: "*{}*", Dollar: "${}", TemplateName: "+{}", Word: "{}"}
    return _shown(marks[type(node)].format(node.name)) if hasattr(node, "name") else "the end"


def _shown(text: str) -> str:
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    return '"' + "".join(one if one.isprintable() else "\ufffd" for one in cut) + '"'


def only(forms: list[Node], end: Node, expected: str) -> Node:
    """The one form of a text; raises Unexpected where there are none or several."""
    if not forms:
        raise unexpected(end, expected, "the end of the text")
    if len(forms) > 1:
        raise unexpected(forms[1], "the end")
    return forms[0]


def arguments(form: Form, expected: tuple[str, ...]) -> tuple[Node, ...]:
    """What follows the head of a list, exactly as many as there are things `expected`."""
    found = form.rest
    if len(found) < len(expected):
        raise unexpected(form.end, expected[len(found)], f'the end of "({form.head} …)"')
    if len(found) > len(expected):
        raise unexpected(found[len(expected)], f'the end of "({form.head} …)"')
    return found


def a_list(node: Node, heads: Collection[str], also: Collection[str] = ()) -> Form:
    """A node that has to be a list which begins with one of the `heads`, or of those that are understood `also`."""
    if not isinstance(node, Form) or node.bracket != "(":
        raise unexpected(node, f"a list that begins with {one_of(heads)}")
    if not node.members:
        raise unexpected(node.end, one_of(heads), '")"')
    if node.head not in heads and node.head not in also:
        raise unexpected(node.members[0], one_of(heads))
    return node


def at_least_one(form: Form, expected: str) -> tuple[Node, ...]:
    """What follows the head of a list: one or more."""
    if not form.rest:
        raise unexpected(form.end, expected, f'the end of "({form.head} …)"')
    return form.rest


def a_word(node: Node, expected: str) -> Word:
    """A node that has to be a word."""
    if not isinstance(node, Word):
        raise unexpected(node, expected)
    return node


def a_count(node: Node, least: int, most: int, what: str) -> int:
    """A whole number within bounds."""
    if not isinstance(node, Number) or not isinstance(node.value, int):
        raise unexpected(node, f"{what}: a whole number from {least} to {most}")
    if not least <= node.value <= most:
        raise unexpected(node, f"{what} from {least} to {most}")
    return node.value


def a_map(node: Node) -> dict[str, tuple[Keyword, Node]]:
    """A map by the names of its keys: each with the key and the value."""
    if not isinstance(node, Form) or node.bracket != "{":
        raise unexpected(node, "a map such as {:key value}")
    found: dict[str, tuple[Keyword, Node]] = {}
    for index in range(0, len(node.members), 2):
        key = node.members[index]
        if not isinstance(key, Keyword):
            raise unexpected(key, "a key such as :message")
        if key.name in found:
            raise unexpected(key, "each key once")
        if index + 1 == len(node.members):
            raise unexpected(node.end, f"a value for :{key.name}", '"}"')
        found[key.name] = (key, node.members[index + 1])
    return found
