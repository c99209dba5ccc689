"""The rate limit that the CxEngage management routes share."""

from __future__ import annotations

from flask import current_app

from app.api.cxengage.auth import bearer_token, check_caller
from app.api.route_limits import client_address, limiter
from app.core.api_keys import prefix_of
from app.core.errors import Problem, Unavailable
from app.ingest.account_cache import AccountCache

# Requests per minute of one account, or of one address without a valid token.
MAX_PER_MINUTE = 600


def account_or_address() -> str:
    """The account of a request with a valid token, otherwise the client's address."""
    accounts: AccountCache = current_app.extensions["accounts"]
    try:
        token = bearer_token()
        account = accounts.find_by_key(prefix_of(token))
        if account is not None:
            check_caller(account, token, None, None)
            return f"account:{account.snapshot.id}"
    except (Problem, Unavailable):
        # An exception here would be taken for a failure of Redis.
        pass
    return client_address()


management_limit = limiter.shared_limit(
    lambda: f"{MAX_PER_MINUTE}/minute",
    scope="management",
    key_func=account_or_address,
    error_message="Too many requests. Retry later.",
)
