"""Documents of sources, and the events and problems that they make of requests."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from app.api.management.fields import (
    ExactJson,
    Pattern,
    RequestSchema,
    Timestamp,
    described,
    page_of,
)
from app.api.management.schemas.workflows import MAX_SOURCE, MistakeSchema

_EXAMPLE = """\
name: shop
verify: none
map:
  event: "order.{{ body.status }}"
  distinct_id: [body.customer.id]
  data: body
"""
REQUEST = 'POST /hooks/x HTTP/1.1\nContent-Type: application/json\n\n{"status": "paid", "customer": {"id": "7"}}\n'


class SourceNameSchema(Schema):
    """A source in a list."""

    id = fields.UUID(required=True)
    name = fields.String(required=True, metadata=described("Unique in the account.", "shop"))
    enabled = fields.Boolean(required=True, metadata=described("false: deliveries are kept and not mapped."))
    latest_version = fields.Integer(required=True, metadata=described("The newest version, which is in use.", 1))
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True, metadata=described("When it was last saved, enabled or disabled."))


class SourceSchema(SourceNameSchema):
    """A source with its document."""

    source = fields.String(required=True, metadata=described("The document as it was saved.", _EXAMPLE))


class SourceDocumentSchema(RequestSchema):
    """A document of a source."""

    source = fields.String(
        required=True,
        validate=validate.Length(max=MAX_SOURCE),
        metadata=described(
            "The document as YAML or JSON text. It is kept as it is, with comments.", _EXAMPLE.replace("shop", "store")
        ),
    )


class TokenSchema(Schema):
    """A new token of a source, which is in no other answer."""

    token = fields.String(required=True, metadata=described("The last part of the URL. It is shown only now."))
    path = fields.String(
        required=True, metadata=described("To which the third party posts, below the address of this server.")
    )


class CreatedSourceSchema(SourceSchema, TokenSchema):
    """A new source with its token."""


class RotateSchema(RequestSchema):
    """How to rotate the token of a source."""

    overlap = fields.String(
        load_default="1d",
        validate=Pattern(r"^(0|[1-9][0-9]{0,2}[dhm])$", error="must be 0 or a duration such as 24h"),
        metadata=described("How long the old URL works; `0`: no longer.", "24h"),
    )


class RotatedSchema(TokenSchema):
    """The new token of a source."""

    old_until = Timestamp(
        required=True, allow_none=True, metadata=described("Until when the old URL works; null: it no longer does.")
    )


class SavedSourceSchema(Schema):
    """The document of a version."""

    name = fields.String(required=True)
    version = fields.Integer(required=True)
    source = fields.String(required=True, metadata=described("The document as it was saved.", _EXAMPLE))


class SourceVersionSchema(Schema):
    """A version in a list."""

    version = fields.Integer(required=True)
    created_at = Timestamp(required=True)


class TryDeliverySchema(RequestSchema):
    """What to try on a delivery."""

    source = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=MAX_SOURCE),
        metadata=described("A document to try; null: the one that is saved."),
    )


class TryRequestSchema(TryDeliverySchema):
    """A request to try."""

    request = fields.String(
        required=True,
        validate=validate.Length(max=MAX_SOURCE),
        metadata=described(
            "As HTTP/1.1 writes it: a line such as `POST /hooks/x HTTP/1.1`, headers, an empty line, and the body.",
            REQUEST,
        ),
    )
    at = Timestamp(
        load_default=None,
        allow_none=True,
        metadata=described("When the request arrives, for signatures with a time; null: now."),
    )


class HandshakeSchema(Schema):
    """The answer to a test of the URL."""

    status = fields.Integer(required=True)
    body = fields.String(required=True)
    headers = fields.Dict(required=True, keys=fields.String(), values=fields.String())
    reason = fields.String(required=True, metadata=described("Why it is refused; empty: it is not."))


class MappedEventSchema(Schema):
    """An event that a request would become."""

    event = fields.String(required=True)
    distinct_id = fields.String(required=True)
    phone = fields.String(required=True, allow_none=True)
    occurred_at = Timestamp(required=True, allow_none=True)
    dedupe = fields.String(required=True, allow_none=True)
    data = ExactJson(required=True, attribute="data_json")
    extra = ExactJson(required=True, allow_none=True, attribute="extra_json")
    warnings = fields.List(fields.String(), required=True)


class UnmappedSchema(MistakeSchema):
    """Why a part of a request would be no event, and the part of the document to change."""

    item = fields.Integer(
        required=True, allow_none=True, metadata=described("The position in the list; null: the whole request.")
    )


class TriedSourceSchema(Schema):
    """What a source makes of a request."""

    verified = fields.Boolean(
        required=True, allow_none=True, metadata=described("null: the verification cannot be repeated.")
    )
    reason = fields.String(required=True, metadata=described("Why it is not verified, or not known."))
    missing_secrets = fields.List(fields.String(), required=True)
    handshake = fields.Nested(HandshakeSchema, required=True, allow_none=True)
    events = fields.List(fields.Nested(MappedEventSchema), required=True)
    problems = fields.List(fields.Nested(UnmappedSchema), required=True)


class WaitingSchema(Schema):
    """Deliveries with the same result and first problem."""

    result = fields.String(required=True)
    problem = fields.String(required=True)
    count = fields.Integer(required=True)


def _chosen() -> dict[str, fields.Field[Any]]:
    """Which deliveries of a source to map again."""
    return {
        "since": Timestamp(metadata=described("Only deliveries that arrived then or later.")),
        "until": Timestamp(metadata=described("Only deliveries that arrived before.")),
        "after": fields.UUID(metadata=described("Only those after this delivery: the `next` of the call before.")),
    }


ReplayPlanQuery = Schema.from_dict(_chosen(), name="ReplayPlanQuery")
ReplaySourceSchema = RequestSchema.from_dict(_chosen(), name="ReplaySource")


class ReplayPlanSchema(Schema):
    """The deliveries of a source that are not mapped."""

    count = fields.Integer(required=True, metadata=described("How many one call maps again."))
    is_cut = fields.Boolean(required=True, metadata=described("There are more."))
    problems = fields.List(fields.Nested(WaitingSchema), required=True)


class FailureSchema(Schema):
    """A delivery that is not mapped still."""

    id = fields.UUID(required=True)
    reason = fields.String(required=True)


class ReplayedDeliveriesSchema(Schema):
    """What became of deliveries that were mapped again."""

    done = fields.Integer(required=True, metadata=described("How many were mapped again, or tried."))
    mapped = fields.Integer(required=True, metadata=described("How many of them are mapped now."))
    stored = fields.Integer(required=True, metadata=described("How many new events they have."))
    duplicates = fields.Integer(required=True, metadata=described("How many events were stored before."))
    failures = fields.List(fields.Nested(FailureSchema), required=True)
    next = fields.UUID(
        required=True, allow_none=True, metadata=described("Send it as `after` to continue; null: it has ended.")
    )


SourcePageSchema = page_of(SourceNameSchema, "SourcePage")
SourceVersionPageSchema = page_of(SourceVersionSchema, "SourceVersionPage")
