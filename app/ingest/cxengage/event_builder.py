"""Builds a verified event from a JSON object that CxEngage's receiver or a listener took.

The account's attribute names say which members are the event's subject and name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, object_text
from app.core.ids import uuid7
from app.core.models import Event
from app.ingest.account_cache import Account

# The name of an event without a usable name attribute.
UNNAMED = "event"
RECEIVER = "receiver"
# Characters of a name or a subject.
_MAX_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an event comes from: `via` is the receiver or a listener; `body` is hashed for a request with an
    `idempotency_key`; `warnings` are those found before the event was built."""

    via: str = RECEIVER
    idempotency_key: str | None = None
    body: bytes = b""
    warnings: tuple[str, ...] = ()


def build_event(account: Account, exact: ExactObject, now: datetime, origin: Origin) -> Event:
    """The event of an account whose data is the whole object. Raises Problem 422 without a usable key attribute."""
    name, warnings = _name(account, exact)
    return Event(
        id=uuid7(now),
        account_id=account.snapshot.id,
        event=name,
        distinct_id=_subject(account, exact),
        phone=None,
        data=exact.value,
        data_json=object_text(exact.raw),
        extra_json=None,
        received_at=now,
        idempotency_key=origin.idempotency_key,
        body_digest=hashlib.sha256(origin.body).digest() if origin.idempotency_key is not None else None,
        warnings=origin.warnings + warnings,
        via=origin.via,
    )


def _subject(account: Account, exact: ExactObject) -> str:
    attribute = account.snapshot.key_attribute
    text = _as_text(exact, attribute)
    if text is None or isinstance(exact.value[attribute], bool):
        fault = "is missing" if exact.value.get(attribute) is None else "is neither text nor a number"
    elif not 1 <= len(text) <= _MAX_LENGTH:
        fault = f"has {len(text)} characters, not 1 to {_MAX_LENGTH}"
    else:
        return text
    raise Problem(
        ProblemType.VALIDATION_FAILED,
        f"The key attribute {attribute!r} {fault}. It must identify the event's subject, as text or a number.",
    )


def _name(account: Account, exact: ExactObject) -> tuple[str, tuple[str, ...]]:
    """The event's name, and warnings about it."""
    attribute = account.snapshot.event_attribute
    if exact.value.get(attribute) is None:
        return UNNAMED, ()
    text = _as_text(exact, attribute)
    if text is not None and 1 <= len(text) <= _MAX_LENGTH:
        return text, ()
    fault = (
        "is not text, a number, true or false"
        if text is None
        else f"has {len(text)} characters, not 1 to {_MAX_LENGTH}"
    )
    return UNNAMED, (f"{attribute}: {fault}; the event is called {UNNAMED!r}",)


def _as_text(exact: ExactObject, attribute: str) -> str | None:
    """Text itself; a number, true or false as sent; None for a missing member, null, an object or a list."""
    value = exact.value.get(attribute)
    if value is None or isinstance(value, str):
        return value
    return None if isinstance(value, dict | list) else exact.raw[attribute].strip()
