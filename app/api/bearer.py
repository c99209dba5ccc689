"""Callers that send an API key or access token as `Authorization: Bearer`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from flask import request

from app.api import observation
from app.api.current import extension
from app.api.responses import request_id
from app.api.sender import MAX_SNAPSHOT_AGE
from app.core.api_keys import prefix_of, verify_key
from app.core.errors import Problem
from app.core.models import Actor, Key
from app.ingest.account_cache import Account, AccountCache
from app.services.context import AppContext

_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller: the account, and the verified key or token."""

    account: Account
    key: Key

    @property
    def actor(self) -> Actor:
        """The OAuth client or the API key, for the audit log."""
        return Actor(self.key.client_id or f"sb_{self.key.prefix}", "http", request_id())


def bearer_token() -> str | None:
    """The Bearer token of the request; None without one."""
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    return None if match is None else match[1]


def find_account(token: str | None, unauthorized: Callable[[], Problem]) -> Account:
    """The account with this key or token, by a snapshot that is at most two seconds old. The token itself is not verified yet.
    Raises `unauthorized`, LookupLimit, Unavailable."""
    accounts: AccountCache = extension("accounts")
    account = accounts.find_by_key(prefix_of(token)) if token else None
    account = account and accounts.refresh(account, max_age=MAX_SNAPSHOT_AGE)
    if account is None:
        raise unauthorized()
    observation.note_account(account.snapshot.id)
    return account


def verify(token: str, account: Account, unauthorized: Callable[[], Problem]) -> Key:
    """The key that the token is. Raises `unauthorized`."""
    context: AppContext = extension("context")
    key = verify_key(token, prefix_of(token), account.snapshot.keys, context.clock())
    if key is None:
        raise unauthorized()
    return key


def record_use(key: Key) -> None:
    """Store when the key was used."""
    accounts: AccountCache = extension("accounts")
    accounts.record_key_use(key.prefix)
