"""Who is signed in, and what they may do: every view is registered by `route` or `user_route`, which check the session
and the role.

`/console/ACCOUNT/…` belongs to the account with that slug. A user without a role in it gets the same 404 as for an account that
does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Blueprint, abort, current_app, g, request
from flask_login import UserMixin, current_user, login_required

from app.api import observation
from app.api.public_url import public_url
from app.api.responses import request_id
from app.core.models import ROLES, Actor
from app.db.accounts import AccountRow
from app.services import accounts, users
from app.services.context import AppContext
from app.services.users import SignedIn

View = TypeVar("View", bound=Callable[..., Any])
# Accounts that the switcher lists.
MAX_ACCOUNTS = 200


class Visitor(UserMixin):  # type: ignore[misc]
    """Who is signed in, as Flask-Login has it. The cookie holds the secret text of the session."""

    def __init__(self, token: str, found: SignedIn) -> None:
        self.user, self.session = found.user, found.session
        self._token = token

    def get_id(self) -> str:
        """The text that the cookie holds."""
        return self._token


def load_visitor(token: str) -> Visitor | None:
    """The visitor with this cookie; None when the session has ended."""
    context: AppContext = current_app.extensions["context"]
    found = users.find_session(context, token)
    return None if found is None else Visitor(token, found)


@dataclass(frozen=True, slots=True)
class AccountName:
    """An account that a user may see."""

    slug: str
    name: str


def app_context() -> AppContext:
    """The app context; what a view changes is recorded under the name of the user."""
    context: AppContext = current_app.extensions["context"]
    if not current_user.is_authenticated:
        return context
    return context.acting_as(Actor(visitor().user.email, "console", request_id()))


def visitor() -> Visitor:
    """Who is signed in; for views that `route` and `user_route` register."""
    found: Visitor = current_user._get_current_object()
    return found


def visible_accounts() -> list[AccountName]:
    """The accounts that the user has a role in; of an operator all, at most MAX_ACCOUNTS."""
    user, context = visitor().user, app_context()
    if user.is_operator:
        rows = accounts.list_accounts(context, limit=MAX_ACCOUNTS)
        return [AccountName(row.slug, row.name) for row in rows]
    return [AccountName(one.account, one.account_name) for one in users.list_memberships(context, user)]


def may(role: str) -> bool:
    """Whether the user has at least this role in the account of the page."""
    return ROLES.index(g.role) <= ROLES.index(role)


def current_account() -> AccountRow:
    """The account of the page."""
    account: AccountRow = g.account
    return account


def origin() -> str:
    """Scheme and host of this server, as the browser reached it."""
    parts = urlsplit(public_url(request.environ, app_context().settings.trusted_proxies))
    return f"{parts.scheme}://{parts.netloc}"


def route(blueprint: Blueprint, rule: str, role: str, methods: tuple[str, ...] = ("GET",)) -> Callable[[View], View]:
    """Register a view of an account, for users with at least this role in it. `rule` begins with `/<account>/`.

    One page of an account is made at a time.
    """

    def register(view: View) -> View:
        @wraps(view)
        @login_required  # type: ignore[untyped-decorator]
        def checked(account: str, **values: Any) -> Any:
            user = visitor().user
            context: AppContext = current_app.extensions["context"]
            found = accounts.find_account(context, account)
            held = None if found is None else users.find_role(context, user, found.id)
            if found is None or held is None or found.slug != account:
                abort(404)
            g.account, g.role = found, held
            observation.note_account(found.id)
            if not may(role):
                abort(403)
            with context.limits.console_pages.acquire(found.id):
                return view(**values)

        checked.needed_role = role  # type: ignore[attr-defined]
        blueprint.add_url_rule(rule, view.__name__, checked, methods=methods)
        return view

    return register


def user_route(blueprint: Blueprint, rule: str, methods: tuple[str, ...] = ("GET",)) -> Callable[[View], View]:
    """Register a view of the user's own, for everybody who is signed in."""

    def register(view: View) -> View:
        checked = login_required(view)
        checked.needed_role = None
        blueprint.add_url_rule(rule, view.__name__, checked, methods=methods)
        return view

    return register
