"""What all CxEngage routes share: the two URL prefixes, Bearer tokens, and errors as `{"error": "…"}`.

A tenant is an account by its slug. No response reveals whether another tenant exists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flask import Blueprint, Flask, Response

from app.api import bearer, errors, observation
from app.api.bearer import Caller
from app.api.responses import json_response
from app.core.errors import Problem, ProblemType
from app.core.models import Key
from app.ingest.account_cache import Account

# The routes are served with and without the version.
PREFIXES = ("/1.0", "")
_OURS = re.compile(r"/(?:1\.0|version|tenants|token|account)(?:/.*)?", re.DOTALL)


def register(app: Flask, blueprints: Sequence[Blueprint]) -> None:
    """Serve blueprints under both prefixes."""
    for blueprint in blueprints:
        for prefix in PREFIXES:
            name = f"{blueprint.name}{prefix.replace('/', '_').replace('.', '_')}"
            app.register_blueprint(blueprint, url_prefix=prefix or None, name=name)


def authenticate(tenant: str | None, scope: str | None = None) -> Caller:
    """The caller, checked against an account snapshot that is at most two seconds old. `tenant` None stands for the tenant
    of the token. Raises Problem 401, or 403 for a token of another tenant or without the scope."""
    token = bearer_token()
    account = bearer.find_account(token, unauthorized)
    key = check_caller(account, token, tenant, scope)
    bearer.record_use(key)
    return Caller(account, key)


def bearer_token() -> str:
    """The Bearer token of the request; raises Problem 401 without one."""
    token = bearer.bearer_token()
    if token is None:
        raise unauthorized()
    return token


def check_caller(account: Account, token: str, tenant: str | None, scope: str | None) -> Key:
    """The key of a token in an account; raises Problem 401 or 403."""
    key = bearer.verify(token, account, unauthorized)
    if tenant not in (None, account.snapshot.slug):
        raise Problem(ProblemType.ACCOUNT_MISMATCH, "The token has no access to this tenant.")
    if scope is not None and scope not in key.scopes:
        raise Problem(ProblemType.MISSING_SCOPE, f"The token lacks the scope {scope}.")
    return key


def unauthorized() -> Problem:
    """The error for a token that is missing, unknown, expired or revoked."""
    return Problem(
        ProblemType.INVALID_ACCESS_TOKEN,
        "The token is missing or invalid. Send a token or API key of this tenant as Authorization: Bearer.",
        headers={"WWW-Authenticate": 'Bearer realm="signalbox"'},
    )


def error_response(problem: Problem) -> Response:
    """A Problem in CxEngage's format. CxEngage answers 400 to invalid requests and 403 to overload, with exactly these texts."""
    status, text = problem.status, problem.detail
    if status == 422:
        status = 400
    elif status == 429:
        text = "Exceeded rate limit"
    elif status == 503:
        status, text = 403, "Timeout ocurred"
    observation.count_refusal(problem.type, status)
    response = json_response({"error": text}, status)
    response.headers.update(problem.headers)
    return response


ERROR_FORMAT = errors.ErrorFormat(covers=lambda path: _OURS.fullmatch(path) is not None, response=error_response)
