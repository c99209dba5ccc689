"""OAuth clients: a name and scopes. Only the answer to creating one has the secret."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import RequestSchema, Timestamp, described, page_of
from app.core.models import ACCOUNT_SCOPES, EVENTS_WRITE, SCOPES


class ClientSchema(Schema):
    """An OAuth client without its secret."""

    id = fields.String(required=True)
    name = fields.String(required=True)
    scopes = fields.List(fields.String(validate=validate.OneOf(SCOPES)), required=True)
    created_at = Timestamp(required=True)
    revoked_at = Timestamp(required=True, allow_none=True)
    last_used_at = Timestamp(required=True, allow_none=True)


class NewClientSchema(RequestSchema):
    """An OAuth client to create."""

    name = fields.String(
        load_default="",
        validate=validate.Length(max=255),
        metadata=described("A name to recognize it by, of printable characters.", "warehouse"),
    )
    scopes = fields.List(
        fields.String(validate=validate.OneOf(ACCOUNT_SCOPES)),
        required=True,
        validate=validate.Length(min=1, max=len(ACCOUNT_SCOPES)),
        metadata=described("What its tokens may do: at most what the calling key may do.", [EVENTS_WRITE]),
    )


class CreatedClientSchema(ClientSchema):
    """A new OAuth client with its secret, which is in no other answer."""

    secret = fields.String(required=True, metadata=described("It is shown only now."))


ClientPageSchema = page_of(ClientSchema, "ClientPage")
