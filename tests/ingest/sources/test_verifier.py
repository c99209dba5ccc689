"""The verifier against the providers' own libraries, and against wrong, late, early and repeated deliveries."""

from __future__ import annotations

import base64
import gc
import re
import string
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ingest.sources.verifier import Verdict, verify
from app.workflows.sources.schemes import check_scheme, read_scheme
from tests.support.webhook_senders import (
    BY_NAME,
    FORM,
    NOW,
    SENDERS,
    WebhookSender,
    a_delivery,
    scheme_of,
    verify_delivery,
    with_headers,
)


def _some(senders: list[WebhookSender]) -> Any:
    return pytest.mark.parametrize("sender", senders, ids=lambda sender: sender.name)


def _has_timestamp(sender: WebhookSender) -> bool:
    return "timestamp" in {**sender.section, **sender.section.get("fields", {})}


each_sender = _some(SENDERS)
each_library = _some([sender for sender in SENDERS if sender.library])
each_with_timestamp = _some([sender for sender in SENDERS if _has_timestamp(sender)])
each_that_signs_bodies = _some(
    [one for one in SENDERS if {"hmac", "ecdsa"} & one.section.keys() and "token" not in one.section]
)
each_with_secrets = _some([sender for sender in SENDERS if sender.name != "sendgrid"])


def _tolerance(sender: WebhookSender) -> timedelta:
    scheme = scheme_of(sender)
    assert scheme is not None
    assert scheme.tolerance is not None
    return timedelta(seconds=scheme.tolerance)


def _flip(text: str) -> Iterator[str]:
    """The text with one bit flipped: at each position, the lowest and the second bit."""
    for index, character in enumerate(text):
        for bit in (1, 2):
            yield text[:index] + chr(ord(character) ^ bit) + text[index + 1 :]


def _flip_bytes(body: bytes) -> Iterator[bytes]:
    return (text.encode("latin-1") for text in _flip(body.decode("latin-1")))


@each_sender
def test_a_section_has_no_mistakes(sender: WebhookSender) -> None:
    assert check_scheme(sender.section) == []


@each_sender
def test_a_signed_delivery_is_verified(sender: WebhookSender) -> None:
    verdict = verify_delivery(sender, sender.send(NOW))
    assert (verdict.verified, verdict.reason, verdict.secret_index) == (True, "", 0)


@each_library
def test_the_library_of_a_provider_agrees(sender: WebhookSender) -> None:
    # Libraries look at the clock themselves.
    assert sender.is_accepted_by_library(sender.send(datetime.now(UTC).replace(microsecond=0)))


@each_sender
def test_a_delivery_without_a_signature_is_not_verified(sender: WebhookSender) -> None:
    verdict = verify_delivery(sender, sender.delivery)
    assert not verdict.verified
    assert verdict.reason.endswith("is missing"), verdict.reason


@each_sender
def test_one_flipped_bit_in_a_header_is_refused(sender: WebhookSender) -> None:
    sent = sender.send(NOW)
    altered = [
        with_headers(sent, **{name: text})
        for name in sent.headers
        if name != "content-type"
        for text in _flip(sent.headers[name])
    ]
    assert [delivery.headers for delivery in altered if verify_delivery(sender, delivery).verified] == []


@each_that_signs_bodies
def test_one_flipped_bit_in_the_body_is_refused(sender: WebhookSender) -> None:
    sent = sender.send(NOW)
    altered = [replace(sent, raw_body=body, body=body) for body in _flip_bytes(sent.raw_body)]
    assert [delivery.body for delivery in altered if verify_delivery(sender, delivery).verified] == []


@each_that_signs_bodies
def test_a_shorter_or_longer_body_is_refused(sender: WebhookSender) -> None:
    sent = sender.send(NOW)
    for body in (b"", sent.raw_body[:-1], sent.raw_body + b"\n", b"\xef\xbb\xbf" + sent.raw_body):
        assert not verify_delivery(sender, replace(sent, raw_body=body, body=body)).verified


@each_with_secrets
def test_one_flipped_bit_in_the_secret_is_refused(sender: WebhookSender) -> None:
    sent, prefix = sender.send(NOW), sender.section.get("secret_prefix", "")
    for secret in _flip(sender.secret.removeprefix(prefix)):
        assert not verify_delivery(sender, sent, prefix + secret).verified


