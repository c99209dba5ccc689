"""What all CxEngage routes share: both prefixes, the Bearer token that opens a tenant, and errors as `{"error": "…"}`.

A tenant is an account by its slug. Comes in: a request with `Authorization: Bearer …`. Goes out: the account, verified; or a
Problem, told in CxEngage's shape. Nobody learns from an answer whether a tenant exists that is not theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request

from app.api import errors
from app.api.sender import MAX_SNAPSHOT_AGE
from app.core import metrics
from app.core.api_keys import prefix_of, verify_key
from app.core.errors import Problem, ProblemType
from app.core.models import Key
from app.ingest.account_cache import Account, AccountCache

# The routes are served with and without the version in front.
PREFIXES = ("/1.0", "")
_OURS = re.compile(r"/(?:1\.0|version|tenants|token|account)(?:/.*)?", re.DOTALL)
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the account, the key or token that was verified, and its text."""

    account: Account
    key: Key
    token: str


def register(app: Flask, blueprints: Sequence[Blueprint]) -> None:
    """Serve these blueprints, whose routes begin with `/tenants/<tenant>` and the like, under both prefixes."""
    for blueprint in blueprints:
        for prefix in PREFIXES:
            name = f"{blueprint.name}{prefix.replace('/', '_').replace('.', '_')}"
            app.register_blueprint(blueprint, url_prefix=prefix or None, name=name)


def authenticate(tenant: str | None, scope: str | None = None) -> Caller:
    """Who asks, for a tenant (None: for whichever the token opens), by a copy of the account that is at most two seconds
    old; raises Problem 401, or 403 where the token opens another tenant or lacks the scope."""
    accounts: AccountCache = current_app.extensions["accounts"]
    token = bearer_token()
    account = accounts.find_by_key(prefix_of(token))
    account = account and accounts.refresh(account, max_age=MAX_SNAPSHOT_AGE)
    if account is None:
        raise unauthorized()
    key = check_caller(account, token, tenant, scope)
    accounts.record_key_use(key.prefix)
    return Caller(account, key, token)


def bearer_token() -> str:
    """The token of the Authorization header; raises Problem 401 without one."""
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if match is None:
        raise unauthorized()
    return match[1]


def check_caller(account: Account, token: str, tenant: str | None, scope: str | None) -> Key:
    """The key that the token is, in this copy of its account; raises Problem 401 or 403."""
    key = verify_key(token, prefix_of(token), account.snapshot.keys, current_app.extensions["context"].clock())
    if key is None:
        raise unauthorized()
    if tenant not in (None, account.snapshot.slug):
        raise Problem(ProblemType.WRONG_ACCOUNT, "The token does not open this tenant.")
    if scope is not None and scope not in key.scopes:
        raise Problem(ProblemType.MISSING_SCOPE, f"The token lacks the scope {scope}.")
    return key


def unauthorized() -> Problem:
    """The one answer to a token that is missing, unknown, expired or revoked."""
    return Problem(
        ProblemType.INVALID_ACCESS_TOKEN,
        "The token is missing or not valid. Send Authorization: Bearer and a token or key of this tenant.",
        headers={"WWW-Authenticate": 'Bearer realm="signalbox"'},
    )


def answer(value: Any, status: int = 200) -> Response:
    """A value as a JSON answer."""
    return Response(errors.json_bytes(value), status, content_type="application/json")


def error_response(problem: Problem) -> Response:
    """A Problem as CxEngage tells it. What is wrong with a request is 400 there, an overload 403, with these very words."""
    status, text = problem.status, problem.detail
    if status == 422:
        status = 400
    elif status == 429:
        text = "Exceeded rate limit"
    elif status == 503:
        status, text = 403, "Timeout ocurred"
    metrics.refusals.labels(str(status)).inc()
    response = answer({"error": text}, status)
    response.headers.update(problem.headers)
    return response


SHAPE = errors.Shape(covers=lambda path: _OURS.fullmatch(path) is not None, tell=error_response)
