"""Reads YAML or JSON to a document that knows the line and column of each part, and writes YAML.

YAML is read by the rules of its 1.2 core schema: only `true` and `false` are booleans (`on:` and `language: no` are text),
times, dates, `1_000` and `0x1f` stay text. Repeated names, aliases and tags are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import isinf
from typing import Any

import yaml

from app.core.exact_json import UNSTORABLE, line_and_column
from app.core.pacing import pause_if_due

MAX_BYTES = 256 * 1024
# Texts, numbers, lists and objects of a document, and how many lists and objects may be within each other.
MAX_PARTS, _MAX_DEPTH = 10_000, 100
# Characters between two pauses, if it is time for one.
_CHARACTERS = 200
# Messages about a name and not about its value.
_ABOUT_NAME = re.compile(r"(is )?unknown|appears twice")
_LAST_PART = re.compile(r"(\.[^.\[\]]*|\[[^\]]*\]|^[^.\[]*)$")
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
# What PyYAML says about an expression without quotes, such as `{where: data.items[0] > 1}` or `where: "x" in data.tags`.
_UNQUOTED = re.compile(
    r"expected ',' or '.', but got '(?!<stream end>)|found '<scalar>'|mapping values are not allowed|while scanning a tag"
    r"|found character '[^\\]+' that cannot start any token|sequence entries are not allowed"
)
# The rest of an expression that a comma has cut.
_CUT = re.compile(r"[()\"'=<>&|!?+*/]")
_QUOTE = "; put the whole text in quotes, such as 'data.items[0] > 1'"
# JSON writes characters beyond U+FFFF as two escapes, which YAML reads as two characters.
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")

_INT, _LEADING_ZERO = "tag:yaml.org,2002:int", re.compile(r"[-+]?0[0-9]")

# Line and column, from 1.
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake in a document: its path (such as steps[2].http.url), a message, and line and column from 1."""

    path: str
    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        position = f" (line {self.line}, column {self.column})" if self.line else ""
        return f"{self.path}{position}: {self.message}" if self.path else f"{self.message}{position}"


@dataclass(frozen=True, slots=True)
class Document:
    """A document as data, the mistakes found while reading, and the position of each part.

    `names`: the position of each path's name (in lists: of the member). `scalars`: the position of its text or number.
    `unread`: the paths of parts that were not read and are None.
    """

    value: Any
    mistakes: list[Mistake] = field(default_factory=list)
    names: Mapping[str, Position] = field(default_factory=dict)
    scalars: Mapping[str, Position] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def mistake(self, path: str, message: str) -> Mistake:
        """A mistake at `path`, positioned at the text or number there, else at the name, else (if it is missing) at the
        nearest part that contains it."""
        if path in self.scalars and not _ABOUT_NAME.match(message):
            return Mistake(path, message, *self.scalars[path])
        near = path
        while near and near not in self.names:
            near = _LAST_PART.sub("", near)
        return Mistake(path, message, *self.names.get(near, (None, None)))

    def check(self, check: Callable[[Any], Iterable[tuple[str, str]]], *, otherwise: str) -> list[Mistake]:
        """Every mistake in the document, in the order of its lines: those of reading it, and those that `check` finds as (path,
        message). `otherwise`: the mistake of a document that is no object."""
        if self.value is None and self.mistakes:
            return self.mistakes
        if not isinstance(self.value, dict):
            return [self.mistake("", otherwise)]
        found = [self.mistake(path, message) for path, message in check(self.value) if not self._is_unread(path)]
        return sorted([*found, *self.mistakes], key=lambda mistake: (mistake.line or 0, mistake.column or 0))

    def _is_unread(self, path: str) -> bool:
        return any(path == part or path.startswith((f"{part}.", f"{part}[")) for part in self.unread)


class InvalidDocument(Exception):
    """A document with `mistakes`."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


class _Alias(yaml.Node):
    """The position of an alias. PyYAML's own nodes have the position of the part that it refers to."""

    id = "alias"


class _TooLarge(yaml.MarkedYAMLError):
    """A document has too many parts, or is nested too deeply."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of the YAML 1.2 core schema, aliases as separate nodes, and pauses."""

    _unpaused, _parts, _depth = 0, 0, 0

    def peek(self, index: int = 0) -> str:
        """A character, as in PyYAML, which looks at each of a long word."""
        if index % _CHARACTERS == _CHARACTERS - 1:
            pause_if_due()
        # PyYAML holds the whole text, and a NUL at its end.
        found: str = self.buffer[self.pointer + index]
        return found

    def forward(self, length: int = 1) -> None:
        """Go on by so many characters."""
        while length > _CHARACTERS:
            self.forward(_CHARACTERS)
            length -= _CHARACTERS
        self._unpaused += length
        if self._unpaused >= _CHARACTERS:
            self._unpaused = 0
            pause_if_due()
        super().forward(length)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        pause_if_due()
        is_alias = self.check_event(yaml.AliasEvent)
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._parts += 1
        if self._parts > MAX_PARTS:
            problem = f"the document has more than {MAX_PARTS} parts (texts, numbers, lists and objects)"
            raise _TooLarge(problem=problem, problem_mark=event.start_mark)
        if self._depth == _MAX_DEPTH:
            raise _TooLarge(problem="nested too deeply", problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return _Alias("", event.anchor, event.start_mark, event.end_mark) if is_alias else node


_Loader.yaml_implicit_resolvers = {}
for _tag, _shape, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_shape})$"), _first)


