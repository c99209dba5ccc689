"""API keys and access tokens: creation, and verification against an account snapshot.

A key is `sb_`, a public prefix of 8 characters, `_`, 43 random characters (256 bits), and 6 characters of checksum (the CRC-32
of what precedes them, as base64url), so that a mistyped key costs no query. Keys of earlier releases have no checksum. The
database has the prefix and the SHA-256 of the whole key; with that much randomness a slow hash would not protect better.

An access token is issued to an OAuth client for its secret: `sbt_`, a prefix of 12 characters, `_`, and 43 characters computed
from the prefix and the client's secret. Only the hash of that secret is stored, so that nobody but the client can get the same
token again.

The token of a source is a key in a URL: 10 characters of prefix, 48 random ones and 6 of checksum, without anything between them.
They are of 32 letters and digits: without k, l, r and s a token has none of the letter pairs that a provider forbids in URLs (sr,
kr, and names with them).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from app.core.errors import Problem, ProblemType
from app.core.models import Key

_SHAPE = re.compile(
    r"(?:sb_([0-9A-Za-z]{8})_[0-9A-Za-z_-]{43}([0-9A-Za-z_-]{6})?|sbt_([0-9A-Za-z]{12})_[0-9A-Za-z_-]{43})"
)
_SOURCE_LETTERS = "abcdefghijmnopqtuvwxyz0123456789"
_SOURCE_PREFIX, _SOURCE_RANDOM = 10, 48
_SOURCE_TOKEN = re.compile(rf"[{_SOURCE_LETTERS}]{{64}}")
_CLIENT_ID = re.compile(r"cl_[0-9A-Za-z]{16}")
_TOKEN_PREFIX = 12
_LETTERS = string.ascii_letters + string.digits


def make_key() -> tuple[str, str, bytes]:
    """A new key as (the key itself, its prefix, its SHA-256 digest)."""
    prefix = _letters(8)
    key = f"sb_{prefix}_{secrets.token_urlsafe(32)}"
    key += _checksum(key)
    return key, prefix, digest_of(key)


def make_source_token() -> tuple[str, str, bytes]:
    """A new token of a source as (the token itself, its prefix, its SHA-256 digest)."""
    text = "".join(secrets.choice(_SOURCE_LETTERS) for _ in range(_SOURCE_PREFIX + _SOURCE_RANDOM))
    token = text + _source_checksum(text)
    return token, token[:_SOURCE_PREFIX], digest_of(token)


def source_prefix_of(text: str) -> str:
    """The public prefix of a token of a source; empty for any other text, also for a token with a wrong checksum."""
    is_token = _SOURCE_TOKEN.fullmatch(text) is not None and text[-6:] == _source_checksum(text[:-6])
    return text[:_SOURCE_PREFIX] if is_token else ""


def _source_checksum(text: str) -> str:
    """30 bits of the CRC-32, five to a character."""
    number = binascii.crc32(text.encode())
    return "".join(_SOURCE_LETTERS[number >> shift & 31] for shift in range(0, 30, 5))


def make_client() -> tuple[str, str, bytes]:
    """A new client as (its id, its secret, the secret's SHA-256 digest)."""
    secret = f"cs_{secrets.token_urlsafe(32)}"
    return f"cl_{_letters(16)}", secret, digest_of(secret)


def is_client_id(text: str) -> bool:
    """Whether text has the shape of a client id."""
    return _CLIENT_ID.fullmatch(text) is not None


def make_token_prefix() -> str:
    """The prefix of a new access token."""
    return _letters(_TOKEN_PREFIX)


def token_of(secret: str, prefix: str) -> str:
    """The access token with this prefix, of the client with this secret."""
    rest = hmac.digest(secret.encode(), f"access token {prefix}".encode(), "sha256")
    return f"sbt_{prefix}_{base64.urlsafe_b64encode(rest).decode().rstrip('=')}"


def _checksum(text: str) -> str:
    return base64.urlsafe_b64encode(binascii.crc32(text.encode()).to_bytes(4, "big"))[:6].decode()


def _letters(count: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(count))


def digest_of(key: str) -> bytes:
    """The stored hash of a key or secret."""
    return hashlib.sha256(key.encode()).digest()


class SentKey(NamedTuple):
    """An API key or access token as it is sent, and its public prefix."""

    text: str
    prefix: str


def prefix_of(text: str) -> str:
    """The public prefix of a key or token; empty for any other text, also for a key with a wrong checksum."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        return source_prefix_of(text)
    prefix, checksum, token_prefix = match.groups()
    if checksum is not None and checksum != _checksum(text[:-6]):
        return ""
    return prefix or token_prefix


def shown_prefix(prefix: str) -> str:
    """How the key or the access token with this prefix begins: `sb_PREFIX` or `sbt_PREFIX`."""
    return f"sbt_{prefix}" if len(prefix) == _TOKEN_PREFIX else f"sb_{prefix}"


def read_prefix(text: str) -> str:
    """The prefix of a key or an access token that is given as the prefix, `sb_PREFIX_…` or the whole key."""
    return text.removeprefix("sbt_").removeprefix("sb_").split("_")[0]


def verify_key(text: str, prefix: str, keys: Mapping[str, Key], now: datetime) -> Key | None:
    """The key that `text` is (`prefix`: its prefix); None when it is unknown (which revoked keys are) or expired. Compares in
    constant time."""
    key = keys.get(prefix)
    if key is None or not hmac.compare_digest(key.digest, digest_of(text)):
        return None
    if key.expires_at is not None and key.expires_at <= now:
        return None
    return key


def unauthorized() -> Problem:
    """The 401 for a key that is missing, unknown, expired or revoked."""
    return Problem(
        ProblemType.INVALID_API_KEY,
        "The API key is missing or invalid. Send a key of this account in the header x-limechat-uat.",
        headers={"WWW-Authenticate": 'ApiKey realm="signalbox"'},
    )
