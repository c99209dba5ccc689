"""Targets that fail or are disabled: since when, why, and what waits for them."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import PageQuery, RequestSchema, Timestamp, described, page_of

# Characters of a target, and of a cursor, which has a time before it.
_MAX_TARGET, _MAX_CURSOR = 2_000, 2_100


class TargetQuery(PageQuery):
    """A page of targets."""

    after = fields.String(
        validate=validate.Length(1, _MAX_CURSOR), metadata=described("The `next` of the page before.")
    )


class TargetSchema(Schema):
    """A failing or disabled target."""

    target = fields.String(required=True, metadata=described("What was called.", "POST https://example.com/hook"))
    state = fields.String(
        required=True,
        validate=validate.OneOf(("failing", "disabled")),
        metadata=described(
            "failing: its circuit is open until a call succeeds; disabled: it is not called until it is enabled."
        ),
    )
    since = Timestamp(required=True)
    reason = fields.String(required=True, allow_none=True, metadata=described("Why it is disabled."))
    run_id = fields.UUID(required=True, allow_none=True, metadata=described("The run that disabled it."))
    failures = fields.Integer(required=True, allow_none=True, metadata=described("How many in a row."))
    retry_at = Timestamp(required=True, allow_none=True, metadata=described("When the next call is."))
    runs_held = fields.Integer(required=True, allow_none=True, metadata=described("How many runs wait for it."))


class EnableTargetSchema(RequestSchema):
    """A target to enable."""

    target = fields.String(
        required=True,
        validate=validate.Length(1, _MAX_TARGET),
        metadata=described("As the list of targets has it.", "POST https://example.com/hook"),
    )


class EnabledTargetSchema(Schema):
    """A target that was enabled."""

    target = fields.String(required=True)


TargetPageSchema = page_of(TargetSchema, "TargetPage")
