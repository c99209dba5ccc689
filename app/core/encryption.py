"""Encryption at rest of secrets that have to be read again (signing secrets, credentials), with Fernet.

Of several keys, newest first, the first encrypts and all of them decrypt, so that a key can be rotated.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

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

    def check(self, stored: Sequence[bytes]) -> int:
        """How many of these stored secrets no key decrypts. Raises SettingsError when that is all of them, or without a key."""
        failed = 0
        for secret in stored:
            try:
                self.decrypt(secret)
            except SettingsError:
                self._require_key()
                failed += 1
        if stored and failed == len(stored):
            raise SettingsError("ENCRYPTION_KEY is not the key with which the secrets in the database are encrypted")
        return failed

    def check_key(self) -> None:
        """Raises SettingsError without a key."""
        self._require_key()

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
