"""Refusals with the faults of their items, and the answer to a replay."""

from __future__ import annotations

from marshmallow import Schema, fields

from app.api.management.fields import PageByIdQuery, Timestamp, described, page_of, text


class RefusalQuery(PageByIdQuery):
    """Filters of refusals."""

    request_id = text(metadata=described("Only that of the response with this `X-Request-Id`."))
    since = Timestamp(metadata=described("Only those of then or later."))
    until = Timestamp(metadata=described("Only those of before."))


class FaultSchema(Schema):
    """A fault of a request."""

    field = fields.String(required=True)
    message = fields.String(required=True)


class RefusedItemSchema(Schema):
    """A refused item of a batch."""

    index = fields.Integer(required=True, metadata=described("Its position, from 0."))
    type = fields.String(required=True)
    detail = fields.String(required=True)
    event_id = fields.UUID(required=True, allow_none=True, metadata=described("Its event, once it was replayed."))


class RefusalSchema(Schema):
    """A refused request without its body."""

    id = fields.UUID(required=True)
    refused_at = Timestamp(required=True)
    route = fields.String(required=True, metadata=described("The path, without its query."))
    key_prefix = fields.String(required=True, metadata=described("Of the key or token that it came with."))
    status = fields.Integer(required=True, metadata=described("207: some items of a batch were refused."))
    type = fields.String(required=True, metadata=described("The type of the problem.", "validation-failed"))
    detail = fields.String(required=True)
    errors = fields.List(fields.Nested(FaultSchema), required=True, allow_none=True)
    items = fields.List(
        fields.Nested(RefusedItemSchema),
        required=True,
        allow_none=True,
        metadata=described("Of a batch; null: the whole request was refused."),
    )
    request_id = fields.String(required=True)
    idempotency_key = fields.String(required=True, allow_none=True)
    content_type = fields.String(required=True, allow_none=True)
    content_encoding = fields.String(required=True, allow_none=True)
    body_bytes = fields.Integer(required=True)
    replayable = fields.Boolean(required=True, metadata=described("false: a part of the body is missing."))
    not_kept = fields.Integer(required=True, metadata=described("How many followed that were not kept."))
    replayed_at = Timestamp(required=True, allow_none=True)
    replayed_event_id = fields.UUID(required=True, allow_none=True)


class RefusedAgainSchema(Schema):
    """What is refused again."""

    index = fields.Integer(
        required=True, allow_none=True, metadata=described("The position in the batch; null: the request.")
    )
    type = fields.String(required=True)
    detail = fields.String(required=True)


class ReplayedRefusalSchema(Schema):
    """What became of a refusal."""

    stored = fields.Integer(required=True, metadata=described("How many events are new."))
    events = fields.List(fields.UUID(), required=True, metadata=described("Also those that were stored before."))
    refused = fields.List(fields.Nested(RefusedAgainSchema), required=True)


RefusalPageSchema = page_of(RefusalSchema, "RefusalPage")
