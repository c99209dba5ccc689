"""JSON responses, and the header fields and the request id that every response carries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Response

from app.api.current import current_request

if TYPE_CHECKING:
    # gunicorn imports this module to find its worker; metrics, which this one imports, need settings that are checked later.
    from app.api.rate_limit import Allowance

# Responses are personal: no cache keeps them, and no browser guesses another media type.
RESPONSE_FIELDS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
_REQUEST_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/+=-]{0,127}")
_KEY, _ALLOWANCE = "signalbox.request_id", "signalbox.allowance"


def request_id() -> str:
    """The sender's X-Request-Id if it is valid, otherwise a new one; the same for the whole request."""
    return request_id_of(current_request().environ)


def request_id_of(environ: dict[str, Any]) -> str:
    """The same, of a WSGI environ."""
    known: str | None = environ.get(_KEY)
    if known is None:
        sent = environ.get("HTTP_X_REQUEST_ID")
        known = sent if sent is not None and _REQUEST_ID.fullmatch(sent) else os.urandom(16).hex()
        environ[_KEY] = known
    return known


def show_allowance(take: Callable[[], Allowance]) -> None:
    """Add the RateLimit fields to the response of the current request; `take` is called when it begins."""
    current_request().environ[_ALLOWANCE] = take


def response_fields(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """The fields of a response that do not depend on its content."""
    fields = [("X-Request-Id", request_id_of(environ)), *RESPONSE_FIELDS]
    take: Callable[[], Allowance] | None = environ.get(_ALLOWANCE)
    return fields if take is None else fields + take().headers()


def json_bytes(value: Any) -> bytes:
    """A value as JSON that is safe inside HTML: `<`, `>` and `&` are escaped."""
    text: bytes = msgspec.json.encode(value)
    return text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def json_response(value: Any, status: int = 200) -> Response:
    """A value as a JSON response."""
    return Response(json_bytes(value), status, content_type="application/json")