@each_library
def test_what_a_library_refuses_is_refused(sender: WebhookSender) -> None:
    sent = sender.send(NOW)
    bodies = list(_flip_bytes(sent.raw_body))[::7]
    altered = [replace(sent, raw_body=body, body=body) for body in bodies]
    altered += [
        with_headers(sent, **{name: text}) for name in sent.headers for text in list(_flip(sent.headers[name]))[::5]
    ]
    refused = [delivery for delivery in altered if not sender.is_accepted_by_library(delivery)]
    assert len(refused) > len(altered) // 2
    # A header that is not signed, such as Content-Type, may change what the library sees of the body, and not the signature.
    signed = [delivery for delivery in refused if delivery.headers["content-type"] == sent.headers["content-type"]]
    assert [delivery for delivery in signed if verify_delivery(sender, delivery).verified] == []


@each_with_timestamp
def test_a_delivery_within_the_tolerance_is_verified(sender: WebhookSender) -> None:
    for now in (NOW - _tolerance(sender), NOW + _tolerance(sender)):
        assert verify_delivery(sender, sender.send(NOW), now=now).verified


@each_with_timestamp
def test_a_late_delivery_is_refused(sender: WebhookSender) -> None:
    verdict = verify_delivery(sender, sender.send(NOW), now=NOW + _tolerance(sender) + timedelta(seconds=1))
    assert not verdict.verified
    assert "old, the tolerance is" in verdict.reason


@each_with_timestamp
def test_an_early_delivery_is_refused(sender: WebhookSender) -> None:
    verdict = verify_delivery(sender, sender.send(NOW), now=NOW - _tolerance(sender) - timedelta(seconds=1))
    assert not verdict.verified
    assert "in the future, the tolerance is" in verdict.reason


@each_with_timestamp
def test_the_tolerance_is_what_the_document_says(sender: WebhookSender) -> None:
    sent, later = sender.send(NOW), NOW + timedelta(days=2)
    assert verify(scheme_of(sender, tolerance="2d"), [sender.secret], sent, later).verified
    assert verify(scheme_of(sender, tolerance="none"), [sender.secret], sent, NOW + timedelta(days=400)).verified
    assert not verify(scheme_of(sender, tolerance="47h"), [sender.secret], sent, later).verified


def test_a_forged_delivery_is_refused_for_its_signature_and_not_for_its_time() -> None:
    sender = BY_NAME["stripe"]
    verdict = verify_delivery(sender, sender.send(NOW), "another secret", now=NOW + timedelta(days=1))
    assert verdict.reason == "the signature does not match (secrets tried: 1)"


@each_with_secrets
def test_a_delivery_with_the_old_secret_is_verified_during_a_rotation(sender: WebhookSender) -> None:
    prefix = sender.section.get("secret_prefix", "")
    new = prefix + base64.b64encode(b"a new secret").decode()
    verdict = verify_delivery(sender, sender.send(NOW), new, sender.secret)
    assert (verdict.verified, verdict.secret_index) == (True, 1)
    assert not verify_delivery(sender, sender.send(NOW), new).verified


@pytest.mark.parametrize("name", ["standard-webhooks", "svix", "stripe", "calendly", "paddle"])
def test_one_right_signature_of_several_is_enough(name: str) -> None:
    sender = BY_NAME[name]
    old, new = sender.send(NOW), replace(sender, secret="whsec_bmV3IHNlY3JldCBvZiB0aGlz").send(NOW)
    (header,) = [field for field in old.headers if field.endswith("signature")]
    separator = sender.section.get("separator", ",")
    signature = new.headers[header].rpartition(separator)[2]
    delivery = with_headers(old, **{header: f"{old.headers[header]}{separator}{signature}"})
    assert verify_delivery(sender, delivery).verified
    assert verify_delivery(sender, delivery, "whsec_bmV3IHNlY3JldCBvZiB0aGlz").verified
    assert not verify_delivery(sender, delivery, "whsec_YW5vdGhlciBzZWNyZXQ=").verified


