"""Encryption at rest of secrets that have to be read again (signing secrets, credentials), with Fernet.

Of several keys, newest first, the first encrypts and all of them decrypt, so that a key can be rotated.
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
        """The encrypted text for the database. Raises SettingsError without a key."""
        return self._require_key().encrypt(text.encode())

    def decrypt(self, stored: bytes) -> str:
        """The text that `encrypt` received. Raises SettingsError without its key."""
        try:
            return self._require_key().decrypt(stored).decode()
        except InvalidToken:
            raise SettingsError(
                "ENCRYPTION_KEY cannot decrypt a stored secret; append the key that was used before, after a comma"
            ) from None

    def rotate(self, stored: bytes) -> bytes:
        """The same secret, encrypted with the first key. Raises SettingsError without its present key."""
        return self.encrypt(self.decrypt(stored))

    def _require_key(self) -> MultiFernet:
        if self._fernet is None:
            raise SettingsError(
                "ENCRYPTION_KEY is not set, and there is no .data/encryption.key; "
                "make one with `signalbox make-encryption-key`"
            )
        return self._fernet


def make_signing_secret() -> str:
    """A new secret for Standard Webhooks signatures: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()
