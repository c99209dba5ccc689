"""Users of the console. Only the answer to creating one has a password."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.api.management.fields import RequestSchema, Timestamp, described, page_of

# Characters of an e-mail address.
MAX_EMAIL = 254


class UserSchema(Schema):
    """A user of the console without the password."""

    id = fields.UUID(required=True)
    email = fields.String(required=True)
    is_operator = fields.Boolean(required=True, metadata=described("An owner of all accounts."))
    created_at = Timestamp(required=True)
    password_changed_at = Timestamp(required=True)
    disabled_at = Timestamp(required=True, allow_none=True, metadata=described("null: the user is enabled."))


class NewUserSchema(RequestSchema):
    """A user to create."""

    email = fields.String(
        required=True, validate=validate.Length(3, MAX_EMAIL), metadata=described("", "somebody@example.com")
    )


class CreatedUserSchema(UserSchema):
    """A new user with a password, which is in no other answer."""

    password = fields.String(required=True, metadata=described("A random one. It is shown only now."))


class PasswordSchema(Schema):
    """A new password, which is in no other answer."""

    password = fields.String(required=True, metadata=described("A random one. It is shown only now."))


class SessionSchema(Schema):
    """Where a user is signed in."""

    id = fields.UUID(required=True)
    created_at = Timestamp(required=True)
    seen_at = Timestamp(required=True)
    address = fields.String(required=True)
    agent = fields.String(required=True, metadata=described("The browser."))


class SignedOutSchema(Schema):
    """Sessions that were ended."""

    ended = fields.Integer(required=True, metadata=described("How many there were."))


UserPageSchema = page_of(UserSchema, "UserPage")
SessionPageSchema = page_of(SessionSchema, "SessionPage")
