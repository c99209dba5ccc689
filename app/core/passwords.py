"""Passwords of users: Argon2id, by argon2-cffi with its defaults (RFC 9106, low memory)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from app.core.pacing import is_gevent_patched

T = TypeVar("T")

# Characters. NIST SP 800-63B asks for at least 8, and for a maximum of at least 64.
MIN_LENGTH, MAX_LENGTH = 10, 200
# A generated password: four groups of four letters, 74 bits.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_hasher = PasswordHasher()


def make_password() -> str:
    """A random password that people can type."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(4))


def find_fault(password: str) -> str | None:
    """Why a password cannot be used, or None."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        return f"has {len(password)} characters; {MIN_LENGTH} to {MAX_LENGTH} are allowed"
    return None


def hash_password(password: str) -> str:
    """The hash to store. Takes about 50 ms of CPU, not on the event loop."""
    return _off_loop(_hasher.hash, password)


def verify_password(stored: str | None, password: str) -> bool:
    """Whether a password belongs to a stored hash; False for None, after the time that a wrong password takes."""
    return _off_loop(_verify, stored or _nobodys_hash(), password) and stored is not None


def needs_rehash(stored: str) -> bool:
    """Whether a hash has other parameters than new ones."""
    return _hasher.check_needs_rehash(stored)


@cache
def _nobodys_hash() -> str:
    return _hasher.hash(secrets.token_urlsafe(16))


def _verify(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (Argon2Error, InvalidHashError):
        return False


def _off_loop(function: Callable[..., T], *arguments: str) -> T:
    """Call a function in a thread where greenlets share the process: the library releases the interpreter's lock."""
    if not is_gevent_patched():
        return function(*arguments)
    import gevent

    result: T = gevent.get_hub().threadpool.apply(function, arguments)
    return result
