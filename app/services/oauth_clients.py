"""What CxEngage's clients and their owners need of an account: clients with their tokens, its attributes, its last events.

Comes in: the house and plain values. Goes out: frozen values. Each function is one transaction, `issue_token` two at most.
"""

from __future__ import annotations

import hmac
from dataclasses import asdict, dataclass
from datetime import timedelta

from app.core.api_keys import digest_of, is_client_id, make_client, make_token_prefix, token_of
from app.core.errors import Problem, ProblemType
from app.db import accounts, event_queries, oauth_clients
from app.db.accounts import AccountDetails
from app.db.event_queries import Received
from app.db.oauth_clients import ClientRow, Credentials
from app.services.context import AppContext

__all__ = ["AccountDetails"]

TOKEN_LIFETIME = timedelta(days=30)
LONGEST = 255
_NOBODY = digest_of("")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the whole seconds that are left of it."""

    text: str
    seconds_left: int


def create_client(context: AppContext, account_id: int, name: str) -> tuple[str, str]:
    """Make a client; its id, and its secret, which nobody can be told again."""
    client_id, secret, digest = make_client()
    with context.database.transaction() as connection:
        oauth_clients.insert_client(connection, account_id, client_id, digest, name, context.clock())
    return client_id, secret


def list_clients(context: AppContext, account_id: int | None) -> list[ClientRow]:
    """All clients of an account, or of all accounts."""
    with context.database.transaction() as connection:
        return oauth_clients.list_clients(connection, account_id)


def revoke_client(context: AppContext, client_id: str) -> bool:
    """Revoke a client and its token; False when there is none in force of this id."""
    with context.database.transaction() as connection:
        return oauth_clients.revoke_client(connection, client_id, context.clock())


def issue_token(context: AppContext, client_id: str, secret: str) -> Token | None:
    """The token that the client has, or a new one when it has none or its time is over; None when it is not the client.

    Compares in constant time, for a client that does not exist as well.
    """
    known = None
    if is_client_id(client_id):
        with context.database.transaction() as connection:
            known = oauth_clients.find_credentials(connection, client_id)
    is_right = hmac.compare_digest(known.digest if known else _NOBODY, digest_of(secret))
    if known is None or not is_right:
        return None
    return _current(context, known, secret) or _anew(context, client_id, secret)


def _current(context: AppContext, known: Credentials, secret: str) -> Token | None:
    """The token that there is, for as long as it has a second left."""
    if known.token_prefix is None or known.token_expires_at is None:
        return None
    left = (known.token_expires_at - context.clock()) // timedelta(seconds=1)
    return Token(token_of(secret, known.token_prefix), left) if left > 0 else None


def _anew(context: AppContext, client_id: str, secret: str) -> Token | None:
    """Another token; of several who ask at once one makes it, and all get it."""
    with context.database.transaction() as connection:
        known = oauth_clients.find_credentials(connection, client_id, lock=True)
        if known is None:
            return None
        current = _current(context, known, secret)
        if current is not None:
            return current
        prefix = make_token_prefix()
        text, ends = token_of(secret, prefix), context.clock() + TOKEN_LIFETIME
        oauth_clients.set_token(connection, known.account_id, client_id, prefix, digest_of(text), ends)
    return Token(text, TOKEN_LIFETIME // timedelta(seconds=1))


def update_account_details(context: AppContext, account_id: int, described: AccountDetails) -> None:
    """Change what is given about an account. Raises Problem 422 when it cannot be used."""
    check_description(described)
    with context.database.transaction() as connection:
        accounts.update_account_details(connection, account_id, described)


def check_description(described: AccountDetails) -> None:
    """Raises Problem 422 when one of its texts cannot be used."""
    for what, text in asdict(described).items():
        if text is not None and not (1 <= len(text) <= LONGEST and text.isprintable()):
            raise Problem(
                ProblemType.VALIDATION_FAILED,
                f"the {what.replace('_', ' ')} has to be 1 to {LONGEST} printable characters",
            )


def latest_received(context: AppContext, account_id: int, limit: int) -> list[Received]:
    """The last events that came by CxEngage's receiver, newest first."""
    with context.database.transaction() as connection:
        return event_queries.find_latest_received(connection, account_id, limit)
