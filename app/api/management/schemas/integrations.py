"""Integrations: fields as texts, of which the secret ones are masked."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.actions.integration_kinds import KINDS
from app.api.management.fields import RequestSchema, Timestamp, described, page_of

# Characters of a field.
_MAX_FIELD = 64 * 1024


class IntegrationSchema(Schema):
    """An integration with masked secrets."""

    kind = fields.String(required=True, validate=validate.OneOf(tuple(KINDS)))
    fields_ = fields.Dict(
        required=True,
        allow_none=True,
        data_key="fields",
        attribute="fields",
        keys=fields.String(),
        values=fields.String(),
        metadata=described("Secrets are `***`, long texts their length; null: ENCRYPTION_KEY does not fit."),
    )
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True)


class IntegrationFieldsSchema(RequestSchema):
    """Fields of an integration."""

    fields_ = fields.Dict(
        required=True,
        data_key="fields",
        keys=fields.String(validate=validate.Length(1, 100)),
        values=fields.String(validate=validate.Length(max=_MAX_FIELD)),
        metadata=described("Those that are not named stay; an empty text removes one.", {"from": "SIGNALBOX"}),
    )


class NewIntegrationSchema(RequestSchema):
    """An integration to set up."""

    kind = fields.String(required=True, validate=validate.OneOf(tuple(KINDS)), metadata=described("", "sendgrid"))
    fields_ = fields.Dict(
        required=True,
        data_key="fields",
        keys=fields.String(validate=validate.Length(1, 100)),
        values=fields.String(validate=validate.Length(max=_MAX_FIELD)),
        metadata=described(
            "Those of the kind, which the page Integrations of the console shows.", {"api_key": "SG.0123456789"}
        ),
    )


IntegrationPageSchema = page_of(IntegrationSchema, "IntegrationPage")
