"""Renames variables in Mustache templates."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TAG = re.compile(r"(?P<open>\{\{\{?[&#^/]?\s*)(?P<name>[^\s{}!>=][^\s{}.]*)(?P<rest>(?:\.[^\s{}]*)?\s*\}\}\}?)")


def rename_variables(text: str, names: Mapping[str, str]) -> str:
    """The template with each of `names` replaced, also as the first part of a dotted name."""
    return _TAG.sub(lambda tag: f"{tag['open']}{names.get(tag['name'], tag['name'])}{tag['rest']}", text)
