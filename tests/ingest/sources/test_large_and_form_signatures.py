"""Signatures over large bodies, which are read in pieces, and in the fields of forms."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.ingest.sources import verifier
from app.ingest.sources.delivery_values import PIECE, DeliveryRequest
from app.ingest.sources.verifier import MAX_SIGNATURES, Verdict, verify
from app.workflows.sources.schemes import read_scheme
from tests.core.test_forms import TYPE, a_form, a_part

NOW = datetime(2026, 11, 29, 5, 0, tzinfo=UTC)
LARGE = bytes(range(256)) * (2 * PIECE // 256) + b"the end"
MAILGUN = {
    "hmac": "sha256",
    "body": "signature",
    "timestamp": {"body": "timestamp"},
    "token": {"body": "token"},
    "signed": "{timestamp}{token}",
}


def verdict(scheme: Mapping[str, Any], secret: str, body: bytes, **headers: str) -> Verdict:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = DeliveryRequest("POST", "https://events.example.com/hooks/x", fields, body, body)
    return verify(read_scheme(scheme), [secret], request, NOW)


@pytest.mark.parametrize("body", [LARGE[:PIECE], LARGE[: PIECE + 1], LARGE], ids=["one", "one and a byte", "three"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "sha512", "md5"])
def test_a_body_of_several_pieces_is_verified_as_a_whole(algorithm: str, body: bytes) -> None:
    scheme = {"hmac": algorithm, "header": "x-signature"}
    signature = hmac.digest(b"secret", body, algorithm).hex()
    assert verdict(scheme, "secret", body, x_signature=signature).verified
    for position in (0, PIECE - 1, -1):
        changed = bytearray(body)
        changed[position] ^= 1
        assert not verdict(scheme, "secret", bytes(changed), x_signature=signature).verified


@pytest.mark.parametrize("size", [10, 3 * PIECE])
def test_a_body_of_several_pieces_is_verified_by_a_public_key(size: int) -> None:
    key, body = ec.generate_private_key(ec.SECP256R1()), LARGE[:1] * size
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    scheme = {"ecdsa": "sha256", "header": "x-signature"}
    signature = base64.b64encode(key.sign(body, ec.ECDSA(hashes.SHA256()))).decode()
    assert verdict(scheme, public.decode(), body, x_signature=signature).verified
    assert not verdict(scheme, public.decode(), body + b"1", x_signature=signature).verified


def a_public_key(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def test_signatures_that_are_verified_by_public_keys_are_few_and_other_requests_run_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(verifier, "pause_if_due", lambda: pauses.append(1))
    keys = [ec.generate_private_key(ec.SECP521R1()) for _ in range(5)]
    altered = base64.b64encode(keys[0].sign(b"another", ec.ECDSA(hashes.SHA512()))).decode()
    scheme = read_scheme({"ecdsa": "sha512", "header": "x-signature", "separator": " "})
    headers = {"x-signature": " ".join([altered] * 50)}
    request = DeliveryRequest("POST", "https://events.example.com/hooks/x", headers, b"body", b"body")
    charged: list[float] = []
    found = verify(scheme, [a_public_key(key) for key in keys], request, NOW, charged.append)
    assert not found.verified
    assert len(pauses) == MAX_SIGNATURES
    # Units of 0.1 µs: at least a millisecond for each.
    assert sum(charged) >= 10_000 * MAX_SIGNATURES


def test_hashing_a_body_counts_towards_the_share_of_the_account() -> None:
    scheme = read_scheme({"hmac": "sha256", "header": "x-signature"})
    request = DeliveryRequest("POST", "https://events.example.com/hooks/x", {"x-signature": "00"}, LARGE, LARGE)
    charged: list[float] = []
    assert not verify(scheme, ["one", "another"], request, NOW, charged.append).verified
    assert len(charged) == 2
    assert min(charged) > len(LARGE) / 100


def test_a_signature_may_be_in_the_parts_of_a_form() -> None:
    timestamp, token = str(int(NOW.timestamp())), "a-token"
    signature = hmac.digest(b"key", (timestamp + token).encode(), "sha256").hex()

    def mail(token: str) -> bytes:
        fields = {"timestamp": timestamp, "token": token, "signature": signature, "subject": "Tea"}
        parts = [a_part(name, value.encode()) for name, value in fields.items()]
        return a_form(*parts, a_part("attachment-1", b"x" * 100_000, filename="a.pdf"))

    found = verdict(MAILGUN, "key", mail(token), content_type=TYPE)
    assert (found.verified, found.token) == (True, token)
    assert not verdict(MAILGUN, "key", mail("another"), content_type=TYPE).verified
    assert "it ends before" in verdict(MAILGUN, "key", mail(token)[:-10], content_type=TYPE).reason
