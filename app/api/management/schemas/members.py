"""The e-mail address of a member and the role; adding one names both."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import RequestSchema, Timestamp, described, page_of
from app.api.management.schemas.users import MAX_EMAIL
from app.core.models import ROLES, VIEWER


class MemberSchema(Schema):
    """A user with a role in the account."""

    email = fields.String(required=True)
    role = fields.String(required=True, validate=validate.OneOf(ROLES))
    created_at = Timestamp(required=True)


class RoleSchema(RequestSchema):
    """A role in the account."""

    role = fields.String(
        required=True,
        validate=validate.OneOf(ROLES),
        metadata=described("owner: everything; editor: all but keys, users and settings; viewer: reading.", VIEWER),
    )


class NewMemberSchema(RoleSchema):
    """A user who gets a role in the account."""

    email = fields.String(
        required=True,
        validate=validate.Length(3, MAX_EMAIL),
        metadata=described("Of a user who exists.", "new@example.com"),
    )


MemberPageSchema = page_of(MemberSchema, "MemberPage")
