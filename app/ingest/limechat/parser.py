"""Builds a verified event from a JSON object that follows the LimeChat contract (`schemas`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from marshmallow import Schema, ValidationError

from app.core.errors import Problem, ProblemType
from app.core.event_times import read_event_time
from app.core.exact_json import ExactObject, object_text
from app.core.models import Event
from app.ingest.limechat.schemas import OCCURRED_AT, BatchItemSchema, EventSchema, warnings_of

EVENT = EventSchema()
BATCH_ITEM = BatchItemSchema()


def item_schema(item: Mapping[str, Any]) -> Schema:
    """The schema of a batch item. Without its one field more, marshmallow spends less time on an item that lacks it."""
    return BATCH_ITEM if "idempotency_key" in item else EVENT


def parse_event(
    exact: ExactObject,
    schema: Schema,
    *,
    account_id: int,
    event_id: UUID,
    received_at: datetime,
    idempotency_key: str | None = None,
    is_webhook_id: bool = False,
    body: bytes | None = None,
    stores_unusable_phone: Callable[[], bool] = lambda: False,
) -> Event:
    """The event of an object; raises Problem 422 with all faults.

    `idempotency_key` is for an event that carries none itself (`is_webhook_id`: it is a `webhook-id`); `body` is the text whose
    digest belongs to the key. `stores_unusable_phone` is called for an unusable phone: whether to keep the event without it.
    """
    fields, phone_warnings = _load_event(schema, exact.value, stores_unusable_phone)
    extra = {name: text for name, text in exact.raw.items() if name not in schema.fields}
    occurred_at = _take_time(extra, exact.value) if OCCURRED_AT in extra else None
    warnings = warnings_of(fields["event"], extra) + phone_warnings
    if phone_warnings:
        extra["phone"] = exact.raw["phone"]
    key = (own_key := fields.get("idempotency_key")) or idempotency_key
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
        idempotency_key=key,
        body_digest=hashlib.sha256(body).digest() if body is not None and key is not None else None,
        is_webhook_id=is_webhook_id and own_key is None,
        warnings=warnings,
        occurred_at=occurred_at,
    )


def _take_time(extra: dict[str, str], value: Mapping[str, Any]) -> datetime | None:
    """The time at which the event happened, taken out of `extra`; what is no time stays there. Null and empty text count as
    absent."""
    sent = value[OCCURRED_AT]
    time = read_event_time(sent)
    if time is not None or sent in (None, ""):
        del extra[OCCURRED_AT]
    return time


def _load_event(
    schema: Schema, value: Mapping[str, Any], stores_unusable_phone: Callable[[], bool]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of an event, and a warning when it is kept without its phone; raises Problem 422."""
    try:
        return schema.load(value), ()
    except ValidationError as exc:
        problem = validation_failed(exc)
    messages = [error["message"] for error in problem.errors or () if error["field"] == "phone"]
    if not messages or value.get("distinct_id") in (None, "") or not stores_unusable_phone():
        raise problem
    fields = load(schema, {name: member for name, member in value.items() if name != "phone"})
    return fields, (f"phone: {messages[0]}; the event is stored without a phone, what was sent is in extra",)


def load(schema: Schema, data: Mapping[str, Any]) -> dict[str, Any]:
    """The known fields of `data`, validated; raises Problem 422 with all faults."""
    try:
        fields: dict[str, Any] = schema.load(data)
    except ValidationError as exc:
        raise validation_failed(exc) from None
    return fields


def validation_failed(exc: ValidationError) -> Problem:
    """The 422 that lists the faults that marshmallow found."""
    messages: dict[str, Any] = exc.normalized_messages()  # type: ignore[no-untyped-call]
    errors = [
        {"field": str(name), "message": str(message)}
        for name, found in sorted(messages.items())
        for message in (found if isinstance(found, list) else [found])
    ]
    detail = "; ".join(f"{error['field']} {error['message']}" for error in errors)
    return Problem(ProblemType.VALIDATION_FAILED, detail, errors=errors)
