"""Secrets: a value goes in with a name, and only the name comes out."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import Pattern, RequestSchema, Timestamp, described, page_of
from app.services.secrets import MAX_BYTES, MIN_CHARACTERS


class SecretSchema(Schema):
    """A secret without its value."""

    name = fields.String(required=True, metadata=described("Unique in the account.", "SHOPIFY"))
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True, metadata=described("When its value was last set."))
    used_by = fields.List(
        fields.String(),
        required=True,
        metadata=described("What reads it: enabled workflows, and sources.", ["source shop"]),
    )


class SecretValueSchema(RequestSchema):
    """The value of a secret."""

    value = fields.String(
        required=True,
        validate=validate.Length(MIN_CHARACTERS, MAX_BYTES),
        metadata=described("It is encrypted, and never shown.", "correct horse battery staple"),
    )


class NewSecretSchema(SecretValueSchema):
    """A secret to create."""

    name = fields.String(
        required=True,
        validate=Pattern(r"^[A-Z][A-Z0-9_]{0,63}$", error="must be a capital letter, then up to 63 of A-Z, 0-9 and _"),
        metadata=described("Unique in the account.", "RAZORPAY"),
    )


class RemoveSecretQuery(Schema):
    """How to remove a secret."""

    force = fields.Boolean(load_default=False, metadata=described("Also while something reads it."))


SecretPageSchema = page_of(SecretSchema, "SecretPage")
