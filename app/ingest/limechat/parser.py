"""Makes a verified event of LimeChat headers and fields; `schemas` says what is valid."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from marshmallow import ValidationError

from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, object_text
from app.core.models import Event
from app.ingest.limechat.schemas import FIELD_NAMES, EventSchema, HeadersSchema, warnings_of

_event_schema = EventSchema()


_headers_schema = HeadersSchema()


_HEADER_NAMES = {"account_id": "x-fb-account-id", "idempotency_key": "Idempotency-Key"}


def event_in(
    exact: ExactObject,
    *,
    account_id: int,
    event_id: UUID,
    received_at: datetime,
    idempotency_key: str | None,
    body_digest: bytes | None,
) -> Event:
    """The event that an object tells, checked; raises Problem 422 with all that is wrong."""
    fields = load_fields(exact)
    extra = {name: text for name, text in exact.raw.items() if name not in FIELD_NAMES}
    return Event(
        id=event_id,
        account_id=account_id,
        event=fields["event"],
        distinct_id=fields.get("distinct_id") or fields["phone"][1:],
        phone=fields.get("phone"),
        data=fields.get("data", {}),
        data_json=exact.raw.get("data", "{}"),
        extra_json=object_text(extra) if extra else None,
        received_at=received_at,
        idempotency_key=idempotency_key,
        body_digest=body_digest,
        warnings=warnings_of(fields["event"], extra),
    )


def check_headers(account_id: str | None, idempotency_key: str | None) -> None:
    """Raises Problem 422 without an account id, or with an unusable idempotency key."""
    sent = {"account_id": account_id, "idempotency_key": idempotency_key}
    try:
        _headers_schema.load({name: value for name, value in sent.items() if value is not None})
    except ValidationError as exc:
        raise invalid(exc, _HEADER_NAMES) from None


def load_fields(exact: ExactObject) -> dict[str, Any]:
    """The known fields of an event, checked; raises Problem 422 with all that is wrong."""
    try:
        fields: dict[str, Any] = _event_schema.load(exact.value)
    except ValidationError as wrong:
        raise invalid(wrong, {}) from None
    return fields


def invalid(wrong: ValidationError, names: dict[str, str]) -> Problem:
    """The 422 that lists what marshmallow found; `names` maps schema fields to what the sender calls them."""
    messages: dict[str, Any] = wrong.normalized_messages()  # type: ignore[no-untyped-call]
    errors = [
        {"field": names.get(str(name), str(name)), "message": str(message)}
        for name, said in sorted(messages.items())
        for message in (said if isinstance(said, list) else [said])
    ]
    detail = "; ".join(f"{error['field']} {error['message']}" for error in errors)
    return Problem(ProblemType.VALIDATION_FAILED, detail, errors=errors)
