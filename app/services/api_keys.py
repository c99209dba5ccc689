"""Creates, lists and revokes API keys, OAuth clients and access tokens. `issue_token` uses up to two transactions."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.core.api_keys import digest_of, is_client_id, make_client, make_key, make_token_prefix, token_of
from app.core.errors import Problem, ProblemType
from app.core.models import ACCOUNT_MANAGE, ACCOUNT_SCOPES, CLIENT_SCOPES, SCOPES, Key
from app.core.printable import is_printable
from app.db import api_keys
from app.db.api_keys import Client, ClientRow, KeyRow, TokenRow
from app.db.audit import Change
from app.services import audit
from app.services.context import AppContext

# Characters of a name.
_MAX_NAME = 255


def _check_name(name: str) -> None:
    if len(name) > _MAX_NAME or not is_printable(name):
        raise Problem(ProblemType.VALIDATION_FAILED, f"the name must be at most {_MAX_NAME} printable characters")


def create_key(
    context: AppContext,
    account_id: int,
    name: str,
    scopes: tuple[str, ...],
    lifetime: timedelta | None = None,
    latest_end: datetime | None = None,
) -> str:
    """Create a key, which ends at `latest_end` at the latest; the key itself, which cannot be shown again. Raises Problem
    422 for an invalid name."""
    _check_name(name)
    now = context.clock()
    text, prefix, digest = make_key()
    ends = [end for end in (None if lifetime is None else now + lifetime, latest_end) if end is not None]
    key = Key(prefix, digest, scopes, min(ends, default=None))
    with context.database.transaction() as connection:
        api_keys.insert_key(connection, account_id, key, name, now)
        after = {"name": name, "scopes": scopes, "expires_at": key.expires_at}
        audit.record(connection, context, Change("key.create", account_id, _shown(prefix), None, after))
    return text


def granted(key: Key) -> frozenset[str]:
    """The scopes of the management API that a key has: ACCOUNT_MANAGE stands for all but OPERATOR. That of a client's token is
    for the CxEngage routes and grants nothing here."""
    scopes = frozenset(key.scopes)
    if key.client_id is not None:
        return scopes - {ACCOUNT_MANAGE}
    return scopes | (frozenset(ACCOUNT_SCOPES) if ACCOUNT_MANAGE in scopes else frozenset())


def _shown(prefix: str) -> str:
    """A key as the audit log names it."""
    return f"sb_{prefix}"


def replace_keys_named(context: AppContext, account_id: int, name: str, scopes: tuple[str, ...]) -> str:
    """Revoke all keys with this name and create a new one; the key itself."""
    now = context.clock()
    text, prefix, digest = make_key()
    with context.database.transaction() as connection:
        api_keys.revoke_keys_named(connection, account_id, name, now)
        api_keys.insert_key(connection, account_id, Key(prefix, digest, scopes, None), name, now)
        after = {"name": name, "scopes": scopes}
        audit.record(connection, context, Change("key.replace", account_id, _shown(prefix), None, after))
    return text


def list_keys(
    context: AppContext, account_id: int | None, *, after: str | None = None, limit: int | None = None
) -> list[KeyRow]:
    """Keys of an account, or of all accounts: those after the prefix `after`, at most `limit` (None: all)."""
    with context.database.transaction() as connection:
        return api_keys.list_keys(connection, account_id, after, limit)


def find_key(context: AppContext, account_id: int, prefix: str) -> KeyRow:
    """A key of an account, also a revoked one. Raises Problem 404."""
    with context.database.transaction() as connection:
        found = api_keys.find_key(connection, account_id, prefix)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"there is no key {prefix!r}")
    return found


def revoke_key(context: AppContext, prefix: str, owner: int | None = None) -> bool:
    """Revoke a key of the account `owner` (None: of any); False when there is no unrevoked key with this prefix."""
    now = context.clock()
    with context.database.transaction() as connection:
        account_id = api_keys.revoke_key(connection, prefix, now, owner)
        if account_id is not None:
            change = Change("key.revoke", account_id, _shown(prefix), {"revoked_at": None}, {"revoked_at": now})
            audit.record(connection, context, change)
    return account_id is not None


TOKEN_LIFETIME = timedelta(days=30)
# Compared with when no client has the id.
_NO_DIGEST = digest_of("")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the whole seconds until it expires."""

    text: str
    seconds_left: int


