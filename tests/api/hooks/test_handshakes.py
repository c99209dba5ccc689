"""Requests by which providers test the URL of a source, over HTTP; and signatures that cover the URL."""

from __future__ import annotations

import http.client
import json
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from slack_sdk.signature import SignatureVerifier
from twilio.request_validator import RequestValidator

from app.services.context import AppContext
from bench.servers import nginx
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_sender
from tests.support.certificates import a_certificate
from tests.support.server import Server
from tests.support.sources import a_source
from tests.support.webhook_senders import FORM, TWILIO, preset_sections

SECRET = "the secret of a provider"
SLACK = {
    "verify": {
        "hmac": "sha256",
        "header": "X-Slack-Signature",
        "prefix": "v0=",
        "timestamp": {"header": "X-Slack-Request-Timestamp"},
        "signed": "v0:{timestamp}:{body}",
    },
    "handshake": {
        "method": "POST",
        "when": {"body": "type", "equals": "url_verification"},
        "challenge": {"body": "challenge"},
    },
}


@pytest.fixture
def whatsapp(context: AppContext, server: Server, acme: Sender) -> str:
    """The path of a source for WhatsApp."""
    return _path(context, server, acme, **preset_sections("whatsapp"), verify_token="my tøken")


def _path(context: AppContext, server: Server, account: Sender, **sections: Any) -> str:
    mapping = {"event": "'sms'", "distinct_id": "body.who", "dedupe": "body.id"}
    changes = {"secrets": [SECRET], "events": ..., "map": mapping, **sections}
    return f"/hooks/{a_source(context, server, account.account_id, **changes).token}"


def _challenge(path: str, **changes: str) -> str:
    query = {"hub.mode": "subscribe", "hub.verify_token": "my tøken", "hub.challenge": "1158201444", **changes}
    return f"{path}?{urlencode(query)}"


def test_whatsapp_gets_its_challenge_as_text(server: Server, whatsapp: str) -> None:
    answer = server.open(_challenge(whatsapp))
    assert (answer.status_code, answer.text) == (200, "1158201444")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_another_verify_token_is_forbidden(server: Server, whatsapp: str) -> None:
    answer = server.open(_challenge(whatsapp, **{"hub.verify_token": "guessed"}))
    assert (answer.status_code, "1158201444" in answer.text) == (403, False)
    assert answer.json["detail"] == (
        "The handshake is refused: the query parameter hub.verify_token is not the source's verify_token."
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_request_without_a_handshake_says_that_the_url_exists(server: Server, whatsapp: str, method: str) -> None:
    answer = server.open(whatsapp, method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (200, "POST, GET, HEAD, OPTIONS")
    mistyped = whatsapp[:-1] + ("x" if whatsapp[-1] != "x" else "y")
    assert server.open(mistyped, method=method).status_code == 404


def test_a_sender_of_cloudevents_is_allowed(context: AppContext, server: Server, acme: Sender) -> None:
    path = _path(context, server, acme, **preset_sections("cloudevents"))
    headers = {"WebHook-Request-Origin": "eventemitter.example.com", "WebHook-Request-Rate": "120"}
    answer = server.open(path, method="OPTIONS", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["WebHook-Allowed-Origin"] == "eventemitter.example.com"
    assert answer.headers["WebHook-Allowed-Rate"] == "*"
    assert answer.headers["Allow"] == "POST"


def test_the_allowed_rate_is_that_of_the_plan(context: AppContext, server: Server) -> None:
    path = _path(context, server, a_sender(context, server, "acme", "trial"), **preset_sections("cloudevents"))
    answer = server.open(path, method="OPTIONS", headers={"WebHook-Request-Origin": "eventemitter.example.com"})
    assert answer.headers["WebHook-Allowed-Rate"] == "6000"


def _from_slack(body: dict[str, Any], secret: str = SECRET) -> dict[str, Any]:
    raw, at = json.dumps(body).encode(), str(int(datetime.now(UTC).timestamp()))
    signature = str(SignatureVerifier(secret).generate_signature(timestamp=at, body=raw))
    headers = {
        "Content-Type": "application/json",
        "X-Slack-Signature": signature,
        "X-Slack-Request-Timestamp": at,
    }
    return {"data": raw, "headers": headers}


def test_slack_gets_its_challenge_and_nothing_is_stored(
    context: AppContext, server: Server, acme: Sender, rows: Rows
) -> None:
    path = _path(context, server, acme, **SLACK)
    answer = server.post(path, **_from_slack({"type": "url_verification", "challenge": "3eZbrw1a"}))
    assert (answer.status_code, answer.text) == (200, "3eZbrw1a")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert rows("SELECT count(*) FROM deliveries WHERE account_id = %s", acme.account_id) == [(0,)]


def test_a_challenge_that_slack_did_not_sign_is_not_answered(context: AppContext, server: Server, acme: Sender) -> None:
    path = _path(context, server, acme, **SLACK)
    answer = server.post(path, **_from_slack({"type": "url_verification", "challenge": "3eZbrw1a"}, "another"))
    assert (answer.status_code, "3eZbrw1a" in answer.text) == (401, False)


def test_a_delivery_of_slack_is_stored(context: AppContext, server: Server, acme: Sender) -> None:
    path = _path(context, server, acme, **SLACK)
    answer = server.post(path, **_from_slack({"type": "event_callback", "who": "U1", "id": "Ev1"}))
    assert (answer.status_code, answer.json["result"]) == (200, "accepted")


# Twilio signs the URL that it calls.

_FIELDS = {"who": "+14155550100", "id": "SM1", "Body": "Olá & bye"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user of nginx may read, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _from_twilio(url: str) -> dict[str, Any]:
    signature = RequestValidator(SECRET).compute_signature(url, _FIELDS)
    return {"body": urlencode(_FIELDS).encode(), "headers": {"Content-Type": FORM, "X-Twilio-Signature": signature}}


def test_twilio_signs_the_public_url_behind_nginx(
    context: AppContext, server: Server, acme: Sender, folder: Path
) -> None:
    path = f"{_path(context, server, acme, verify=TWILIO)}?shop=b%20c"
    certificate = a_certificate(folder)
    trust = ssl.create_default_context(cafile=str(certificate))
    with nginx(folder, server.port, certificate=certificate) as port:

        def post(url: str) -> tuple[int, Any]:
            sent = _from_twilio(url)
            with closing(http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=20)) as connection:
                connection.request("POST", path, sent["body"], {**sent["headers"], "Host": "events.example.com"})
                answer = connection.getresponse()
                return answer.status, json.load(answer).get("result")

        assert post(f"https://events.example.com{path}") == (200, "accepted")
        assert post(f"https://events.example.com:443{path}") == (200, "duplicate")
        assert post(f"http://events.example.com{path}") == (401, None)


def test_a_document_may_say_the_public_url(context: AppContext, server: Server, acme: Sender) -> None:
    section = {**TWILIO, "public_url": "https://events.example.com"}
    path = _path(context, server, acme, verify=section)
    sent = _from_twilio(f"https://events.example.com{path}")
    assert server.post(path, data=sent["body"], headers=sent["headers"]).status_code == 200
    sent = _from_twilio(f"http://127.0.0.1:{server.port}{path}")
    assert server.post(path, data=sent["body"], headers=sent["headers"]).status_code == 401
