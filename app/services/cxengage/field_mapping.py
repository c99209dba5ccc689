"""What a third party posts becomes an event's fields: for each field the dotted path at which its value stands. Pure.

Comes in: a body's bytes and a mapping such as `{"username": "interaction.author.username", "first": "items.0.id"}`. Goes
out: the fields with the exact JSON text of each value, and the names of those that were not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.core.exact_json import ExactObject, not_json, read_value

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Mapped:
    """The fields that were found, and warnings about those that were not."""

    fields: ExactObject
    warnings: tuple[str, ...]


def map_body(body: bytes, mapping: Mapping[str, str]) -> Mapped:
    """Take the fields out of a body; raises Problem 400 or 422 where it is no JSON object or array."""
    value = read_value(body)
    if not isinstance(value, dict | list):
        raise not_json("The top level is neither an object nor an array.")
    values: dict[str, Any] = {}
    raw: dict[str, str] = {}
    missing = []
    pieces: dict[tuple[str, ...], bytes] = {(): body}
    for name, path in mapping.items():
        parts = path.split(".")
        found = _value_at(value, parts)
        if found is _ABSENT:
            missing.append(f"{name}: there is nothing at {path}, so it was left out")
        else:
            values[name] = found
            raw[name] = _text_at(value, parts, pieces)
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


def _text_at(value: Any, parts: Sequence[str], pieces: dict[tuple[str, ...], bytes]) -> str:
    """The JSON text of a value that is there. `pieces`: the texts that were cut out already, by their paths."""
    for depth, part in enumerate(parts):
        above, here = tuple(parts[:depth]), tuple(parts[: depth + 1])
        if here not in pieces:
            if isinstance(value, dict):
                pieces[here] = bytes(_members.decode(pieces[above])[part])
            else:
                pieces[here] = bytes(_elements.decode(pieces[above])[int(part)])
        value = value[part] if isinstance(value, dict) else value[int(part)]
    return pieces[tuple(parts)].decode()
