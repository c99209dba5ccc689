"""What an account sets for itself: its fields, its usage of a plan, retention, and who changed what."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import PageByIdQuery, RequestSchema, Timestamp, described, page_of, text
from app.core.models import PLANS, REFUSE, STORE


def _name(description: str) -> fields.String:
    return fields.String(validate=validate.Length(1, 255), metadata=described(description))


class ChangedAccountSchema(RequestSchema):
    """New values of an account; what is not named stays."""

    name = fields.String(validate=validate.Length(1, 255), metadata=described("To display.", "Acme"))
    key_attribute = _name("Of CxEngage events: says whom they are about.")
    event_attribute = _name("Of CxEngage events: names the event.")
    unusable_phone = fields.String(
        validate=validate.OneOf((REFUSE, STORE)),
        metadata=described("What becomes of an event whose phone cannot be used.", STORE),
    )
    time_zone = fields.String(
        validate=validate.Length(1, 64), metadata=described("In which people enter times.", "Asia/Kolkata")
    )


class UsageSchema(Schema):
    """The plan of an account, and how it is used."""

    plan = fields.String(required=True, validate=validate.OneOf(tuple(PLANS)))
    events_per_second = fields.Integer(required=True, allow_none=True, metadata=described("null: no limit."))
    ends_at = Timestamp(required=True, allow_none=True)
    last_hour = fields.Integer(required=True, metadata=described("Events, counted up to 100,000."))
    last_day = fields.Integer(required=True, metadata=described("Events, counted up to 100,000."))


class KeptSchema(Schema):
    """How long a kind of rows is kept."""

    kind = fields.String(required=True)
    keep = fields.String(required=True, metadata=described("Such as `90d`; `forever`."))
    is_default = fields.Boolean(required=True)


class RetentionSchema(Schema):
    """How long each kind of rows is kept."""

    items = fields.List(fields.Nested(KeptSchema), required=True)


class ChangedRetentionSchema(RequestSchema):
    """How long to keep kinds of rows; what is not named stays."""

    keep = fields.Dict(
        required=True,
        keys=fields.String(validate=validate.Length(1, 40)),
        values=fields.String(validate=validate.Length(1, 40)),
        metadata=described(
            "By kind: a duration, `forever` or `default`. What is older is deleted for good.", {"events": "400d"}
        ),
    )


class AuditQuery(PageByIdQuery):
    """Filters of the audit log."""

    object = text(metadata=described("Only changes of this object, such as the name of a workflow."))
    since = Timestamp(metadata=described("Only changes of then or later."))


class EntrySchema(Schema):
    """Who changed what."""

    id = fields.UUID(required=True)
    at = Timestamp(required=True)
    actor = fields.String(required=True)
    via = fields.String(required=True)
    action = fields.String(required=True, metadata=described("Such as `workflow.create`."))
    object_type = fields.String(required=True)
    object_id = fields.String(required=True, allow_none=True)
    before = fields.Raw(required=True, allow_none=True)
    after = fields.Raw(required=True, allow_none=True)
    request_id = fields.String(required=True, allow_none=True)


class WholeAuditQuery(PageByIdQuery):
    """Filters of the audit log of all accounts."""

    since = Timestamp(metadata=described("Only changes of then or later."))


class WholeEntrySchema(EntrySchema):
    """Who changed what, and in which account."""

    account = fields.String(
        required=True, allow_none=True, metadata=described("Its slug; null: it concerns no single account, or is gone.")
    )


EntryPageSchema = page_of(EntrySchema, "EntryPage")
WholeEntryPageSchema = page_of(WholeEntrySchema, "WholeEntryPage")
