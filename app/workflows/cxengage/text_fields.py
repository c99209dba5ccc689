"""Values become what the text fields of a step take: Liquid, `{mustache: …}`, or a variable that is set just before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.workflows.cxengage.cel_writer import IDENTIFIER, Path
from app.workflows.cxengage.clojure_semantics import Value
from app.workflows.cxengage.errors import one_of
from app.workflows.cxengage.mustache_rename import renamed
from app.workflows.cxengage.parser import Node, TemplateName, Text, unexpected
from app.workflows.cxengage.source_map import Places
from app.workflows.cxengage.variable_names import Names

_BRACKETED = re.compile(r"[^\"'{}%\\\n\r]+")
# Liquid has answers of its own for these, also where data do not.
_OF_LIQUID = frozenset(("first", "last", "size"))
# Nor may these follow a dot.
_RESERVED = frozenset(
    (
        "in",
        "true",
        "false",
        "nil",
        "null",
        "and",
        "or",
        "not",
        "contains",
        "empty",
        "blank",
        "if",
        "else",
        "with",
        "for",
        "as",
    )
)
_VERBATIM = re.compile(r"\{%-?\s*(?:end)?raw\b")


@dataclass(slots=True)
class Wording:
    """Writes the text fields of one document; `templates` by their names (`TM1`)."""

    templates: Mapping[str, str]
    names: Names
    places: Places

    def field(self, value: Value, before: dict[str, str]) -> str:
        """The Liquid text of a value; what Liquid cannot say is set `before` the step, as a variable."""
        if value.is_constant:
            if (said := verbatim(written_out(value.constant))) is not None:
                return said
        elif value.path is not None and (found := _in_liquid(value.path)) is not None:
            return found
        name = self.names.fresh("value")
        before[name] = value.text
        return f"{{{{ vars.{name} }}}}"

    def template(self, node: Node, scope: Mapping[str, str]) -> dict[str, Any]:
        """`+TM1` or a text as a Mustache template; `scope` has the names of the variables."""
        if isinstance(node, Text):
            return self.places.mark({"mustache": renamed(node.value, scope)}, node)
        known = [f"+{name}" for name in self.templates]
        if not isinstance(node, TemplateName) or node.name not in self.templates:
            raise unexpected(node, one_of(known) if known else "a text: there are no templates")
        return self.places.mark({"mustache": renamed(self.templates[node.name], scope)}, node)


def verbatim(text: str) -> str | None:
    """The Liquid that says a text as it stands; None where there is none."""
    if "{{" not in text and "{%" not in text:
        return text
    return None if _VERBATIM.search(text) else f"{{% raw %}}{text}{{% endraw %}}"


def written_out(constant: Any) -> str:
    """A constant as a text."""
    if isinstance(constant, bool):
        return "true" if constant else "false"
    if isinstance(constant, Decimal):
        return format(constant, "f")
    return "" if constant is None else str(constant)


def _in_liquid(path: Path) -> str | None:
    parts = []
    for name in path.names:
        if name in _OF_LIQUID or not _BRACKETED.fullmatch(name):
            return None
        plain = IDENTIFIER.fullmatch(name) is not None and name not in _RESERVED
        parts.append(f".{name}" if plain else f'["{name}"]')
    return f"{{{{ {path.root}{''.join(parts)} }}}}"
