"""Message templates of CxEngage are Mustache; here the variables in them get the names that they have in the document."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TAG = re.compile(r"(?P<open>\{\{\{?[&#^/]?\s*)(?P<name>[^\s{}!>=][^\s{}.]*)(?P<rest>(?:\.[^\s{}]*)?\s*\}\}\}?)")


def renamed(text: str, names: Mapping[str, str]) -> str:
    """A template in which each of `names` has its new name, also at the beginning of a dotted one."""
    return _TAG.sub(lambda tag: f"{tag['open']}{names.get(tag['name'], tag['name'])}{tag['rest']}", text)
