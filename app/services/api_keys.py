"""Use cases for API keys: create, replace, list, revoke. One transaction each."""

from __future__ import annotations

from datetime import timedelta

from app.core.api_keys import make_key
from app.core.models import Key
from app.db import api_keys
from app.db.api_keys import KeyRow
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
