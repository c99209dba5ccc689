"""Operators create, enable, disable and delete users of the console."""

from __future__ import annotations

from typing import Any

from app.api.management.access import current
from app.api.management.fields import PageByIdQuery, PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.users import (
    CreatedUserSchema,
    NewUserSchema,
    PasswordSchema,
    SessionPageSchema,
    SignedOutSchema,
    UserPageSchema,
    UserSchema,
)
from app.core.errors import Problem, ProblemType
from app.core.models import ACCOUNT_MANAGE, OPERATOR
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


@route(
    blueprint,
    "POST",
    "/users/<user>/password",
    OPERATOR,
    more_scopes=(ACCOUNT_MANAGE,),
    answer=PasswordSchema,
    # Its answer is not kept: sent again, it makes another password.
    takes_key=False,
)
def reset_password(user: str) -> Any:
    """Reset the password of a user

    The new one is random; all sessions end. Needs the scope `account:manage`, too, since the password gives the rights of the
    user's roles. 403 for an operator, whose password only the command line sets.
    """
    found = _find(user)
    if found.is_operator:
        raise Problem(ProblemType.FORBIDDEN, "The password of an operator is set by the command line only.")
    return {"password": users.set_password(current().context, found.email)}


@route(blueprint, "GET", "/users/<user>/sessions", OPERATOR, query=PageByIdQuery, answer=SessionPageSchema)
def list_sessions(query: dict[str, Any], user: str) -> Any:
    """List the sessions of a user

    The last sign-in first.
    """
    context, found = current().context, _find(user)
    return read_page(
        query,
        lambda after, limit: users.list_sessions(context, found, after=after, limit=limit),
        lambda session: session.id,
    )


@route(blueprint, "POST", "/users/<user>/sign-out", OPERATOR, answer=SignedOutSchema)
def sign_out_user(user: str) -> Any:
    """End the sessions of a user"""
    return {"ended": users.end_sessions(current().context, _find(user))}


@route(blueprint, "DELETE", "/users/<user>", OPERATOR, status=204)
def delete_user(user: str) -> None:
    """Delete a user"""
    # The lock of the key's account does not cover users.
    found = users.find_user(current().context, user, lock=True)
    blueprint.check_etag(found, UserSchema)
    users.delete_user(current().context, found.email)
