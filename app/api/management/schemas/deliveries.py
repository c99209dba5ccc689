"""A delivery without its body: where it came from, and what became of it."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import PageByIdQuery, RequestSchema, Timestamp, described, page_of, text
from app.api.management.schemas.sources import REQUEST
from app.api.management.schemas.workflows import MAX_SOURCE
from app.db.deliveries import ACCEPTED, DUPLICATE, PARTLY, UNMAPPED, UNVERIFIED

WAITING = "waiting"
_RESULTS = (ACCEPTED, DUPLICATE, PARTLY, UNMAPPED, UNVERIFIED)


class DeliveryQuery(PageByIdQuery):
    """Filters of deliveries."""

    source = text(metadata=described("Only deliveries to this source."))
    result = fields.String(
        validate=validate.OneOf((WAITING, PARTLY, UNMAPPED, UNVERIFIED)),
        metadata=described("Only deliveries with this result; `waiting`: those not mapped, or only in part."),
    )
    since = Timestamp(metadata=described("Only deliveries that arrived then or later."))
    until = Timestamp(metadata=described("Only deliveries that arrived before."))


class ProblemOfDeliverySchema(Schema):
    """What could not be mapped or verified."""

    item = fields.Integer(
        required=True, allow_none=True, metadata=described("The position in the list; null: the whole delivery.")
    )
    path = fields.String(required=True, metadata=described("The part of the source's document to change."))
    message = fields.String(required=True)


class DeliverySchema(Schema):
    """A delivery without its body."""

    id = fields.UUID(required=True)
    source = fields.String(required=True, allow_none=True, metadata=described("null: the source was deleted."))
    source_version = fields.Integer(required=True, metadata=described("The version that mapped it last."))
    received_at = Timestamp(required=True)
    method = fields.String(required=True)
    query = fields.String(required=True, allow_none=True, metadata=described("Secrets are masked."))
    headers = fields.Dict(
        required=True, keys=fields.String(), values=fields.String(), metadata=described("Secrets are masked.")
    )
    body_bytes = fields.Integer(required=True)
    content_encoding = fields.String(required=True, allow_none=True)
    verified = fields.Boolean(required=True)
    result = fields.String(required=True, validate=validate.OneOf(_RESULTS))
    events = fields.List(fields.UUID(), required=True, metadata=described("Also those that were stored before."))
    duplicates = fields.Integer(required=True, metadata=described("How many of its events were stored before."))
    problems = fields.List(fields.Nested(ProblemOfDeliverySchema), required=True, allow_none=True)
    request_id = fields.String(required=True)
    replayed_at = Timestamp(required=True, allow_none=True)


class TestDeliverySchema(RequestSchema):
    """A request to sign and accept."""

    request = fields.String(
        required=True,
        validate=validate.Length(max=MAX_SOURCE),
        metadata=described(
            "As HTTP/1.1 writes it, without a signature: a line such as `POST /hooks/x HTTP/1.1`, headers, an empty line, and "
            "the body.",
            REQUEST,
        ),
    )


class TestedDeliverySchema(Schema):
    """A test delivery, which is kept as any other."""

    id = fields.UUID(required=True)
    result = fields.String(required=True, validate=validate.OneOf(_RESULTS))
    events = fields.List(fields.UUID(), required=True, metadata=described("Also those that were stored before."))
    duplicates = fields.Integer(required=True, metadata=described("How many of its events were stored before."))
    problems = fields.List(fields.Nested(ProblemOfDeliverySchema), required=True)


DeliveryPageSchema = page_of(DeliverySchema, "DeliveryPage")
