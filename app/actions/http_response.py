"""The output of a step that made an HTTP call: plain values that templates can read and Postgres can store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from app.core.exact_json import replace_unstorable

MAX_BODY_BYTES = 64 * 1024
_MAX_DEPTH = 64
_MAX_DIGITS = 500
_MAX_HEADERS = 50
_MAX_HEADER_CHARS = 1_000


def parse_response(status: int, headers: Mapping[str, str], text: str) -> dict[str, Any]:
    """`{"status", "headers", "body"}`: header names in lower case, without cookies; the body parsed if it is JSON."""
    shown = [(name.lower(), replace_unstorable(value)[:_MAX_HEADER_CHARS]) for name, value in headers.items()]
    return {
        "status": status,
        "headers": dict([pair for pair in shown if not pair[0].startswith("set-cookie")][:_MAX_HEADERS]),
        "body": _parse_body(text, headers.get("Content-Type", "")),
    }


def _parse_body(text: str, content_type: str) -> Any:
    """The value of JSON with exact numbers; anything else, truncated JSON included, as text."""
    if len(text.encode()) >= MAX_BODY_BYTES or not ("json" in content_type.lower() or text.lstrip()[:1] in ("{", "[")):
        return text
    try:
        value = json.loads(text, parse_float=_parse_decimal, parse_int=_parse_int, parse_constant=_refuse_constant)
        return _storable(value, _MAX_DEPTH)
    except (ValueError, RecursionError):
        return text


def _parse_int(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else text


def _parse_decimal(text: str) -> Decimal | str:
    """A decimal; the text of a number that Postgres cannot store."""
    value = Decimal(text) if len(text) <= _MAX_DIGITS else None
    return text if value is None or abs(value.adjusted()) > _MAX_DIGITS else value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _storable(value: Any, depth: int) -> Any:
    """`make_storable` with a limit on the depth."""
    if isinstance(value, str):
        return replace_unstorable(value)
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {replace_unstorable(name): _storable(member, depth - 1) for name, member in value.items()}
    return [_storable(member, depth - 1) for member in value]