def read_bytes(raw: bytes) -> Document:
    """Read a document from the bytes of a file."""
    try:
        return read_document(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        before = raw[: exc.start].decode("utf-8")
        mistake = Mistake("", f"not UTF-8: byte {exc.start + 1} is invalid", *line_and_column(before, len(before)))
        return Document(None, [mistake])


def read_document(text: str) -> Document:
    """Read a document. A text that cannot be read becomes one mistake and the value None."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        return Document(None, [Mistake("", f"the document is larger than {MAX_BYTES} bytes")])
    try:
        return _read(_Loader(_without_tabs(text)))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        if isinstance(exc, _TooLarge):
            return Document(None, [Mistake("", str(exc.problem), line, column)])
        hint = _QUOTE if mark and _is_unquoted(exc, [*text.splitlines(), ""][mark.line][: mark.column]) else ""
        return Document(None, [Mistake("", f"not YAML: {exc.problem or exc.context}{hint}", line, column)])
    except yaml.reader.ReaderError as exc:
        message = f"not YAML: the character U+{exc.character:04X} is not allowed"
        return Document(None, [Mistake("", message, *line_and_column(text, exc.position))])
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        return Document(
            None, [Mistake("", f"not YAML: {str(exc).splitlines()[0] if str(exc) else 'nested too deeply'}")]
        )


def _is_unquoted(exc: yaml.MarkedYAMLError, before: str) -> bool:
    """Whether an expression without quotes causes an error; `before` is its line up to the error."""
    return ": " in before and _UNQUOTED.search(f"{exc.context}\n{exc.problem}") is not None


def _read(loader: _Loader) -> Document:
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, [Mistake("", "the document is empty")])
        reader = _Reader(loader)
        value = reader.read(node, "")
    finally:
        loader.dispose()
    return Document(value, reader.mistakes, reader.names, reader.scalars, tuple(reader.unread))


def _without_tabs(text: str) -> str:
    """Replace the tabs of a JSON text, which YAML does not allow. JSON strings contain no tabs, so positions stay."""
    if "\t" not in text or text.lstrip("\ufeff \t\r\n")[:1] != "{":
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


class _Dumper(yaml.SafeDumper):
    """SafeDumper by the rules of `_Loader`: no aliases, indented lists, multi-line texts as blocks."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        # YAML treats these as line ends too, and keeps them only if they are escaped.
        if any(end in text for end in "\x85\u2028\u2029"):
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def write_document(value: Mapping[str, Any]) -> str:
    """A document as readable YAML. `read_document` reads it as the same data."""
    return yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120)


class _Reader:
    """Builds the value of YAML nodes, and records positions and mistakes."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self.mistakes: list[Mistake] = []
        self.names: dict[str, Position] = {}
        self.scalars: dict[str, Position] = {}
        self.unread: list[str] = []

    def read(self, node: yaml.Node, path: str) -> Any:
        pause_if_due()
        position = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.names.setdefault(path, position)
        if isinstance(node, _Alias):
            return self._unread(
                path, position, f"is an alias (*{node.value}); aliases are not supported, repeat the part"
            )
        if node.tag not in _TAGS:
            hint = _QUOTE if node.tag.startswith("!") else ""
            return self._unread(path, position, f"has the tag {node.tag}; tags are not supported{hint}")
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(member, f"{path}[{index}]") for index, member in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._read_scalar(node, path, position)

    def _unread(self, path: str, position: Position, message: str) -> None:
        self.mistakes.append(Mistake(path, message, *position))
        self.unread.append(path)

    def _read_scalar(self, node: yaml.ScalarNode, path: str, position: Position) -> Any:
        # An empty value has no position of its own.
        if node.value or node.style:
            self.scalars[path] = position
        if node.tag == _INT and _LEADING_ZERO.match(node.value):
            # PyYAML would read it by YAML 1.1, as octal.
            return self._unread(path, position, f"begins with a zero; put it in quotes to keep it: '{node.value[:20]}'")
        try:
            value = self._loader.construct_object(node)
            exact = Decimal(node.value) if isinstance(value, float) else None
        except (ValueError, KeyError, ArithmeticError, yaml.YAMLError):
            return self._unread(path, position, f"cannot be read as {node.tag.rpartition(':')[2]}")
        if isinstance(value, float) and isinf(value):
            return self._unread(path, position, "is a number that is too large")
        if exact is not None and exact != Decimal(repr(value)):
            return self._unread(path, position, "has more digits than a number of a document keeps; put it in quotes")
        if not isinstance(value, str):
            return value
        if UNSTORABLE.search(value := join_surrogates(value)):
            return self._unread(path, position, "contains a character that cannot be stored (NUL or a lone surrogate)")
        return value

    def _read_mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, member in node.value:
            position = (key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                self.mistakes.append(Mistake(path, f"a name must be text, and {{{{ … }}}} is none{_QUOTE}", *position))
                continue
            name = join_surrogates(key.value)
            if node.flow_style and _is_empty(member) and _CUT.search(name):
                self.mistakes.append(Mistake(path, f"a comma ends a text within {{ }}{_QUOTE}", *position))
                continue
            if UNSTORABLE.search(name):
                self.mistakes.append(Mistake(path, "a name must be text that can be stored", *position))
                continue
            below = f"{path}.{name}" if path else name
            if name in members:
                self.mistakes.append(Mistake(below, "appears twice", *position))
                continue
            self.names[below] = position
            members[name] = self.read(member, below)
        return members


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.value and not node.style


def join_surrogates(text: str) -> str:
    """The text with each pair of surrogates as the character that it stands for."""
    return _SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
