"""Verifies deliveries: signatures by HMAC or ECDSA, shared secrets, Basic authentication, as a `Scheme` describes it.

Pure: the same delivery, secrets and time have the same verdict. Secrets and signatures are compared in constant time. A
delivery costs one HMAC for each secret, or two where the signed text contains the URL; or as many digests, and at most
MAX_SIGNATURES verifications with public keys. Other requests run between them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import Struct

from app.core.durations import format_duration
from app.core.event_times import read_event_time
from app.core.pacing import pause_if_due
from app.ingest.sources.delivery_values import (
    DeliveryRequest,
    DeliveryValues,
    NotVerified,
    in_pieces,
    without_prefix,
)
from app.workflows.sources.schemes import Location, Part, Scheme

# Signatures of one delivery that are compared.
MAX_SIGNATURES = 10
# Units of work: to hash a byte, and to verify a signature with a public key (1 to 3 ms on a curve of 512 bits).
_BYTE_UNITS, _PUBLIC_KEY_UNITS = 0.02, 20_000
# Bytes that are hashed at once.
_SHORT = 16 * 1024
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_URL = re.compile(r"(?P<scheme>https?)://(?P<host>[^/?#]*?)(?P<port>:\d{1,5})?(?P<rest>[/?#].*)?")
_PEM = re.compile(r"-----[A-Z ]+-----|\s")
# The escapes that HubSpot decodes before it signs a URL.
_DECODED = re.compile("%(3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)


class Verdict(Struct, frozen=True):
    """Whether a delivery is verified, and if not why (without secrets).

    `token`: a text that the sender uses only once, where the scheme has one. It has to be stored: another delivery with it is
    a duplicate. `secret_index`: the secret that matched. `is_misconfigured`: no delivery can be verified, since the source has no
    usable secret.
    """

    verified: bool
    reason: str = ""
    token: str | None = None
    secret_index: int | None = None
    is_misconfigured: bool = False


def verify(
    scheme: Scheme | None,
    secrets: Sequence[str],
    request: DeliveryRequest,
    now: datetime,
    charge: Callable[[float], object] = lambda units: None,
) -> Verdict:
    """The verdict about a delivery. Never raises. Without a scheme, the URL is the proof. `charge` is called
    with the units of work that signatures take."""
    if scheme is None:
        return Verdict(True)
    keys = {index: key for index, secret in enumerate(secrets) if (key := read_key(scheme, secret))}
    if not keys:
        return Verdict(False, f"no secret of the source is {_describe_key(scheme)}", is_misconfigured=True)
    delivery = DeliveryValues(request)
    try:
        if scheme.kind in ("hmac", "ecdsa"):
            return _verify_signature(scheme, keys, delivery, now, charge)
        return _verify_shared(scheme, keys, delivery)
    except NotVerified as exc:
        return Verdict(False, str(exc))


def read_key(scheme: Scheme, secret: str) -> Any:
    """What a secret is compared or verified with; None if it is empty or cannot be read."""
    text = secret.removeprefix(scheme.key_prefix)
    if not text.strip():
        return None
    try:
        if scheme.kind == "ecdsa":
            return _load_public_key(text)
        if scheme.kind == "basic":
            return base64.b64encode(f"{scheme.user}:{text}".encode()).rstrip(b"=")
        if scheme.key_encoding == "base64":
            return _decode(text.strip().encode(), "base64")
        return bytes.fromhex(text) if scheme.key_encoding == "hex" else text.encode()
    except ValueError:
        return None


def _describe_key(scheme: Scheme) -> str:
    if scheme.kind == "ecdsa":
        return "the public key of an elliptic curve"
    return {"text": "more than white space", "base64": "base64", "hex": "hexadecimal"}[scheme.key_encoding]


@lru_cache(maxsize=256)
def _load_public_key(text: str) -> ec.EllipticCurvePublicKey | None:
    """A public key from PEM, or from base64 alone; None if it is not one of an elliptic curve."""
    try:
        key = load_der_public_key(_decode(_PEM.sub("", text).encode(), "base64"))
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


def _verify_shared(scheme: Scheme, keys: Mapping[int, bytes], delivery: DeliveryValues) -> Verdict:
    sent = [value for location in scheme.locations if (value := delivery.find(location)) is not None]
    if not sent:
        raise NotVerified(f"{' or '.join(map(str, scheme.locations))} is missing")
    if scheme.kind == "basic":
        sent = [value.rstrip(b"=") for value in sent]
    for index, key in keys.items():
        if any(hmac.compare_digest(value, key) for value in sent):
            return Verdict(True, secret_index=index)
    raise NotVerified(f"{' or '.join(map(str, scheme.locations))} is not the secret")


def _verify_signature(
    scheme: Scheme,
    keys: Mapping[int, Any],
    delivery: DeliveryValues,
    now: datetime,
    charge: Callable[[float], object],
) -> Verdict:
    values, signatures = _read_values(scheme, delivery)
    texts = list(signed_texts(scheme, delivery, values))
    is_valid: Callable[[Scheme, Any, bytes, Sequence[bytes]], bool] = _is_hmac
    units = 0
    if scheme.kind == "ecdsa":
        signatures = signatures[: max(1, MAX_SIGNATURES // (len(keys) * len(texts)))]
        is_valid, units = _is_signed, _PUBLIC_KEY_UNITS * len(signatures)
    for index, key in keys.items():
        charge(sum(units + _BYTE_UNITS * len(text) for text in texts))
        if any(is_valid(scheme, key, text, signatures) for text in texts):
            if "timestamp" in values:
                _check_timestamp(values["timestamp"], scheme.tolerance, now)
            token = values.get("token")
            return Verdict(True, token=None if token is None else token.decode(errors="replace"), secret_index=index)
    raise NotVerified(f"the signature does not match (secrets tried: {len(keys)})")


def make_hmac(scheme: Scheme, key: bytes, text: bytes) -> str:
    """The signature of a text as a sender writes it."""
    digest = hmac.digest(key, text, scheme.algorithm)
    if scheme.encoding == "hex":
        return digest.hex()
    encode = base64.urlsafe_b64encode if scheme.encoding == "base64url" else base64.b64encode
    return encode(digest).decode()


def _is_hmac(scheme: Scheme, key: bytes, text: bytes, signatures: Sequence[bytes]) -> bool:
    if len(text) <= _SHORT:
        digest = hmac.digest(key, text, scheme.algorithm)
    else:
        digest = in_pieces(hmac.new(key, digestmod=scheme.algorithm), text).digest()
    expected = _encode(digest, scheme.encoding)
    return any(hmac.compare_digest(_normalize(signature, scheme.encoding), expected) for signature in signatures)


def _is_signed(scheme: Scheme, key: ec.EllipticCurvePublicKey, text: bytes, signatures: Sequence[bytes]) -> bool:
    algorithm = _HASHES[scheme.algorithm]()
    digest = in_pieces(hashlib.new(scheme.algorithm), text).digest()
    for signature in signatures:
        pause_if_due()
        try:
            found = _decode(signature, scheme.encoding)
            key.verify(found, digest, ec.ECDSA(Prehashed(algorithm)))
        except (InvalidSignature, ValueError):
            continue
        # The last character of base64 may have bits that do not count; a signature has one spelling only.
        return _encode(found, scheme.encoding) == _normalize(signature, scheme.encoding)
    return False


def _encode(signature: bytes, encoding: str) -> bytes:
    return _normalize(signature.hex().encode() if encoding == "hex" else base64.b64encode(signature), encoding)


def _normalize(text: bytes, encoding: str) -> bytes:
    """A signature in one spelling: hex in lower case; base64 with its usual alphabet and without padding."""
    return text.lower() if encoding == "hex" else text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")


def _decode(text: bytes, encoding: str) -> bytes:
    """The bytes that a text stands for. Raises ValueError."""
    if encoding == "hex":
        return binascii.unhexlify(text)
    text = _normalize(text, encoding)
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _read_values(scheme: Scheme, delivery: DeliveryValues) -> tuple[dict[str, bytes], list[bytes]]:
    """Timestamp, id and token where the scheme has them, and the signatures."""
    sent = delivery.find_first(scheme.locations)
    values: dict[str, bytes] = {}
    if scheme.field_names:
        fields = [piece.strip().partition(b"=") for piece in sent.split((scheme.separator or ",").encode())]
        for value_name, name in scheme.field_names.items():
            found = [value for key, _, value in fields if key == name.encode()]
            if not found:
                raise NotVerified(f"{scheme.locations[0]} has no field {name}")
            values[value_name] = found[0]
        signatures = [value for key, _, value in fields if key == scheme.field_names["signature"].encode()]
    else:
        pieces = sent.split(scheme.separator.encode()) if scheme.separator else [sent]
        signatures = [value for piece in pieces if (value := without_prefix(piece.strip(), scheme.prefix))]
        if not signatures:
            fault = f"does not begin with {scheme.prefix}" if scheme.prefix else "has no signature"
            raise NotVerified(f"{scheme.locations[0]} {fault}")
    for value_name, locations in (scheme.values or {}).items():
        values[value_name] = delivery.find_first(locations)
    return values, signatures[:MAX_SIGNATURES]


def signed_texts(scheme: Scheme, delivery: DeliveryValues, values: Mapping[str, bytes]) -> Iterator[bytes]:
    """What may have been signed: one text, or two where it contains the URL (see `_spell_url`). Raises NotVerified."""
    has_url = any(part.kind in ("url", "decoded_url") for part in scheme.signed)
    for url in _spell_url(delivery.request.url, scheme.public_url) if has_url else [""]:
        yield b"".join([_signed_part(part, scheme, delivery, values, url) for part in scheme.signed])


def _signed_part(part: Part, scheme: Scheme, delivery: DeliveryValues, values: Mapping[str, bytes], url: str) -> bytes:
    request = delivery.request
    match part.kind:
        case "text":
            return part.value.encode()
        case "body":
            return request.raw_body
        case "unpacked_body":
            return delivery.body
        case "method":
            return request.method.encode()
        case "url":
            return url.encode()
        case "decoded_url":
            return _DECODED.sub(lambda escape: chr(int(escape[1], 16)), url).encode()
        case "form":
            return delivery.sign_form(scheme.body_hash)
        case "header":
            return delivery.find_first((Location("header", part.value),))
    return values[part.kind]


def _spell_url(url: str, public_url: str | None) -> list[str]:
    """The URL without and with its port: senders differ in whether they sign the usual port of a scheme."""
    match = _URL.fullmatch(url)
    base = _URL.fullmatch(public_url) if public_url else match
    if not match or not base:
        raise NotVerified("the URL of the request is not one of http or https")
    port = base["port"] or (":80" if base["scheme"] == "http" else ":443")
    return [f"{base['scheme']}://{base['host']}{spelled}{match['rest'] or ''}" for spelled in ("", port)]


def _check_timestamp(text: bytes, tolerance: float | None, now: datetime) -> None:
    if tolerance is None:
        return
    sent_at = read_event_time(text.decode("latin-1"))
    if sent_at is None:
        raise NotVerified("the timestamp is neither a number of seconds or milliseconds nor a time with an offset")
    age = now - sent_at
    if abs(age).total_seconds() > tolerance:
        late = f"{format_duration(abs(age))} {'old' if age > timedelta() else 'in the future'}"
        raise NotVerified(f"the timestamp is {late}, the tolerance is {format_duration(timedelta(seconds=tolerance))}")
