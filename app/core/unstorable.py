"""Characters that PostgreSQL stores neither in text nor in jsonb: NUL and lone surrogates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def replace_unstorable(text: str) -> str:
    """`text` with U+FFFD in place of characters that cannot be stored."""
    return UNSTORABLE.sub("\ufffd", text)


def make_storable(value: Any) -> Any:
    """A JSON value with U+FFFD in place of characters that cannot be stored, in names and texts."""
    if isinstance(value, str):
        return replace_unstorable(value)
    if isinstance(value, Mapping):
        return {make_storable(name): make_storable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [make_storable(member) for member in value]
    return value
