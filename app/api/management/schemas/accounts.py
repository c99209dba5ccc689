"""Accounts with all their settings, and what an operator gives them: a slug and a plan."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import PageQuery, Pattern, RequestSchema, Timestamp, described, page_of
from app.api.management.schemas.settings import ChangedAccountSchema
from app.core.models import DEFAULT_PLAN, PLANS, REFUSE, STORE

_MAX_ID = 2**63 - 1


class AccountSchema(Schema):
    """An account."""

    id = fields.Integer(required=True, metadata=described("What senders send as `x-fb-account-id`."))
    slug = fields.String(required=True)
    name = fields.String(required=True)
    plan = fields.String(required=True, validate=validate.OneOf(tuple(PLANS)))
    events_per_second = fields.Integer(
        required=True, allow_none=True, metadata=described("Its own rate; null: that of the plan.")
    )
    plan_ends_at = Timestamp(required=True, allow_none=True, metadata=described("null: it does not end."))
    disabled_at = Timestamp(required=True, allow_none=True, metadata=described("null: it is enabled."))
    created_at = Timestamp(required=True)
    key_attribute = fields.String(required=True, metadata=described("Of CxEngage events: whom they are about."))
    event_attribute = fields.String(required=True, metadata=described("Of CxEngage events: their name."))
    unusable_phone = fields.String(required=True, validate=validate.OneOf((REFUSE, STORE)))
    time_zone = fields.String(required=True, metadata=described("In which people enter times.", "Asia/Kolkata"))


class AccountQuery(PageQuery):
    """A page of accounts."""

    after = fields.Integer(validate=validate.Range(1, _MAX_ID), metadata=described("The `next` of the page before."))


class NewAccountSchema(ChangedAccountSchema):
    """An account to create."""

    slug = fields.String(
        required=True,
        validate=Pattern(r"^[a-z0-9][a-z0-9-]{0,62}$", error="must have 1 to 63 of a-z, 0-9 and -"),
        metadata=described("Unique, and more than a number.", "new-shop"),
    )
    plan = fields.String(load_default=DEFAULT_PLAN, validate=validate.OneOf(tuple(PLANS)))


class ChangedPlanSchema(RequestSchema):
    """The plan of an account from now on."""

    plan = fields.String(required=True, validate=validate.OneOf(tuple(PLANS)), metadata=described("", "standard"))
    events_per_second = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(1, 1_000_000),
        metadata=described("The account's own rate, in place of the plan's."),
    )


AccountPageSchema = page_of(AccountSchema, "AccountPage")
