"""What a destination answered becomes a step's output: plain values that templates can read and Postgres can keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from app.core.unstorable import replace_unstorable

LARGEST_BODY = 64 * 1024
_DEEPEST = 64
_LONGEST_NUMBER = 500
_MOST_HEADERS = 50
_LONGEST_HEADER = 1_000


def read_answer(status: int, headers: Mapping[str, str], text: str) -> dict[str, Any]:
    """`{"status", "headers", "body"}`: header names in small letters, without cookies; the body parsed if it is JSON."""
    kept = [(name.lower(), replace_unstorable(value)[:_LONGEST_HEADER]) for name, value in headers.items()]
    return {
        "status": status,
        "headers": dict([pair for pair in kept if not pair[0].startswith("set-cookie")][:_MOST_HEADERS]),
        "body": _read_body(text, headers.get("Content-Type", "")),
    }


def _read_body(text: str, kind: str) -> Any:
    """JSON as its value, numbers exact; everything else, cut JSON too, as text."""
    if len(text.encode()) >= LARGEST_BODY or not ("json" in kind.lower() or text.lstrip()[:1] in ("{", "[")):
        return text
    try:
        value = json.loads(text, parse_float=_read_fraction, parse_int=_read_whole, parse_constant=_refuse)
        return _cleaned(value, _DEEPEST)
    except (ValueError, RecursionError):
        return text


def _read_whole(text: str) -> int | str:
    return int(text) if len(text) <= _LONGEST_NUMBER else text


def _read_fraction(text: str) -> Decimal | str:
    """A decimal, or the text of a number that Postgres could not hold."""
    value = Decimal(text) if len(text) <= _LONGEST_NUMBER else None
    return text if value is None or abs(value.adjusted()) > _LONGEST_NUMBER else value


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _cleaned(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return replace_unstorable(value)
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {replace_unstorable(name): _cleaned(member, depth - 1) for name, member in value.items()}
    return [_cleaned(member, depth - 1) for member in value]