def test_a_signature_of_another_version_does_not_count() -> None:
    sender = BY_NAME["standard-webhooks"]
    sent = sender.send(NOW)
    signature = sent.headers["webhook-signature"]
    assert not verify_delivery(sender, with_headers(sent, webhook_signature=signature.replace("v1,", "v2,"))).verified
    assert verify_delivery(sender, with_headers(sent, webhook_signature=f"v1a,AAAA {signature}")).verified


def test_a_repeated_delivery_is_verified_again_and_has_the_same_token() -> None:
    sender = BY_NAME["mailgun"]
    verdicts = [verify_delivery(sender, sender.send(NOW)) for _ in range(2)]
    assert verdicts == [Verdict(True, token="token-of-50-characters", secret_index=0)] * 2


@pytest.mark.parametrize("name", ["mailgun", "mailgun, form"])
def test_the_values_that_mailgun_signs_are_covered(name: str) -> None:
    sender = BY_NAME[name]
    sent = sender.send(NOW)
    body = sent.body.decode()
    for value in (str(int(NOW.timestamp())), "token-of-50-characters"):
        for altered in _flip(value):
            changed = body.replace(value, altered, 1).encode()
            assert not verify_delivery(sender, replace(sent, raw_body=changed, body=changed)).verified


@pytest.mark.parametrize("secret", ["", " ", "\n"])
@each_sender
def test_an_empty_secret_matches_nothing(sender: WebhookSender, secret: str) -> None:
    verdict = verify_delivery(sender, sender.send(NOW), secret)
    assert (verdict.verified, verdict.is_misconfigured) == (False, True)
    assert verdict.reason.startswith("no secret of the source is ")


def test_an_empty_secret_beside_a_good_one_does_no_harm() -> None:
    sender = BY_NAME["github"]
    assert verify_delivery(sender, sender.send(NOW), "", sender.secret).secret_index == 1
    assert not verify_delivery(sender, replace(sender, secret="").send(NOW), "", sender.secret).verified


@pytest.mark.parametrize(
    ("name", "secret", "expected"),
    [
        ("github", " ", "more than white space"),
        ("standard-webhooks", "whsec_é", "base64"),
        ("standard-webhooks", "whsec_a", "base64"),
        ("sendgrid", "no key", "the public key of an elliptic curve"),
        ("sendgrid", "AAAA", "the public key of an elliptic curve"),
    ],
)
def test_the_reason_says_what_a_secret_has_to_be(name: str, secret: str, expected: str) -> None:
    verdict = verify_delivery(BY_NAME[name], BY_NAME[name].send(NOW), secret)
    assert verdict == Verdict(False, f"no secret of the source is {expected}", is_misconfigured=True)


def test_a_public_key_may_be_written_as_pem() -> None:
    sender = BY_NAME["sendgrid"]
    pem = f"-----BEGIN PUBLIC KEY-----\n{sender.secret[:64]}\n{sender.secret[64:]}\n-----END PUBLIC KEY-----\n"
    assert verify_delivery(sender, sender.send(NOW), pem).verified


def test_a_signature_by_a_private_key_has_one_spelling_in_base64() -> None:
    name, alphabet = "x-twilio-email-event-webhook-signature", string.ascii_letters + string.digits + "+/"
    sender = BY_NAME["sendgrid"]
    # The last character of a text with padding has bits that do not count.
    sent = next(one for one in iter(lambda: sender.send(NOW), None) if one.headers[name].endswith("="))
    text = sent.headers[name].rstrip("=")
    value = base64.b64decode(sent.headers[name])
    others = [text[:-1] + last for last in alphabet if last != text[-1]]
    same = [other for other in others if base64.b64decode(other + "==") == value]
    assert same
    for other in same:
        assert not verify_delivery(sender, with_headers(sent, **{name: other})).verified
    assert verify_delivery(sender, with_headers(sent, **{name: text})).verified


