"""Writes constants and paths as Liquid, and renames variables in Mustache templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from app.workflows.cxengage.cel_writer import IDENTIFIER, Path

_BRACKETED = re.compile(r"[^\"'{}%\\\n\r]+")
# Properties that Liquid computes itself.
_LIQUID_PROPERTIES = frozenset(("first", "last", "size"))
# Words that Liquid does not accept after a dot.
_RESERVED = re.compile("in|true|false|nil|null|and|or|not|contains|empty|blank|if|else|with|for|as")
_VERBATIM = re.compile(r"\{%-?\s*(?:end)?raw\b")


_TAG = re.compile(r"(?P<open>\{\{\{?[&#^/]?\s*)(?P<name>[^\s{}!>=][^\s{}.]*)(?P<rest>(?:\.[^\s{}]*)?\s*\}\}\}?)")


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


def as_liquid(path: Path) -> str | None:
    """Liquid that renders the value at a path; None if Liquid cannot read it."""
    parts = []
    for name in path.names:
        if name in _LIQUID_PROPERTIES or not _BRACKETED.fullmatch(name):
            return None
        plain = IDENTIFIER.fullmatch(name) is not None and not _RESERVED.fullmatch(name)
        parts.append(f".{name}" if plain else f'["{name}"]')
    return f"{{{{ {path.root}{''.join(parts)} }}}}"


def rename_variables(text: str, names: Mapping[str, str]) -> str:
    """The template with each of `names` replaced, also as the first part of a dotted name."""
    return _TAG.sub(lambda tag: f"{tag['open']}{names.get(tag['name'], tag['name'])}{tag['rest']}", text)
