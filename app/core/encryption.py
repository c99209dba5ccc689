"""Secrets that have to be read back (signing secrets, credentials), encrypted at rest with Fernet.

Comes in: the deployer's keys, newest first; the first encrypts, all of them decrypt, so that a key can be rotated.
"""

from __future__ import annotations

import base64
import os

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.core.config import SettingsError


class Secrets:
    """Encrypts and decrypts with the keys of ENCRYPTION_KEY."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None

    def encrypt(self, text: str) -> bytes:
        """`text` as it may lie in the database; raises SettingsError without a key."""
        return self._with_a_key().encrypt(text.encode())

    def decrypt(self, stored: bytes) -> str:
        """What `encrypt` was given; raises SettingsError without the key that it was encrypted with."""
        try:
            return self._with_a_key().decrypt(stored).decode()
        except InvalidToken:
            raise SettingsError(
                "ENCRYPTION_KEY does not open what is in the database; add the key that was used before, after a comma"
            ) from None

    def rotate(self, stored: bytes) -> bytes:
        """The same secret, encrypted with the first key; raises SettingsError without the key that it is encrypted with."""
        return self.encrypt(self.decrypt(stored))

    def _with_a_key(self) -> MultiFernet:
        if self._fernet is None:
            raise SettingsError(
                "ENCRYPTION_KEY is not set, and there is no .data/encryption.key; "
                "make one with `flask make-encryption-key`"
            )
        return self._fernet


def make_signing_secret() -> str:
    """A new secret for Standard Webhooks signatures: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()
