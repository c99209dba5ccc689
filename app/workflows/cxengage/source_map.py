"""Where the parts of a document come from: each form that a compiler makes remembers its node, so that a mistake which is only
seen in the finished document is told at its place in the notation."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from app.workflows.cxengage.parser import Node

Made = TypeVar("Made", bound=dict[str, Any])
_PART = re.compile(r"[^.\[\]]+")


class Places:
    """The nodes from which the objects of one document were made."""

    def __init__(self) -> None:
        # The objects are kept with their nodes: an id may only be taken again once its object is gone.
        self._known: dict[int, tuple[Any, Node]] = {}

    def mark(self, made: Made, node: Node) -> Made:
        """Remember where an object comes from; the innermost node stays."""
        self._known.setdefault(id(made), (made, node))
        return made

    def of(self, document: Any, path: str) -> Node:
        """The place of what stands at a path of the document, or of the nearest part around it."""
        found, nearest = document, Node(1, 1)
        for part in _PART.findall(path):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                break
            nearest = self._known.get(id(found), (None, nearest))[1]
        return nearest
