"""API keys by their prefixes. Only the answer to creating one has the whole key."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import Pattern, RequestSchema, Timestamp, described, page_of
from app.core.models import ACCOUNT_SCOPES, EVENTS_WRITE


class KeySchema(Schema):
    """An API key without its secret part."""

    prefix = fields.String(required=True, metadata=described("The 8 characters after `sb_`.", "a1B2c3D4"))
    name = fields.String(required=True, metadata=described("A name to recognize it by.", "checkout"))
    scopes = fields.List(
        fields.String(),
        required=True,
        metadata=described("What it may do; `source:ID`: it is the token of a source.", [EVENTS_WRITE]),
    )
    created_at = Timestamp(required=True)
    expires_at = Timestamp(required=True, allow_none=True, metadata=described("Null: never."))
    revoked_at = Timestamp(required=True, allow_none=True, metadata=described("Null: it is in force."))
    last_used_at = Timestamp(required=True, allow_none=True, metadata=described("To the minute; null: never."))


class NewKeySchema(RequestSchema):
    """An API key to create."""

    name = fields.String(
        load_default="",
        validate=validate.Length(max=255),
        metadata=described("A name to recognize it by, of printable characters.", "checkout"),
    )
    scopes = fields.List(
        fields.String(validate=validate.OneOf(ACCOUNT_SCOPES)),
        required=True,
        validate=validate.Length(min=1, max=len(ACCOUNT_SCOPES)),
        metadata=described("What it may do: at most what the calling key may do.", [EVENTS_WRITE]),
    )
    expires_in = fields.String(
        load_default=None,
        allow_none=True,
        validate=Pattern(r"^[1-9][0-9]{0,2}[dhm]$", error="must be a duration such as 90d"),
        metadata=described("A duration such as `90d`; null: it never expires.", "90d"),
    )


class CreatedKeySchema(KeySchema):
    """A new API key with its text, which is in no other answer."""

    key = fields.String(
        required=True,
        metadata=described(
            "The key itself. It is shown only now.", "sb_a1B2c3D4_0123456789012345678901234567890123456789012345678"
        ),
    )


KeyPageSchema = page_of(KeySchema, "KeyPage")
