"""What Schemathesis loads: a generated Idempotency-Key becomes a new one, since one of another request is refused; lines of JSON
are sent as they are."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import schemathesis

from app.core.idempotency_keys import is_idempotency_key


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Replace a valid key."""
    key = (case.headers or {}).get("Idempotency-Key")
    if is_idempotency_key(key):
        case.headers["Idempotency-Key"] = str(uuid4())


@schemathesis.serializer("application/x-ndjson")
def send_lines(context: Any, value: Any) -> bytes:
    """Lines are text in the document."""
    return value if isinstance(value, bytes) else str(value).encode()
