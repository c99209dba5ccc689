"""What a signature covers: the published examples of providers, URLs, forms, packed bodies and further spellings of texts."""

from __future__ import annotations

import base64
import gzip
import hmac
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator

from app.ingest.sources.delivery_values import DeliveryRequest
from app.ingest.sources.verifier import verify
from app.workflows.sources.schemes import check_scheme, read_scheme
from tests.support.webhook_senders import (
    BODY,
    BY_NAME,
    FORM,
    MAILGUN,
    NOW,
    TWILIO,
    a_delivery,
    base64_mac,
    mac,
    preset_sections,
    scheme_of,
    verify_delivery,
    with_headers,
)


@pytest.mark.parametrize(
    ("section", "secret", "delivery"),
    [
        # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
        (
            preset_sections("github")["verify"],
            "It's a Secret to Everybody",
            a_delivery(
                b"Hello, World!",
                headers={
                    "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
                },
            ),
        ),
        # https://github.com/standard-webhooks/standard-webhooks, its libraries' tests
        (
            {**preset_sections("standard-webhooks")["verify"], "tolerance": "none"},
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            a_delivery(
                b'{"test": 2432232314}',
                headers={
                    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
                    "webhook-timestamp": "1614265330",
                    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
                },
            ),
        ),
        # https://www.twilio.com/docs/usage/security
        (
            TWILIO,
            "12345",
            a_delivery(
                b"Digits=1234&To=%2B18005551212&From=%2B14158675310&Caller=%2B14158675310&CallSid=CA1234567890ABCDE",
                headers={"x-twilio-signature": "L/OH5YylLD5NRKLltdqwSvS0BnU="},
                url="https://example.com/myapp.php?foo=1&bar=2",
                content_type=FORM,
            ),
        ),
    ],
    ids=["GitHub", "Standard Webhooks", "Twilio"],
)
def test_published_examples_are_verified(section: dict[str, Any], secret: str, delivery: DeliveryRequest) -> None:
    assert verify(read_scheme(section), [secret], delivery, NOW).verified


def test_cloudevents_may_send_the_token_in_the_header_or_in_the_url() -> None:
    sender = BY_NAME["cloudevents"]
    assert verify_delivery(sender, a_delivery(headers={"authorization": f"bearer {sender.secret}"})).verified
    url = f"https://events.example.com/hooks/abc?access_token={sender.secret.replace(' ', '%20')}"
    assert verify_delivery(sender, a_delivery(url=url)).verified
    assert not verify_delivery(sender, a_delivery(url=f"{url}x", headers={"authorization": "Bearer x"})).verified
    assert not verify_delivery(sender, a_delivery(headers={"authorization": f"Basic {sender.secret}"})).verified


@pytest.mark.parametrize(
    "url", ["https://events.example.com/hooks/abc", "http://events.example.com:8080/hooks/abc?a=1"]
)
def test_twilio_may_sign_the_url_with_or_without_its_port(url: str) -> None:
    sender = BY_NAME["twilio"]
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    port = ":8080" if ":" in host else ":443"
    for spelled in (f"{scheme}://{host.partition(':')[0]}/{path}", f"{scheme}://{host.partition(':')[0]}{port}/{path}"):
        sent = replace(sender.send(NOW, url=spelled), url=url)
        assert sender.is_accepted_by_library(sent)
        assert verify_delivery(sender, sent).verified
    assert not verify_delivery(sender, replace(sender.send(NOW, url=url), url=f"{url}&x")).verified


def test_the_document_may_say_the_public_scheme_and_host() -> None:
    sender = BY_NAME["twilio"]
    sent = replace(sender.send(NOW), url="http://10.0.0.7:8000/hooks/abc?a=b%20c")
    assert not verify_delivery(sender, sent).verified
    assert verify(scheme_of(sender, public_url="https://events.example.com/"), [sender.secret], sent, NOW).verified


def test_twilio_may_sign_with_a_shared_key_and_sha256() -> None:
    sender = BY_NAME["twilio"]
    fields = {"From": "+14155550100", "Body": "hi"}
    signature = RequestValidator(sender.secret).compute_signature(sender.delivery.url, fields, "HMAC_SHA256")
    sent = a_delivery(urlencode(fields).encode(), url=sender.delivery.url, content_type=FORM)
    scheme = scheme_of(sender, hmac="sha256")
    assert verify(scheme, [sender.secret], with_headers(sent, x_twilio_signature=signature), NOW).verified


def test_a_form_may_repeat_a_field() -> None:
    sender = BY_NAME["twilio"]
    text = f"{sender.delivery.url}Media1Media2Tox"
    sent = a_delivery(b"To=x&Media=2&Media=1&Media=2", url=sender.delivery.url, content_type=FORM)
    signed = with_headers(sent, x_twilio_signature=base64_mac(sender.secret, text.encode(), "sha1"))
    assert verify_delivery(sender, signed).verified


