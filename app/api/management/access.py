"""Who calls the management API, for which account, and what the caller may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from flask import current_app, g, request

from app.api import bearer
from app.api.management.request_body import invalid
from app.core.errors import Problem, ProblemType
from app.core.models import OPERATOR
from app.db.accounts import AccountRow
from app.services import accounts, api_keys
from app.services.context import AppContext

# The query parameter with which operators name another account.
ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Access:
    """What a request may do: its account, the `scopes` of its key, and the app context for what it changes. `caller` names the
    key or client, whose key or token ends at `expires_at` (None: never)."""

    context: AppContext
    account_id: int
    scopes: frozenset[str]
    caller: str
    expires_at: datetime | None

    def check(self, scope: str) -> None:
        """Raises Problem 403 when the key lacks the scope."""
        if scope not in self.scopes:
            raise Problem(ProblemType.MISSING_SCOPE, f"The key lacks the scope {scope}.")

    def within(self, context: AppContext) -> Access:
        """The same with another app context."""
        return replace(self, context=context)


def current() -> Access:
    """What the current request may do."""
    access: Access = g.access
    return access


def authorize(*wanted: str) -> Access:
    """The access of the request's key, which has the wanted scopes. Raises Problem 401, 403, or 404 for an account that an
    operator names and that does not exist."""
    token = bearer.bearer_token()
    account = bearer.find_account(token, _unauthorized)
    key = bearer.verify(str(token), account, _unauthorized)
    bearer.record_use(key)
    context: AppContext = current_app.extensions["context"]
    caller, account_id = bearer.Caller(account, key), account.snapshot.id
    scopes = api_keys.granted(key)
    named = request.args.get(ACCOUNT)
    if named not in (None, account.snapshot.slug, str(account_id)):
        account_id = _find_other(context, str(named), scopes)
    actor = caller.actor
    access = Access(context.acting_as(actor), account_id, scopes, actor.name, key.expires_at)
    for scope in wanted:
        access.check(scope)
    return access


def current_account() -> AccountRow:
    """The account of the current request. Raises Problem 404."""
    access = current()
    found = accounts.find_account(access.context, str(access.account_id))
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, "The account was deleted.")
    return found


def check_granted(access: Access, scopes: Iterable[str]) -> None:
    """Raises Problem 422 for scopes that the calling key lacks: nobody grants more than they have."""
    if missing := sorted(set(scopes) - access.scopes):
        raise invalid([{"field": "scopes", "message": f"the calling key lacks {', '.join(missing)}"}])


def _find_other(context: AppContext, name: str, scopes: frozenset[str]) -> int:
    """The id of another account, by its slug or id."""
    if OPERATOR not in scopes:
        raise Problem(
            ProblemType.ACCOUNT_MISMATCH,
            f"The key belongs to another account. The scope {OPERATOR} is needed for this.",
        )
    found = accounts.find_account(context, name)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"There is no account {name[:80]!r}.")
    return found.id


def _unauthorized() -> Problem:
    return Problem(
        ProblemType.INVALID_API_KEY,
        "The API key is missing or invalid. Send a key as Authorization: Bearer.",
        headers={"WWW-Authenticate": 'Bearer realm="signalbox"'},
    )
