"""A workflow's text becomes data with places: YAML or JSON in, the document and where each of its parts stands out; and
the way back, from data to YAML.

YAML is read by its 1.2 core rules: only `true` and `false` are booleans (so `on:` and `language: no` are text), times and
dates stay text. Repeated names, aliases and tags are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isinf
from typing import Any

import yaml

LARGEST = 256 * 1024
# What checkers say about a name rather than about what stands under it.
_ABOUT_THE_NAME = re.compile(r"(is )?unknown|appears twice")
_LAST_PART = re.compile(r"(\.[^.\[\]]*|\[[^\]]*\]|^[^.\[]*)$")
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
# JSON writes characters beyond U+FFFF as two escapes, which YAML takes for two characters.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# Postgres' jsonb takes neither.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with a document: where (`path` such as steps[2].http.url; line and column from 1) and what."""

    path: str
    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = f" (line {self.line}, column {self.column})" if self.line else ""
        return f"{self.path}{place}: {self.message}" if self.path else f"{self.message}{place}"


@dataclass(frozen=True, slots=True)
class Document:
    """A document as data, the mistakes seen while reading, and the place (line, column) of each part.

    `names`: where the name of each path stands (of members of lists: the member), `scalars`: where the text or number
    under it does, `unread`: paths of what was not read and is None now.
    """

    value: Any
    mistakes: list[Mistake] = field(default_factory=list)
    names: Mapping[str, Place] = field(default_factory=dict)
    scalars: Mapping[str, Place] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def mistake(self, path: str, message: str) -> Mistake:
        """A mistake at `path`: at the text or number that stands there, else at the name, else (it is missing) at the
        nearest part that should have it."""
        if path in self.scalars and not _ABOUT_THE_NAME.match(message):
            return Mistake(path, message, *self.scalars[path])
        near = path
        while near and near not in self.names:
            near = _LAST_PART.sub("", near)
        return Mistake(path, message, *self.names.get(near, (None, None)))

    def is_unread(self, path: str) -> bool:
        """Whether `path` belongs to a part that was not read."""
        return any(path == part or path.startswith((f"{part}.", f"{part}[")) for part in self.unread)


class _Alias(yaml.Node):
    """Where an alias stands; PyYAML's own nodes tell where the part stands that it means."""

    id = "alias"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema, and aliases as nodes of their own."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
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
    """Read a document as it lies in a file."""
    try:
        return read_document(raw.decode("utf-8"))
    except UnicodeDecodeError as wrong:
        before = raw[: wrong.start].decode("utf-8")
        mistake = Mistake("", f"not UTF-8: byte {wrong.start + 1} is wrong", *_place_of(before, len(before)))
        return Document(None, [mistake])


def read_document(text: str) -> Document:
    """Read a document; what cannot be read at all comes out as one mistake and the value None."""
    if len(text.encode("utf-8", "replace")) > LARGEST:
        return Document(None, [Mistake("", f"the document is larger than {LARGEST} bytes")])
    try:
        return _read(_Loader(_without_tabs(text)))
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        return Document(None, [Mistake("", f"not YAML: {wrong.problem or wrong.context}", line, column)])
    except yaml.reader.ReaderError as wrong:
        message = f"not YAML: the character U+{wrong.character:04X} cannot stand in a document"
        return Document(None, [Mistake("", message, *_place_of(text, wrong.position))])
    except (yaml.YAMLError, ValueError, RecursionError) as wrong:
        return Document(
            None, [Mistake("", f"not YAML: {str(wrong).splitlines()[0] if str(wrong) else 'nested too deep'}")]
        )


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
    """JSON may be indented with tabs, YAML may not; inside of JSON's texts there are none, so places stay the same."""
    if "\t" not in text or text.lstrip("\ufeff \t\r\n")[:1] != "{":
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


class _Dumper(yaml.SafeDumper):
    """SafeDumper by the rules that `_Loader` reads by: no aliases, lists indented, texts of several lines as blocks."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        # YAML takes these for line ends too, and keeps them only where they are escaped.
        if any(end in text for end in "\x85\u2028\u2029"):
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def write_document(value: Mapping[str, Any]) -> str:
    """A document as YAML that people like to read and `read_document` reads as the same data."""
    return yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120)


def _place_of(text: str, index: int) -> Place:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


class _Reader:
    """Walks YAML nodes once: builds the value and notes places and mistakes."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self.mistakes: list[Mistake] = []
        self.names: dict[str, Place] = {}
        self.scalars: dict[str, Place] = {}
        self.unread: list[str] = []

    def read(self, node: yaml.Node, path: str) -> Any:
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.names.setdefault(path, place)
        if isinstance(node, _Alias):
            return self._unread(path, place, f"is an alias (*{node.value}), which is not read; write the part out")
        if node.tag not in _TAGS:
            return self._unread(path, place, f"has the tag {node.tag}, which is not read")
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(member, f"{path}[{index}]") for index, member in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._read_scalar(node, path, place)

    def _unread(self, path: str, place: Place, message: str) -> None:
        self.mistakes.append(Mistake(path, message, *place))
        self.unread.append(path)

    def _read_scalar(self, node: yaml.ScalarNode, path: str, place: Place) -> Any:
        # What is left empty stands nowhere; its name does.
        if node.value or node.style:
            self.scalars[path] = place
        try:
            value = self._loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            return self._unread(path, place, f"cannot be read as {node.tag.rpartition(':')[2]}")
        if isinstance(value, float) and isinf(value):
            return self._unread(path, place, "is a number beyond all bounds")
        if not isinstance(value, str):
            return value
        if _UNSTORABLE.search(value := _joined(value)):
            return self._unread(path, place, "contains a character that cannot be stored (NUL or half of a pair)")
        return value

    def _read_mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, member in node.value:
            place = (key.start_mark.line + 1, key.start_mark.column + 1)
            name = _joined(key.value) if isinstance(key, yaml.ScalarNode) else "\0"
            if _UNSTORABLE.search(name):
                self.mistakes.append(Mistake(path, "a name has to be text that can be stored", *place))
                continue
            below = f"{path}.{name}" if path else name
            if name in members:
                self.mistakes.append(Mistake(below, "appears twice", *place))
                continue
            self.names[below] = place
            members[name] = self.read(member, below)
        return members


def _joined(text: str) -> str:
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