def create_client(
    context: AppContext, account_id: int, name: str, scopes: tuple[str, ...] = CLIENT_SCOPES
) -> tuple[str, str]:
    """Create a client whose tokens have at most these scopes; returns its id and its secret, which is not stored."""
    _check_name(name)
    client_id, secret, digest = make_client()
    client = Client(account_id, client_id, digest, in_order(scopes))
    with context.database.transaction() as connection:
        api_keys.insert_client(connection, client, name, context.clock())
        after = {"name": name, "scopes": client.scopes}
        audit.record(connection, context, Change("client.create", account_id, client_id, None, after))
    return client_id, secret


def list_clients(
    context: AppContext, account_id: int | None, *, after: str | None = None, limit: int | None = None
) -> list[ClientRow]:
    """Clients of an account, or of all accounts: those after the id `after`, at most `limit` (None: all)."""
    with context.database.transaction() as connection:
        return api_keys.list_clients(connection, account_id, after, limit)


def find_client(context: AppContext, account_id: int, client_id: str) -> ClientRow:
    """A client of an account, also a revoked one. Raises Problem 404."""
    with context.database.transaction() as connection:
        found = api_keys.find_client_row(connection, account_id, client_id)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"there is no client {client_id!r}")
    return found


def revoke_client(context: AppContext, client_id: str) -> bool:
    """Revoke a client and its tokens; False when no active client has this id."""
    now = context.clock()
    with context.database.transaction() as connection:
        account_id = api_keys.revoke_client(connection, client_id, now)
        if account_id is not None:
            change = Change("client.revoke", account_id, client_id, {"revoked_at": None}, {"revoked_at": now})
            audit.record(connection, context, change)
    return account_id is not None


def authenticate_client(context: AppContext, client_id: str, secret: str) -> Client | None:
    """The client with this id and secret. Compares in constant time, also for an unknown id. Raises LookupLimit, Unavailable."""
    found = None
    if is_client_id(client_id):
        context.limits.client_lookups.spend(client_id)
        with context.database.transaction() as connection:
            found = api_keys.find_client(connection, client_id)
    is_right = hmac.compare_digest(found.digest if found else _NO_DIGEST, digest_of(secret))
    if found is None or not is_right:
        return None
    context.limits.client_lookups.refund()
    return found


def issue_token(context: AppContext, client: Client, secret: str, scopes: Collection[str]) -> Token | None:
    """The client's current token with these scopes, all of which the client has; a new one when it has none or it has
    expired. None when the client has been revoked."""
    wanted = in_order(scopes)
    with context.database.transaction() as connection:
        current = _current_token(context, api_keys.find_token(connection, client, wanted), secret)
    return current or _new_token(context, client, secret, wanted)


def in_order(scopes: Collection[str]) -> tuple[str, ...]:
    """The scopes in the order of SCOPES."""
    return tuple(scope for scope in SCOPES if scope in scopes)


def _current_token(context: AppContext, row: TokenRow | None, secret: str) -> Token | None:
    """The existing token while at least one second is left."""
    if row is None:
        return None
    left = (row.expires_at - context.clock()) // timedelta(seconds=1)
    return Token(token_of(secret, row.prefix), left) if left > 0 else None


def _new_token(context: AppContext, client: Client, secret: str, scopes: tuple[str, ...]) -> Token | None:
    """A new token; concurrent requests of one client get the same one."""
    with context.database.transaction() as connection:
        if api_keys.find_client(connection, client.id, lock=True) is None:
            return None
        current = _current_token(context, api_keys.find_token(connection, client, scopes), secret)
        if current is not None:
            return current
        row = TokenRow(make_token_prefix(), context.clock() + TOKEN_LIFETIME)
        text = token_of(secret, row.prefix)
        api_keys.set_token(connection, client, scopes, row, digest_of(text))
    return Token(text, TOKEN_LIFETIME // timedelta(seconds=1))
