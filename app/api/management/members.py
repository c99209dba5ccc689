"""Gives users of the console a role in the account, changes it, and takes it away."""

from __future__ import annotations

from typing import Any

from app.api.management.access import current, current_account
from app.api.management.fields import PageByNameQuery, read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.members import (
    MemberPageSchema,
    MemberSchema,
    NewMemberSchema,
    RoleSchema,
)
from app.core.errors import Problem, ProblemType
from app.core.models import ACCOUNT_MANAGE, USERS_MANAGE, VIEWER
from app.db.users import Membership
from app.services import users

blueprint = Blueprint("members", __name__, description="Members: users of the console with a role in the account.")


@route(blueprint, "GET", "/members", USERS_MANAGE, query=PageByNameQuery, answer=MemberPageSchema)
def list_members(query: dict[str, Any]) -> Any:
    """List members

    By email address. `after` is an address.
    """
    access = current()
    return read_page(
        query,
        lambda after, limit: users.list_members(access.context, access.account_id, after=after or "", limit=limit),
        lambda member: member.email,
    )


@route(blueprint, "POST", "/members", USERS_MANAGE, body=NewMemberSchema, answer=MemberSchema, status=201)
def add_member(body: dict[str, Any]) -> Any:
    """Add a member

    Give a user a role. One above viewer needs the scope `account:manage`. 409 for one who has a role in the account.
    """
    access, email = current(), body["email"]
    _check_role(body["role"])
    if users.find_member(access.context, access.account_id, email) is not None:
        raise Problem(ProblemType.CONFLICT, "The user has a role in the account.")
    users.set_role(access.context, email, current_account(), body["role"])
    return _find(email)


def _check_role(role: str) -> None:
    """Raises Problem 403 for a role that may do more than the key."""
    if role != VIEWER:
        current().check(ACCOUNT_MANAGE)


def _find(email: str) -> Membership:
    access = current()
    found = users.find_member(access.context, access.account_id, email)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, "The account has no such member.")
    return found


@route(blueprint, "GET", "/members/<email>", USERS_MANAGE, answer=MemberSchema)
def show_member(email: str) -> Any:
    """Show a member"""
    return _find(email)


@route(blueprint, "PATCH", "/members/<email>", USERS_MANAGE, body=RoleSchema, answer=MemberSchema)
def change_member(body: dict[str, Any], email: str) -> Any:
    """Change the role of a member

    One above viewer needs the scope `account:manage`. 409 for the last owner.
    """
    access, found = current(), _find(email)
    blueprint.check_etag(found, MemberSchema)
    _check_role(body["role"])
    users.set_role(access.context, found.email, current_account(), body["role"])
    return _find(email)


@route(blueprint, "DELETE", "/members/<email>", USERS_MANAGE, status=204)
def remove_member(email: str) -> None:
    """Remove a member

    The user stays, without a role in the account. 409 for the last owner.
    """
    access, found = current(), _find(email)
    blueprint.check_etag(found, MemberSchema)
    users.set_role(access.context, found.email, current_account(), None)
