"""Reads the body of a delivery: JSON under any media type, forms, text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from app.core.errors import Problem
from app.core.exact_json import ExactTexts, read_value
from app.core.forms import FORMS, UnreadableForm, read_form
from app.core.gzip_body import BYTE_ORDER_MARK

_JSON = re.compile(rb"\s*[{\[]")
# Python reads a list in one piece, and other requests wait meanwhile.
MAX_LISTS = 100_000
# The field in which GitHub and Slack send JSON in a form.
_PAYLOAD = "payload"


class UnreadableBody(Exception):
    """The body cannot be read; the message says why."""


class DeliveryBody(Struct, frozen=True):
    """What a body contains: `value`, and the JSON texts of its parts."""

    value: Any
    texts: ExactTexts


def read_body(body: bytes, content_type: str) -> DeliveryBody:
    """Read a body: JSON (also under another media type, with a byte order mark, or as the field `payload` of a form), the fields
    of a form as an object, any other text as `{"text": …}`, and an empty body as `{}`. Raises UnreadableBody."""
    body = body.removeprefix(BYTE_ORDER_MARK)
    media_type = content_type.partition(";")[0].strip().lower()
    is_json = _JSON.match(body) is not None
    if media_type in FORMS and not is_json:
        return _read_form(body, content_type)
    if not body.strip():
        return _read_json(b"{}")
    if "json" in media_type:
        return _read_json(body)
    if is_json:
        try:
            return _read_json(body)
        except UnreadableBody:
            if not media_type.startswith("text/"):
                raise
    try:
        return _to_json({"text": body.decode()})
    except UnicodeDecodeError as exc:
        raise UnreadableBody(f"the body is neither JSON, a form nor text in UTF-8 ({media_type or 'no type'})") from exc


def _read_json(body: bytes) -> DeliveryBody:
    if len(body) > MAX_LISTS and body.count(b"[") > MAX_LISTS:
        raise UnreadableBody(f"the body has more than {MAX_LISTS:,} lists")
    return _parse(body)


def _parse(body: bytes) -> DeliveryBody:
    try:
        return DeliveryBody(read_value(body), ExactTexts(body))
    except Problem as exc:
        raise UnreadableBody(re.sub(r"^The\b", "the", exc.detail).rstrip(".")) from None


def _read_form(body: bytes, content_type: str) -> DeliveryBody:
    try:
        found = read_form(body, content_type, errors="strict")
    except UnicodeDecodeError:
        raise UnreadableBody("the body is a form that is not in UTF-8") from None
    except UnreadableForm as exc:
        raise UnreadableBody(f"the body is a form, and {exc}") from None
    fields: dict[str, Any] = {}
    for name, value in found:
        # A repeated name has a list of values.
        known = fields.get(name)
        if known is None:
            fields[name] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            fields[name] = [known, value]
    payload = fields.get(_PAYLOAD)
    if len(fields) == 1 and isinstance(payload, str) and payload.lstrip()[:1] in ("{", "["):
        return _read_json(payload.encode())
    return _to_json(fields)


def _to_json(value: Mapping[str, Any]) -> DeliveryBody:
    # Reading it finds what cannot be stored.
    return _parse(msgspec.json.encode(value))
