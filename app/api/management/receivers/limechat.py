"""Events in LimeChat's format, singly and in batches."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from app.api.management.fields import Timestamp, described
from app.api.management.receivers.operations import BODY_ERRORS, IDEMPOTENCY_KEY, JSON, KEY_HEADER, operation
from app.core.models import EVENTS_WRITE
from app.ingest.limechat.received_batch import LINES
from app.ingest.limechat.schemas import MAX_BATCH_KEY_LENGTH, BatchItemSchema, EventSchema

TAG = "limechat"
_ACCOUNT = {
    "name": "x-fb-account-id",
    "in": "header",
    "required": True,
    "description": "The id of the account, which the page Settings of the console and `GET /api/v1/manage/account` show.",
    "schema": {"type": "string", "minLength": 1},
}
_BATCH_KEY = {
    **IDEMPOTENCY_KEY,
    "description": "Gives each item without a key its own, made of this and its position.",
    "schema": {**IDEMPOTENCY_KEY["schema"], "maxLength": MAX_BATCH_KEY_LENGTH},  # type: ignore[dict-item]
}
_ERRORS = (401, 403, *BODY_ERRORS, 422, 429, 503)
_EVENT = {"event": "product_view", "distinct_id": "915673412780", "phone": "+915673412780", "data": {"price": 1999}}
_PLAIN_EVENT = {"event": "product_view", "distinct_id": "915673412780"}


class AcceptedEventSchema(Schema):
    """An event that is stored."""

    id = fields.UUID(required=True, metadata=described("A UUIDv7: ids sort by time."))
    event = fields.String(required=True)
    distinct_id = fields.String(required=True, metadata=described("Whom it is about."))
    received_at = Timestamp(required=True, metadata=described("When it was accepted."))
    duplicate = fields.Boolean(
        required=True,
        metadata=described(
            "The idempotency key belonged to an event already: `id` is that event's; nothing was stored."
        ),
    )
    contributing = fields.Boolean(
        required=True, metadata=described("Whether any workflow started or came closer to its start.")
    )
    runs = fields.List(fields.UUID(), required=True, metadata=described("The runs that were started."))
    warnings = fields.List(
        fields.String(), required=True, metadata=described("What was accepted but may be a mistake.")
    )


class BatchFaultSchema(Schema):
    """A fault of an item of a batch."""

    index = fields.Integer(required=True, metadata=described("The position of the item, from 0."))
    field = fields.String(required=True, allow_none=True, metadata=described("Null: the item as a whole."))
    message = fields.String(required=True)


class AcceptedBatchSchema(Schema):
    """What became of a batch."""

    accepted = fields.Integer(required=True, metadata=described("The number of new events."))
    duplicates = fields.Integer(
        required=True, metadata=described("The number of items that repeat an idempotency key.")
    )
    ids = fields.List(
        fields.UUID(allow_none=True),
        required=True,
        metadata=described("In the order of the batch; null for a refused item."),
    )
    errors = fields.List(
        fields.Nested(BatchFaultSchema), required=True, metadata=described("At most five faults per item.")
    )


def _batch() -> dict[str, Any]:
    found = operation(
        TAG,
        "receive_batch",
        "Send a batch of events",
        "A JSON array, or one event per line. Valid items are stored in one transaction, even if others are refused.",
        security={KEY_HEADER: [EVENTS_WRITE]},
        parameters=(_ACCOUNT, _BATCH_KEY),
        body={"type": "array", "items": BatchItemSchema, "maxItems": 5_000},
        example=[_PLAIN_EVENT, {**_PLAIN_EVENT, "event": "order_placed", "idempotency_key": "order-98765"}],
        answers={200: AcceptedBatchSchema, 207: AcceptedBatchSchema},
        errors=_ERRORS,
    )
    found["requestBody"]["content"][LINES] = {
        "schema": {"type": "string"},
        "example": '{"event": "product_view", "distinct_id": "915673412780"}\n',
    }
    return found


PATHS = {
    "/api/v1/cvf-events": {
        "post": operation(
            TAG,
            "receive_event",
            "Send an event",
            "A 200 means that the event is stored. The body may be compressed with gzip. One of `distinct_id` and `phone` is "
            "required; fields that are not named here are stored in `extra`.",
            security={KEY_HEADER: [EVENTS_WRITE]},
            parameters=(_ACCOUNT, IDEMPOTENCY_KEY),
            body=EventSchema,
            example=_EVENT,
            media_types=(JSON,),
            answers={200: AcceptedEventSchema},
            errors=_ERRORS,
        )
    },
    "/api/v1/cvf-events/batch": {"post": _batch()},
}
