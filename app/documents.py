"""A workflow's text becomes data with places: YAML or JSON in, the document and where each of its parts stands out.

YAML is read by its 1.2 core rules: only `true` and `false` are booleans (so `on:` and `language: no` are text), times and
dates stay text. Repeated names, aliases and tags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

LARGEST = 256 * 1024


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
    """A document as data, the mistakes seen while reading, and the place (line, column) of each path."""

    value: Any
    mistakes: list[Mistake] = field(default_factory=list)
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def mistake(self, path: str, message: str) -> Mistake:
        """A mistake at `path`, with the place of the nearest part that is there."""
        near = path
        while near and near not in self.places:
            near = re.sub(r"(\.[^.\[\]]*|\[[^\]]*\]|^[^.\[]*)$", "", near)
        return Mistake(path, message, *self.places.get(near, (None, None)))


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _shape, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_shape})$"), _first)


def read_document(text: str) -> Document:
    """Read a document; what cannot be read at all comes out as one mistake and the value None."""
    if len(text.encode()) > LARGEST:
        return Document(None, [Mistake("", f"the document is larger than {LARGEST} bytes")])
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, [Mistake("", "the document is empty")])
        reader = _Reader(loader)
        value = reader.read(node, "")
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        return Document(None, [Mistake("", f"not YAML: {wrong.problem or wrong.context}", line, column)])
    except (yaml.YAMLError, ValueError, RecursionError) as wrong:
        return Document(
            None, [Mistake("", f"not YAML: {str(wrong).splitlines()[0] if str(wrong) else 'nested too deep'}")]
        )
    finally:
        loader.dispose()
    return Document(value, reader.mistakes, reader.places)


class _Reader:
    """Walks YAML nodes once: builds the value and notes places and mistakes."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._seen: set[int] = set()
        self.mistakes: list[Mistake] = []
        self.places: dict[str, tuple[int, int]] = {}

    def read(self, node: yaml.Node, path: str) -> Any:
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        self.places.setdefault(path, place)
        if id(node) in self._seen:
            self.mistakes.append(Mistake(path, "aliases (*name) are not read; write the part out", *place))
            return None
        self._seen.add(id(node))
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.endswith(("binary", "set", "omap", "pairs")):
            self.mistakes.append(Mistake(path, f"the tag {node.tag} is not read", *place))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(member, f"{path}[{index}]") for index, member in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _read_mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, member in node.value:
            place = (key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                self.mistakes.append(Mistake(path, "a name has to be text", *place))
                continue
            below = f"{path}.{key.value}" if path else key.value
            if key.value in members:
                self.mistakes.append(Mistake(below, "appears twice", *place))
                continue
            self.places[below] = place
            members[key.value] = self.read(member, below)
        return members
