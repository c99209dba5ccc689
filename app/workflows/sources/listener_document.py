"""The source document that maps as a CxEngage listener does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INDEX = re.compile(r"[0-9]{1,9}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_NAME = 100


def listener_document(
    listener: str, name: str, mapping: Mapping[str, str], *, key_attribute: str, event_attribute: str
) -> dict[str, Any]:
    """A document with the preset `listener` that takes the posts of a listener, and whose events have the same name, subject and
    data as those of it.

    `listener` is its id, `mapping` has for each field the dotted path of its value. The attributes are those of the account: the
    field that is the subject, and the one that is the name.
    """
    fields = {field: _path_of(path) for field, path in mapping.items()}
    rules: dict[str, Any] = {"event": "'event'"}
    if event_attribute in fields:
        rules["event"] = [fields[event_attribute], "'event'"]
    if key_attribute in fields:
        rules["distinct_id"] = fields[key_attribute]
    # A listener's events have no phone.
    rules |= {"phone": None, "data": fields}
    return {
        "name": _NOT_IN_NAMES.sub("-", name).strip("-")[:_MAX_NAME] or "listener",
        "provider": "listener",
        "listener": listener,
        "map": rules,
    }


def _path_of(path: str) -> str:
    """A dotted path, in which a number is a position, as sources write it."""
    return "body" + "".join(map(_part, path.split(".")))


def _part(part: str) -> str:
    if _INDEX.fullmatch(part):
        return f"[{int(part)}]"
    if _PLAIN.fullmatch(part):
        return f".{part}"
    return f"['{part}']" if "'" not in part else f'["{part}"]'
