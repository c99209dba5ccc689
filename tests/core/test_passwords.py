"""The hashes of passwords, with the parameters of the product: other tests use cheaper ones (tests/conftest.py)."""

from __future__ import annotations

import subprocess
import sys

from tests.support.server import ROOT

_PROGRAM = """
from app.core.passwords import hash_password, needs_rehash, verify_password
stored = hash_password("correct horse battery")
print(stored, verify_password(stored, "correct horse battery"), verify_password(stored, "another"), needs_rehash(stored))
"""


def test_passwords_are_hashed_by_argon2id_with_the_parameters_of_rfc_9106() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    stored, *results = done.stdout.split()
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert results == ["True", "False", "False"]
