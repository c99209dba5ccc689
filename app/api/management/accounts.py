"""Operators create accounts, put them on plans, enable and disable them."""

from __future__ import annotations

from typing import Any

from app.api.management.access import current
from app.api.management.fields import read_page
from app.api.management.routes import Blueprint, route
from app.api.management.schemas.accounts import (
    AccountPageSchema,
    AccountQuery,
    AccountSchema,
    ChangedPlanSchema,
    NewAccountSchema,
)
from app.core.errors import Problem, ProblemType
from app.core.models import OPERATOR, PLANS
from app.db.accounts import AccountDetails, AccountRow
from app.services import accounts

blueprint = Blueprint("accounts", __name__, description="Accounts: for keys with the scope `operator`.")
_OF_SLUG = {"slug": "$response.body#/slug"}


@route(blueprint, "GET", "/accounts", OPERATOR, query=AccountQuery, answer=AccountPageSchema)
def list_accounts(query: dict[str, Any]) -> Any:
    """List accounts

    The oldest first. `after` is the id of an account.
    """
    context = current().context
    return read_page(
        query,
        lambda after, limit: accounts.list_accounts(context, after=after or 0, limit=limit),
        lambda row: row.id,
    )


@route(
    blueprint,
    "POST",
    "/accounts",
    OPERATOR,
    body=NewAccountSchema,
    answer=AccountSchema,
    status=201,
    links={"show": {"operationId": "show_account_of_slug", "parameters": _OF_SLUG}},
)
def create_account(body: dict[str, Any]) -> Any:
    """Create an account

    409 when the slug is taken.
    """
    slug, plan = body.pop("slug"), PLANS[body.pop("plan")]
    accounts.create_account(current().context, slug, plan, AccountDetails(**body))
    return _find(slug)


def _find(slug: str, *, lock: bool = False) -> AccountRow:
    found = accounts.find_account(current().context, slug, lock=lock)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, "There is no such account.")
    return found


@route(blueprint, "GET", "/accounts/<slug>", OPERATOR, answer=AccountSchema)
def show_account_of_slug(slug: str) -> Any:
    """Show an account

    By its slug or id.
    """
    return _find(slug)


@route(blueprint, "PUT", "/accounts/<slug>/plan", OPERATOR, body=ChangedPlanSchema, answer=AccountSchema)
def change_plan(body: dict[str, Any], slug: str) -> Any:
    """Put an account on a plan

    From now on. `If-Match` has the ETag of the account.
    """
    # The account of the key is locked; this may be another one.
    found = _find(slug, lock=True)
    blueprint.check_etag(found, AccountSchema)
    accounts.change_plan(current().context, found.id, PLANS[body["plan"]], body["events_per_second"])
    return _find(slug)


@route(blueprint, "POST", "/accounts/<slug>/enable", OPERATOR, answer=AccountSchema)
def enable_account(slug: str) -> Any:
    """Enable an account

    Its events are accepted again.
    """
    accounts.switch_account(current().context, _find(slug).id, on=True)
    return _find(slug)


@route(blueprint, "POST", "/accounts/<slug>/disable", OPERATOR, answer=AccountSchema)
def disable_account(slug: str) -> Any:
    """Disable an account

    All its events are refused.
    """
    accounts.switch_account(current().context, _find(slug).id, on=False)
    return _find(slug)