def test_a_body_that_the_signature_of_a_form_does_not_cover_is_refused() -> None:
    sender = BY_NAME["twilio"]
    empty = sender.send(NOW, raw_body=b"", body=b"")
    assert verify_delivery(sender, empty).verified
    forged = replace(empty, raw_body=BODY, body=BODY, headers={**empty.headers, "content-type": "application/json"})
    assert verify_delivery(sender, forged).reason == "the body is not a form, and the URL does not contain its SHA-256"


def test_hubspot_decodes_some_escapes_of_the_url() -> None:
    sender = BY_NAME["hubspot"]
    sent = sender.send(NOW, url="https://events.example.com/hooks/abc?q=a@b:c%20%26")
    assert verify_delivery(sender, replace(sent, url="https://events.example.com/hooks/abc?q=a%40b%3ac%20%26")).verified


@pytest.mark.parametrize(
    ("name", "is_signed_packed"), [("{body}", True), ("{unpacked_body}", False)], ids=["as received", "unpacked"]
)
def test_a_packed_body_is_signed_as_received_or_unpacked(name: str, is_signed_packed: bool) -> None:
    packed = gzip.compress(BODY)
    scheme = read_scheme({"hmac": "sha256", "header": "x-signature", "signed": name})
    for signs_packed in (True, False):
        signature = mac("secret", packed if signs_packed else BODY).hex()
        sent = a_delivery(packed, unpacked=BODY, headers={"x-signature": signature})
        assert verify(scheme, ["secret"], sent, NOW).verified is (signs_packed is is_signed_packed)


def test_headers_and_the_method_may_be_signed() -> None:
    section = {"hmac": "sha512", "encoding": "base64url", "query": "sig", "signed": "{method} {header:X-Tenant} {body}"}
    signature = base64.urlsafe_b64encode(hmac.digest(b"secret", b"POST t-1 " + BODY, "sha512")).decode()
    sent = a_delivery(headers={"x-tenant": "t-1"}, url=f"https://events.example.com/hooks/abc?sig={signature}")
    assert check_scheme(section) == []
    assert verify(read_scheme(section), ["secret"], sent, NOW).verified
    assert not verify(read_scheme(section), ["secret"], with_headers(sent, x_tenant="t-2"), NOW).verified


@pytest.mark.parametrize(
    ("secret_encoding", "secret"),
    [("hex", b"\x00\xffkey".hex()), ("base64", base64.b64encode(b"\x00\xffkey").decode())],
)
def test_a_secret_may_be_encoded(secret_encoding: str, secret: str) -> None:
    scheme = read_scheme({"hmac": "sha256", "header": "x-signature", "secret_encoding": secret_encoding})
    sent = a_delivery(headers={"x-signature": mac(b"\x00\xffkey", BODY).hex()})
    assert verify(scheme, [secret], sent, NOW).verified


@pytest.mark.parametrize(
    "text", ["2026-11-29T06:00:00Z", "2026-11-29T11:30:00.000+05:30", "1795932000", "1795932000000"]
)
def test_a_timestamp_may_be_seconds_milliseconds_or_rfc_3339(text: str) -> None:
    section = {"hmac": "sha256", "header": "x-s", "timestamp": {"header": "x-t"}, "signed": "{timestamp}.{body}"}
    sent = a_delivery(headers={"x-t": text, "x-s": mac("secret", text.encode() + b"." + BODY).hex()})
    at = datetime(2026, 11, 29, 6, 0, 0, tzinfo=UTC)
    assert verify(read_scheme(section), ["secret"], sent, at + timedelta(minutes=5)).verified
    assert not verify(read_scheme(section), ["secret"], sent, at + timedelta(minutes=5, seconds=1)).verified


@pytest.mark.parametrize("text", ["yesterday", "-1", "1e9", "9" * 30, "2026-11-29T06:00:00", "٣"])
def test_another_timestamp_is_refused(text: str) -> None:
    section = {
        "hmac": "sha256",
        "body": "s",
        "timestamp": {"body": "t"},
        "token": {"body": "t"},
        "signed": "{timestamp}{token}",
    }
    body = f'{{"t": "{text}", "s": "{mac("secret", (text + text).encode()).hex()}"}}'.encode()
    verdict = verify(read_scheme(section), ["secret"], a_delivery(body), NOW)
    assert verdict.reason == "the timestamp is neither a number of seconds or milliseconds nor a time with an offset"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"signature": "x"}', b'{"signature": {"signature": true}}']
)
def test_a_body_without_its_signature_is_refused(body: bytes) -> None:
    verdict = verify(read_scheme(MAILGUN), ["secret"], a_delivery(body), NOW)
    assert not verdict.verified
    assert verdict.reason.endswith(("is missing", "neither JSON nor a form"))
