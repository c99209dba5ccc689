"""API keys and access tokens: how one is made, and how the one in a request is verified against the copy of its account.

A key reads `sb_` + 8 characters of public prefix + `_` + 43 random characters (256 bits). Kept are the prefix and the
SHA-256 of the whole: with that much randomness a slow hash would protect nothing more. An access token is a key that a
client gets for its secret, `sbt_` + 12 characters + `_` + 43; these 43 are made of the prefix with the client's secret, of
which only the hash is kept, so that the client can be told the same token again and nobody else can.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Mapping
from datetime import datetime

from app.core.errors import Problem, ProblemType
from app.core.models import Key

_SHAPE = re.compile(r"(?:sb_([0-9A-Za-z]{8})|sbt_([0-9A-Za-z]{12}))_[0-9A-Za-z_-]{43}")
_CLIENT_ID = re.compile(r"cl_[0-9A-Za-z]{16}")
_LETTERS = string.ascii_letters + string.digits


def make_key() -> tuple[str, str, bytes]:
    """A new key as (the key itself, its prefix, its SHA-256 digest)."""
    prefix = _letters(8)
    key = f"sb_{prefix}_{secrets.token_urlsafe(32)}"
    return key, prefix, digest_of(key)


def make_client() -> tuple[str, str, bytes]:
    """A new client as (its id, its secret, the secret's SHA-256 digest)."""
    secret = f"cs_{secrets.token_urlsafe(32)}"
    return f"cl_{_letters(16)}", secret, digest_of(secret)


def is_client_id(text: str) -> bool:
    """Whether something looks like a client's id."""
    return _CLIENT_ID.fullmatch(text) is not None


def make_token_prefix() -> str:
    """The prefix of a new access token."""
    return _letters(12)


def token_of(secret: str, prefix: str) -> str:
    """The access token with this prefix of the client that has this secret."""
    rest = hmac.digest(secret.encode(), f"access token {prefix}".encode(), "sha256")
    return f"sbt_{prefix}_{base64.urlsafe_b64encode(rest).decode().rstrip('=')}"


def _letters(count: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


def digest_of(key: str) -> bytes:
    """What is kept of a key or secret."""
    return hashlib.sha256(key.encode()).digest()


def prefix_of(text: str) -> str:
    """The public prefix of something that looks like a key or token; empty when it does not."""
    match = _SHAPE.fullmatch(text)
    return match[1] or match[2] if match else ""


def verify_key(text: str, prefix: str, keys: Mapping[str, Key], now: datetime) -> Key | None:
    """The key in force that `text`, with its `prefix`, is; None when it is unknown, expired or revoked. Compares in
    constant time."""
    key = keys.get(prefix)
    if key is None or not hmac.compare_digest(key.digest, digest_of(text)):
        return None
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        return None
    return key


def unauthorized() -> Problem:
    """The one answer to a key that is missing, unknown, expired or revoked."""
    return Problem(
        ProblemType.INVALID_API_KEY,
        "The API key is missing or not valid. Send a key of this account in the header x-limechat-uat.",
        headers={"WWW-Authenticate": 'ApiKey realm="signalbox"'},
    )
