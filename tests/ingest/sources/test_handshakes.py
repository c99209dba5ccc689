"""Requests by which providers test a URL."""

from __future__ import annotations

import tracemalloc
from typing import Any
from urllib.parse import urlencode

import pytest

from app.ingest.sources.delivery_values import DeliveryRequest
from app.ingest.sources.handshakes import HandshakeAnswer, answer_handshake
from app.workflows.sources.handshakes import check_handshake, read_handshake
from tests.support.webhook_senders import FORM, a_delivery, preset_sections

WHATSAPP = read_handshake(preset_sections("whatsapp")["handshake"])
CLOUDEVENTS = read_handshake(preset_sections("cloudevents")["handshake"])
SLACK_SECTION = {
    "method": "POST",
    "when": {"body": "type", "equals": "url_verification"},
    "challenge": {"body": "challenge"},
}
SLACK = read_handshake(SLACK_SECTION)


def _whatsapp(method: str = "GET", **changes: str) -> DeliveryRequest:
    query = {"hub.mode": "subscribe", "hub.verify_token": "my tøken", "hub.challenge": "1158201444", **changes}
    return a_delivery(b"", method=method, url=f"https://events.example.com/hooks/abc?{urlencode(query)}")


def test_whatsapp_gets_its_challenge_for_the_verify_token() -> None:
    assert answer_handshake(WHATSAPP, "my tøken", _whatsapp()) == HandshakeAnswer(200, "1158201444")


@pytest.mark.parametrize("token", ["my tøke", "my tøkenx", "", "MY TØKEN"])
def test_another_verify_token_is_forbidden(token: str) -> None:
    answer = answer_handshake(WHATSAPP, "my tøken", _whatsapp(**{"hub.verify_token": token}))
    assert answer == HandshakeAnswer(
        403, reason="the query parameter hub.verify_token is not the source's verify_token"
    )


@pytest.mark.parametrize("verify_token", [None, "", " "])
def test_without_a_verify_token_every_handshake_that_has_one_is_forbidden(verify_token: str | None) -> None:
    for sent in ("", " ", "my tøken"):
        answer = answer_handshake(WHATSAPP, verify_token, _whatsapp(**{"hub.verify_token": sent}))
        assert answer == HandshakeAnswer(403, reason="the source has no verify_token")


@pytest.mark.parametrize(
    "request_",
    [
        a_delivery(b"", method="GET"),
        _whatsapp("HEAD"),
        _whatsapp("POST"),
        _whatsapp(**{"hub.mode": "unsubscribe"}),
        _whatsapp(**{"hub.challenge": ""}),
        _whatsapp(**{"hub.challenge": "x" * 5_000}),
    ],
    ids=["no query", "HEAD", "POST", "another mode", "no challenge", "a huge challenge"],
)
def test_another_request_is_no_handshake_of_whatsapp(request_: DeliveryRequest) -> None:
    assert answer_handshake(WHATSAPP, "my tøken", request_) is None


@pytest.mark.parametrize(("rate", "allowed"), [(None, "*"), (1_000, "60000"), (0.01, "1")])
def test_a_sender_of_cloudevents_is_allowed_with_the_rate_of_the_account(rate: float | None, allowed: str) -> None:
    headers = {"webhook-request-origin": "eventemitter.example.com", "webhook-request-rate": "120"}
    answer = answer_handshake(CLOUDEVENTS, None, a_delivery(b"", method="OPTIONS", headers=headers), rate)
    assert answer is not None
    assert answer.status == 200
    assert answer.headers == {
        "WebHook-Allowed-Origin": "eventemitter.example.com",
        "WebHook-Allowed-Rate": allowed,
        "Allow": "POST",
    }


@pytest.mark.parametrize("origin", ["", "two words", "é.example.com", "x" * 256, "a\r\nb"])
def test_options_without_a_usable_origin_allow_nothing(origin: str) -> None:
    request = a_delivery(b"", method="OPTIONS", headers={"webhook-request-origin": origin})
    assert answer_handshake(CLOUDEVENTS, None, request) is None


def test_slack_gets_its_challenge() -> None:
    body = b'{"token": "x", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P", "type": "url_verification"}'
    answer = answer_handshake(SLACK, None, a_delivery(body))
    assert answer == HandshakeAnswer(200, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"type": "event_callback", "challenge": "x"}', b'{"type": "url_verification"}']
)
def test_another_delivery_of_slack_is_no_handshake(body: bytes) -> None:
    assert answer_handshake(SLACK, None, a_delivery(body)) is None
    assert answer_handshake(SLACK, None, a_delivery(body, content_type=FORM)) is None


def test_without_a_section_nothing_is_a_handshake() -> None:
    assert read_handshake(None) is None
    assert read_handshake("none") is None
    assert answer_handshake(None, None, _whatsapp()) is None


@pytest.mark.parametrize(
    "section",
    ["none", SLACK_SECTION, preset_sections("whatsapp")["handshake"], preset_sections("cloudevents")["handshake"]],
)
def test_a_section_without_mistakes(section: Any) -> None:
    assert check_handshake(section) == []


@pytest.mark.parametrize(
    ("section", "path", "message"),
    [
        (5, "handshake", "must be none, or have method and challenge"),
        ({"challenge": {"query": "c"}}, "handshake.method", "must be one of GET, OPTIONS, POST"),
        ({"method": "GET"}, "handshake", "must have either challenge"),
        (
            {"method": "GET", "challenge": {"query": "c"}, "allow_origin": True},
            "handshake",
            "must have either challenge",
        ),
        ({"method": "GET", "challenge": "c"}, "handshake.challenge", "must have one of header, query, body"),
        (
            {"method": "GET", "challenge": {"query": "c"}, "when": {"query": "m"}},
            "handshake.when.equals",
            "must be text",
        ),
        ({"method": "GET", "challenge": {"query": "c"}, "reply": 1}, "handshake.reply", "is unknown; it has method"),
    ],
)
def test_a_mistake_in_a_section_has_its_path(section: Any, path: str, message: str) -> None:
    ((found, text),) = check_handshake(section)
    assert found == path
    assert text.startswith(message)


def test_a_large_body_is_read_only_on_the_way_to_the_challenge() -> None:
    body = b'{"type": "url_verification", "list": [' + b",".join([b"[]"] * 300_000) + b'], "challenge": 7}'
    tracemalloc.start()
    answer = answer_handshake(SLACK, None, a_delivery(body))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer == HandshakeAnswer(200, "7")
    assert peak < 1_000_000


def test_a_byte_order_mark_before_a_challenge_is_skipped() -> None:
    body = b'\xef\xbb\xbf{"type": "url_verification", "challenge": "a"}'
    assert answer_handshake(SLACK, None, a_delivery(body)) == HandshakeAnswer(200, "a")
