"""Builds a verified event from a JSON object that CxEngage's receiver or a listener took, and maps the bodies of third parties.

The account's attribute names say which members are the event's subject and name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.actions.circuit import FIRST_PAUSE
from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, ExactTexts, malformed_body, object_text, read_value
from app.core.ids import uuid7
from app.core.models import RECEIVER, Event
from app.core.subjects import MAX_SUBJECT_LENGTH, subject_text
from app.ingest.account_cache import Account
from app.ingest.enrichment import NO_ENRICHMENT, Enrichment

# The name of an event without a usable name attribute.
UNNAMED = "event"
# Characters of a name.
_MAX_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an event comes from: `via` is the receiver or a listener; `body` is hashed for a request with an
    `idempotency_key` (`is_webhook_id`: a `webhook-id`); `warnings` are those found before the event was built."""

    via: str = RECEIVER
    idempotency_key: str | None = None
    is_webhook_id: bool = False
    body: bytes = b""
    warnings: tuple[str, ...] = ()


def build_event(
    account: Account, exact: ExactObject, now: datetime, origin: Origin, enrichment: Enrichment = NO_ENRICHMENT
) -> Event:
    """The event of an account whose data is the whole object, with what augments add.

    Raises Problem 422 without a usable key attribute, and 503 if an augment that was left out may have it.
    """
    name, warnings = _name(account, exact)
    subject, faults = _subject(account.snapshot.key_attribute, exact, enrichment)
    added = enrichment.added
    return Event(
        id=uuid7(now),
        account_id=account.snapshot.id,
        event=name,
        distinct_id=subject,
        phone=None,
        data={**exact.value, **added.value} if added.value else exact.value,
        data_json=object_text(exact.raw),
        extra_json=None,
        received_at=now,
        idempotency_key=origin.idempotency_key,
        body_digest=hashlib.sha256(origin.body).digest() if origin.idempotency_key is not None else None,
        is_webhook_id=origin.is_webhook_id,
        warnings=origin.warnings + warnings + faults + enrichment.warnings,
        via=origin.via,
        augmented_json=object_text(added.raw) if added.raw else None,
    )


def _subject(attribute: str, exact: ExactObject, enrichment: Enrichment) -> tuple[str, tuple[str, ...]]:
    """The value of the key attribute that augments add, otherwise the one that was sent; and warnings about it."""
    added, fault = _key_value(attribute, enrichment.added)
    if added is not None:
        return added, ()
    added_fault = fault if attribute in enrichment.added.value else ""
    sent, fault = _key_value(attribute, exact)
    if sent is not None:
        warning = f"{attribute}: the augments' value {added_fault}; the event is about the subject that was sent"
        return sent, (warning,) if added_fault else ()
    if enrichment.may_lack(attribute):
        # The circuit breaker of the augment pauses calls for about as long.
        raise Problem(
            ProblemType.SERVICE_UNAVAILABLE,
            f"The augment that adds the key attribute {attribute!r} did not answer.",
            headers={"Retry-After": f"{FIRST_PAUSE:g}"},
        )
    raise Problem(
        ProblemType.VALIDATION_FAILED,
        f"The key attribute {attribute!r} {added_fault or fault}. It must identify the event's subject, as text or a number.",
    )


def _key_value(attribute: str, fields: ExactObject) -> tuple[str | None, str]:
    """A usable value of the key attribute, or None and what is wrong with it."""
    value = fields.value.get(attribute)
    if (text := subject_text(value)) is not None:
        return text, ""
    if value is None:
        return None, "is missing"
    if isinstance(value, bool | dict | list):
        return None, "is neither text nor a number"
    length = len(value if isinstance(value, str) else fields.raw[attribute].strip())
    return None, f"has {length} characters, not 1 to {MAX_SUBJECT_LENGTH}"


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


_ABSENT = object()


# A mapping is from field names to dotted paths: `{"username": "interaction.author.username", "first": "items.0.id"}`.


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
    texts = ExactTexts(body)
    for name, path in mapping.items():
        found, parts = _find(value, path)
        if found is _ABSENT:
            missing.append(f"{name}: nothing at {path}; the field was left out")
        else:
            values[name] = found
            raw[name] = texts.at(parts)
    return Mapped(ExactObject(values, raw), tuple(missing))


def _find(value: Any, path: str) -> tuple[Any, tuple[str | int, ...]]:
    """The value at a dotted path, or _ABSENT, and the parts of the path, with positions in lists as numbers."""
    parts: list[str | int] = []
    for part in path.split("."):
        if isinstance(value, dict):
            parts.append(part)
            value = value.get(part, _ABSENT)
        elif isinstance(value, list):
            index = int(part) if _is_index(part) else len(value)
            parts.append(index)
            value = value[index] if index < len(value) else _ABSENT
        else:
            return _ABSENT, ()
    return value, tuple(parts)


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10
