"""Operators create, enable, disable and delete users of the console."""

from __future__ import annotations

from typing import Any

from app.api.management.access import current
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.users import CreatedUserSchema, NewUserSchema, UserPageSchema, UserSchema
from app.core.models import OPERATOR
from app.db.users import UserRow
from app.services import users

blueprint = Blueprint("users", __name__, description="Users of the console: for keys with the scope `operator`.")
_OF_EMAIL = {"user": "$response.body#/email"}


@route(blueprint, "GET", "/users", OPERATOR, query=PageByNameQuery, answer=UserPageSchema)
def list_users(query: dict[str, Any]) -> Any:
    """List users

    By email address. `after` is an address.
    """
    context = current().context
    return read_page(
        query,
        lambda after, limit: users.list_users(context, after=after or "", limit=limit),
        lambda user: user.email,
    )


@route(
    blueprint,
    "POST",
    "/users",
    OPERATOR,
    body=NewUserSchema,
    answer=CreatedUserSchema,
    status=201,
    links={"show": {"operationId": "show_user", "parameters": _OF_EMAIL}},
)
def create_user(body: dict[str, Any]) -> Any:
    """Create a user

    With a random password, which is in no other answer. Operators are made by the command line only.
    """
    user, password = users.create_user(current().context, body["email"])
    blueprint.set_etag(user, UserSchema)
    return {**{name: getattr(user, name) for name in UserSchema().fields}, "password": password}


@route(blueprint, "GET", "/users/<user>", OPERATOR, answer=UserSchema)
def show_user(user: str) -> Any:
    """Show a user"""
    return _find(user)


def _find(email: str) -> UserRow:
    return users.find_user(current().context, email)


@route(blueprint, "POST", "/users/<user>/enable", OPERATOR, answer=UserSchema)
def enable_user(user: str) -> Any:
    """Enable a user"""
    users.switch_user(current().context, user, on=True)
    return _find(user)


@route(blueprint, "POST", "/users/<user>/disable", OPERATOR, answer=UserSchema)
def disable_user(user: str) -> Any:
    """Disable a user

    The sessions end.
    """
    users.switch_user(current().context, user, on=False)
    return _find(user)


@route(blueprint, "DELETE", "/users/<user>", OPERATOR, status=204)
def delete_user(user: str) -> None:
    """Delete a user"""
    found = _find(user)
    blueprint.check_etag(found, UserSchema)
    users.delete_user(current().context, found.email)
