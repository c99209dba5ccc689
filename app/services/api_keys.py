"""Use cases for API keys, OAuth clients and access tokens. One transaction each; `issue_token` uses up to two."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import timedelta

from app.core.api_keys import digest_of, is_client_id, make_client, make_key, make_token_prefix, token_of
from app.core.models import Key
from app.db import api_keys
from app.db.api_keys import ClientRow, Credentials, KeyRow
from app.services.context import AppContext


def create_key(
    context: AppContext, account_id: int, name: str, scopes: tuple[str, ...], lifetime: timedelta | None = None
) -> str:
    """Create a key; the key itself, which cannot be shown again."""
    now = context.clock()
    text, prefix, digest = make_key()
    key = Key(prefix, digest, scopes, None if lifetime is None else now + lifetime, None)
    with context.database.transaction() as connection:
        api_keys.insert_key(connection, account_id, key, name, now)
    return text


def replace_keys_named(context: AppContext, account_id: int, name: str, scopes: tuple[str, ...]) -> str:
    """Revoke all keys with this name and create a new one; the key itself."""
    now = context.clock()
    text, prefix, digest = make_key()
    with context.database.transaction() as connection:
        api_keys.revoke_keys_named(connection, account_id, name, now)
        api_keys.insert_key(connection, account_id, Key(prefix, digest, scopes, None, None), name, now)
    return text


def list_keys(context: AppContext, account_id: int | None) -> list[KeyRow]:
    """All keys of an account, or of all accounts."""
    with context.database.transaction() as connection:
        return api_keys.list_keys(connection, account_id)


def revoke_key(context: AppContext, prefix: str) -> bool:
    """Revoke a key; False when there is no unrevoked key with this prefix."""
    with context.database.transaction() as connection:
        return api_keys.revoke_key(connection, prefix, context.clock()) is not None


TOKEN_LIFETIME = timedelta(days=30)
# Compared with when no client has the id.
_NO_DIGEST = digest_of("")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the whole seconds until it expires."""

    text: str
    seconds_left: int


def create_client(context: AppContext, account_id: int, name: str) -> tuple[str, str]:
    """Create a client; returns its id and its secret, which is not stored."""
    client_id, secret, digest = make_client()
    with context.database.transaction() as connection:
        api_keys.insert_client(connection, account_id, client_id, digest, name, context.clock())
    return client_id, secret


def list_clients(context: AppContext, account_id: int | None) -> list[ClientRow]:
    """The clients of an account, or of all accounts."""
    with context.database.transaction() as connection:
        return api_keys.list_clients(connection, account_id)


def revoke_client(context: AppContext, client_id: str) -> bool:
    """Revoke a client and its token; False when no active client has this id."""
    with context.database.transaction() as connection:
        return api_keys.revoke_client(connection, client_id, context.clock())


def issue_token(context: AppContext, client_id: str, secret: str) -> Token | None:
    """The client's current token, or a new one when it has none or it has expired; None for a wrong id or secret.

    Compares in constant time, also for an unknown id.
    """
    found = None
    if is_client_id(client_id):
        with context.database.transaction() as connection:
            found = api_keys.find_credentials(connection, client_id)
    is_right = hmac.compare_digest(found.digest if found else _NO_DIGEST, digest_of(secret))
    if found is None or not is_right:
        return None
    return _current_token(context, found, secret) or _new_token(context, client_id, secret)


def _current_token(context: AppContext, credentials: Credentials, secret: str) -> Token | None:
    """The existing token while at least one second is left."""
    if credentials.token_prefix is None or credentials.token_expires_at is None:
        return None
    left = (credentials.token_expires_at - context.clock()) // timedelta(seconds=1)
    return Token(token_of(secret, credentials.token_prefix), left) if left > 0 else None


def _new_token(context: AppContext, client_id: str, secret: str) -> Token | None:
    """A new token; concurrent requests of one client get the same one."""
    with context.database.transaction() as connection:
        credentials = api_keys.find_credentials(connection, client_id, lock=True)
        if credentials is None:
            return None
        current = _current_token(context, credentials, secret)
        if current is not None:
            return current
        prefix = make_token_prefix()
        text, expires_at = token_of(secret, prefix), context.clock() + TOKEN_LIFETIME
        api_keys.set_token(connection, credentials.account_id, client_id, prefix, digest_of(text), expires_at)
    return Token(text, TOKEN_LIFETIME // timedelta(seconds=1))
