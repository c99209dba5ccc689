"""Maps the parts of a compiled document to nodes of the notation, so that errors in the document have a source position."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from app.workflows.cxengage.notation_parser import Node

Made = TypeVar("Made", bound=dict[str, Any])
_PART = re.compile(r"[^.\[\]]+")


class SourceMap:
    """The nodes that the objects of one document were compiled from."""

    def __init__(self) -> None:
        # Keeps the objects alive, because an id is reused after its object is deleted.
        self._nodes: dict[int, tuple[Any, Node]] = {}

    def mark(self, part: Made, node: Node) -> Made:
        """Record the node of an object, unless it has one."""
        self._nodes.setdefault(id(part), (part, node))
        return part

    def replace(self, part: Made, by: Made) -> Made:
        """Record the node of an object for another one that replaces it."""
        return self.mark(by, self._nodes[id(part)][1])

    def find(self, document: Any, path: str) -> Node:
        """The node of the part at a path of the document, or of the nearest enclosing part."""
        found, nearest = document, Node(1, 1)
        for part in _PART.findall(path):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                break
            nearest = self._nodes.get(id(found), (None, nearest))[1]
        return nearest
