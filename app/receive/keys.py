"""API keys: how one is made, and how the one in a request is verified against the copy of its account.

A key reads `sb_` + 8 characters of public prefix + `_` + 43 random characters (256 bits). Kept are the prefix and the
SHA-256 of the whole: with that much randomness a slow hash would protect nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Mapping
from datetime import datetime

from app.words import Key, Problem

_SHAPE = re.compile(r"sb_([0-9A-Za-z]{8})_[0-9A-Za-z_-]{43}")
_LETTERS = string.ascii_letters + string.digits


def make_key() -> tuple[str, str, bytes]:
    """A new key as (the key itself, its prefix, its SHA-256 digest)."""
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(8))
    key = f"sb_{prefix}_{secrets.token_urlsafe(32)}"
    return key, prefix, digest_of(key)


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).digest()


def prefix_of(text: str) -> str | None:
    """The public prefix of something that looks like a key; None when it does not."""
    match = _SHAPE.fullmatch(text)
    return match[1] if match else None


def verify_key(text: str, keys: Mapping[str, Key], now: datetime) -> Key | None:
    """The key in force that `text` is; None when it is unknown, expired or revoked. Compares in constant time."""
    key = keys.get(prefix_of(text) or "")
    if key is None or not hmac.compare_digest(key.digest, digest_of(text)):
        return None
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        return None
    return key


def unauthorized() -> Problem:
    """The one answer to a key that is missing, unknown, expired or revoked."""
    return Problem(
        401,
        "Key required",
        "The API key is missing or not valid. Send a key of this account in the header x-limechat-uat.",
        headers={"WWW-Authenticate": 'ApiKey realm="signalbox"'},
    )
