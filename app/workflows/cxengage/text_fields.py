"""Writes values as text fields of a step: Liquid, `{mustache: …}`, or a variable that is set just before the step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from app.workflows.cxengage.cel_writer import IDENTIFIER, Path
from app.workflows.cxengage.clojure_semantics import Value
from app.workflows.cxengage.errors import one_of
from app.workflows.cxengage.mustache_variables import rename_variables
from app.workflows.cxengage.parser import Node, TemplateName, Text, unexpected
from app.workflows.cxengage.source_map import SourceMap
from app.workflows.cxengage.variable_names import VariableNames

_BRACKETED = re.compile(r"[^\"'{}%\\\n\r]+")
# Properties that Liquid computes itself.
_LIQUID_PROPERTIES = frozenset(("first", "last", "size"))
# Words that Liquid does not accept after a dot.
_RESERVED = re.compile("in|true|false|nil|null|and|or|not|contains|empty|blank|if|else|with|for|as")
_VERBATIM = re.compile(r"\{%-?\s*(?:end)?raw\b")


@dataclass(slots=True)
class TextFieldWriter:
    """Writes the text fields of one document; `templates` are by name (`TM1`)."""

    templates: Mapping[str, str]
    names: VariableNames
    source_map: SourceMap

    def field(self, value: Value, before: dict[str, str]) -> str:
        """The Liquid text of a value. A value that Liquid cannot express becomes a variable in `before`, CEL by name."""
        if value.is_constant:
            if (text := verbatim(as_text(value.constant))) is not None:
                return text
        elif value.path is not None and (expression := _as_liquid(value.path)) is not None:
            return expression
        name = self.names.fresh("value")
        before[name] = value.text
        return f"{{{{ vars.{name} }}}}"

    def template(self, node: Node, scope: Mapping[str, str]) -> dict[str, Any]:
        """`+TM1` or a text as a Mustache template; `scope` maps the variables to their names."""
        if isinstance(node, Text):
            return self.source_map.mark({"mustache": rename_variables(node.value, scope)}, node)
        known = [f"+{name}" for name in self.templates]
        if not isinstance(node, TemplateName) or node.name not in self.templates:
            raise unexpected(node, one_of(known) if known else "a text: there are no templates")
        return self.source_map.mark({"mustache": rename_variables(self.templates[node.name], scope)}, node)


def verbatim(text: str) -> str | None:
    """Liquid that renders exactly this text; None if that is impossible."""
    if "{{" not in text and "{%" not in text:
        return text
    return None if _VERBATIM.search(text) else f"{{% raw %}}{text}{{% endraw %}}"


def as_text(constant: Any) -> str:
    """A constant as a text."""
    if isinstance(constant, bool):
        return "true" if constant else "false"
    if isinstance(constant, Decimal):
        return format(constant, "f")
    return "" if constant is None else str(constant)


def _as_liquid(path: Path) -> str | None:
    parts = []
    for name in path.names:
        if name in _LIQUID_PROPERTIES or not _BRACKETED.fullmatch(name):
            return None
        plain = IDENTIFIER.fullmatch(name) is not None and not _RESERVED.fullmatch(name)
        parts.append(f".{name}" if plain else f'["{name}"]')
    return f"{{{{ {path.root}{''.join(parts)} }}}}"
