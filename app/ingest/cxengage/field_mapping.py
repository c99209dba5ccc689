"""Maps the JSON body of a third party to the fields of an event.

A mapping is from field names to dotted paths: `{"username": "interaction.author.username", "first": "items.0.id"}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.core.exact_json import ExactObject, malformed_body, read_value

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Mapped:
    """The fields that were found with their exact JSON texts, and a warning for each missing one."""

    fields: ExactObject
    warnings: tuple[str, ...]


def map_body(body: bytes, mapping: Mapping[str, str]) -> Mapped:
    """Map a body; raises Problem 400 or 422 when it is not a JSON object or array."""
    value = read_value(body)
    if not isinstance(value, dict | list):
        raise malformed_body("The top level is neither an object nor an array.")
    values: dict[str, Any] = {}
    raw: dict[str, str] = {}
    missing = []
    texts: dict[tuple[str, ...], bytes] = {(): body}
    for name, path in mapping.items():
        parts = path.split(".")
        found = _value_at(value, parts)
        if found is _ABSENT:
            missing.append(f"{name}: nothing at {path}; the field was left out")
        else:
            values[name] = found
            raw[name] = _text_at(value, parts, texts)
    return Mapped(ExactObject(values, raw), tuple(missing))


def _value_at(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(value, dict):
            value = value.get(part, _ABSENT)
        elif isinstance(value, list):
            value = value[int(part)] if _is_index(part) and int(part) < len(value) else _ABSENT
        else:
            return _ABSENT
    return value


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10


def _text_at(value: Any, parts: Sequence[str], texts: dict[tuple[str, ...], bytes]) -> str:
    """The JSON text of an existing value. `texts` caches the texts by path."""
    for depth, part in enumerate(parts):
        above, here = tuple(parts[:depth]), tuple(parts[: depth + 1])
        if here not in texts:
            if isinstance(value, dict):
                texts[here] = bytes(_members.decode(texts[above])[part])
            else:
                texts[here] = bytes(_elements.decode(texts[above])[int(part)])
        value = value[part] if isinstance(value, dict) else value[int(part)]
    return texts[tuple(parts)].decode()
