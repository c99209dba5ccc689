"""The limit of requests of people and programs that manage an account, counted together for the CxEngage routes and the
management API."""

from __future__ import annotations

from app.api import bearer
from app.api.route_limits import client_address, limiter
from app.core.errors import Problem, ProblemType, Unavailable

# Requests per minute of one account, or of one address without a valid token.
MAX_PER_MINUTE = 600


def account_or_address() -> str:
    """The account of a request with a valid token, otherwise the client's address."""
    try:
        token = bearer.bearer_token()
        if token is not None:
            account = bearer.find_account(token, _unknown)
            bearer.verify(token, account, _unknown)
            return f"account:{account.snapshot.id}"
    except (Problem, Unavailable):
        # An exception here would be taken for a failure of Redis.
        pass
    return client_address()


def _unknown() -> Problem:
    return Problem(ProblemType.INVALID_ACCESS_TOKEN, "")


management_limit = limiter.shared_limit(
    lambda: f"{MAX_PER_MINUTE}/minute",
    scope="management",
    key_func=account_or_address,
    error_message="Too many requests. Retry later.",
)