def test_hex_may_be_in_upper_case_and_base64_without_padding_or_for_urls() -> None:
    github, shopify = BY_NAME["github"], BY_NAME["shopify"]
    sent = github.send(NOW)
    upper = sent.headers["x-hub-signature-256"].upper()
    assert verify_delivery(github, with_headers(sent, x_hub_signature_256=upper)).verified
    sent = shopify.send(NOW)
    signature = sent.headers["x-shopify-hmac-sha256"]
    for spelled in (signature.rstrip("="), signature.replace("+", "-").replace("/", "_")):
        assert verify_delivery(shopify, with_headers(sent, x_shopify_hmac_sha256=spelled)).verified


@pytest.mark.parametrize(
    "signature", ["", " ", "sha256", "sha256=", "sha256=é", "=" * 5_000, "\x00", "sha256=ÿ\xff,\t"]
)
@each_sender
def test_a_malformed_header_is_refused_with_a_reason(sender: WebhookSender, signature: str) -> None:
    sent = sender.send(NOW)
    for name in [name for name in sent.headers if name != "content-type"]:
        verdict = verify_delivery(sender, with_headers(sent, **{name: signature}))
        assert (verdict.verified, bool(verdict.reason)) == (False, True)


def test_a_header_of_separators_alone_has_no_signature() -> None:
    scheme = read_scheme({"hmac": "sha256", "header": "x-signature", "separator": ","})
    verdict = verify(scheme, ["a secret"], a_delivery(headers={"x-signature": ",,"}), NOW)
    assert verdict.reason == "the header x-signature has no signature"


_texts = st.text(st.characters(max_codepoint=255), max_size=40)


@given(
    index=st.integers(0, len(SENDERS) - 1),
    header=_texts | _texts.map(lambda text: f"t=1,v1={text}") | _texts.map(lambda text: f"v1,{text} v1,{text}"),
    body=st.binary(max_size=60) | st.just(b'{"signature": [1]}') | st.just(b"[" * 100_000),
    query=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    content_type=st.sampled_from(["application/json", FORM, "", "ÿ;"]),
)
def test_nothing_that_is_sent_raises(index: int, header: str, body: bytes, query: str, content_type: str) -> None:
    sender = SENDERS[index]
    headers = dict.fromkeys([*sender.send(NOW).headers], header) | {"content-type": content_type}
    delivery = a_delivery(body, headers=headers, content_type=content_type, url=f"https://example.com/hooks/a?{query}")
    verdict = verify_delivery(sender, delivery)
    assert not verdict.verified
    assert verdict.reason


def _called(function: Callable[[], object]) -> list[str]:
    """The names of all that a function calls, in C, too."""
    calls = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            calls.append(frame.f_code.co_name if event == "call" else argument.__name__)

    # Hypothesis has a callback for the garbage collector.
    gc.disable()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def test_a_wrong_delivery_costs_one_hmac_for_each_secret() -> None:
    sender = BY_NAME["github"]
    delivery = replace(sender.send(NOW), raw_body=b"{}")
    calls = _called(lambda: verify_delivery(sender, delivery, "one", "two", "three"))
    assert calls.count("hmac_digest") == 3


def test_a_delivery_without_its_header_costs_no_hmac() -> None:
    sender = BY_NAME["github"]
    assert "hmac_digest" not in _called(lambda: verify_delivery(sender, sender.delivery))


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("github", "x-hub-signature-256"),
        ("shopify", "x-shopify-hmac-sha256"),
        ("stripe", "stripe-signature"),
        ("standard-webhooks", "webhook-signature"),
        ("shiprocket", "x-api-key"),
        ("basic", "authorization"),
    ],
)
def test_the_work_does_not_tell_where_a_signature_is_wrong(name: str, header: str) -> None:
    sender = BY_NAME[name]
    sent = sender.send(NOW)
    value = sent.headers[header].rstrip("=")
    start = len(value) - len(re.split("[=, ]", value)[-1])

    def call(position: int) -> list[str]:
        other = "a" if value[position] != "a" else "b"
        altered = with_headers(sent, **{header: value[:position] + other + value[position:][1:]})
        return _called(lambda: verify_delivery(sender, altered))

    assert call(start) == call(len(value) - 1)
    assert "compare_digest" in call(start)


def test_without_a_scheme_the_url_is_the_proof() -> None:
    assert read_scheme("none") is None
    assert verify(None, [], a_delivery(), NOW) == Verdict(True)
