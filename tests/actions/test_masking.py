"""Secrets of requests are masked wherever they would be stored, also where an answer repeats them; other values stay."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from app.actions import http
from app.actions.masking import Secrets, add_form
from app.core.models import Outcome
from tests.support.action_contexts import a_run, an_event, perform, the_settings
from tests.support.http_target import Answer, Call, an_http_target
from tests.support.providers import AUTH_TOKEN, TWILIO

SECRET = 'pa55/wörd+&"<x>'
AS_JSON = (("Content-Type", "application/json"),)


def echoed(fields: dict[str, Any], *, status: int = 200, path: str = "/hook", **changes: Any) -> Outcome:
    """The outcome of a call to a server that sends back everything that it received, in an answer and in a header."""

    def answer(call: Call) -> Answer:
        body = json.dumps({"path": call.path, "headers": dict(call.headers), "body": call.body.decode()})
        return Answer(status, body.encode(), (*AS_JSON, ("X-Authorization", call.headers.get("Authorization", "-"))))

    with an_http_target() as server:
        server.answer = answer
        return perform({"http": {"url": server.url + path, **fields}}, **changes)


def stored(outcome: Outcome) -> str:
    """Everything that is stored of an outcome."""
    return repr((outcome.error, outcome.output, outcome.request, outcome.response))


@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"headers": {"Authorization": "Bearer hush-hush-hush"}}, "hush-hush-hush"),
        ({"headers": {"Authorization": "Bearer hush"}}, "hush"),
        ({"headers": {"X-Api-Key": "hush-hush-hush"}}, "hush-hush-hush"),
        ({"headers": {"Cookie": "session=hush-hush; theme=darkly"}}, "hush-hush"),
        ({"headers": {"Authorization": "Basic " + base64.b64encode(b"jane:hush-hush").decode()}}, "hush-hush"),
        (
            {"headers": {"Authorization": "Basic " + base64.b64encode(b"jane:hush-hush").decode()}},
            "amFuZTpodXNoLWh1c2g",
        ),
        ({"path": "/hook?api_key=hush%2Fhush%2F1&to=me"}, "hush%2Fhush%2F1"),
        ({"json": {"user": {"password": "hush-hush", "name": "Jane"}}}, "hush-hush"),
        ({"json": [{"client_secret": ["hush-hush-1", "hush-hush-2"]}]}, "hush-hush"),
        ({"json": {"user": {"password": 98765432}}}, "98765432"),
        ({"json": {"user": {"auth_token": [{"id": 87654321}]}}}, "87654321"),
        (
            {"body": "grant=x&password=hush-hush", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
            "hush-hush",
        ),
        ({"path": "/bot123456:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/send"}, "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"),
        ({"path": "/services/T0ABC/B0ABC/XyZ123abcDEF456"}, "XyZ123abcDEF456"),
        ({"path": "/triggers/T0ABC/123456/abcdefgh12345678"}, "abcdefgh12345678"),
        ({"path": "/workflows/T0ABC/A0ABC/123456/XyZ123abcDEF456"}, "XyZ123abcDEF456"),
        ({"path": "/hooks/catch/123456/b2xyz9876/"}, "b2xyz9876"),
        ({"path": "/webhookb2/1-2@3-4/IncomingWebhook/0123456789abcdef/5-6"}, "0123456789abcdef"),
        ({"headers": {"Ocp-Apim-Subscription-Key": "hush-hush-hush"}}, "hush-hush-hush"),
        ({"headers": {"X-Functions-Key": "hush-hush-hush"}}, "hush-hush-hush"),
        ({"headers": {"X-App-Key": "hush-hush-hush"}}, "hush-hush-hush"),
        ({"json": {"license_key": "hush-hush-hush", "passcode": "hush-hush"}}, "hush-hush"),
        ({"path": "/hooks/{{ data.token }}"}, "hush-data-token"),
        ({"path": "/hooks/{{ data.token | url_encode }}/x", "body": "{{ data.token }}"}, "hush-data-token"),
        ({"body": {"mustache": "{{token}}"}}, "hush-data-token"),
        ({"json": {"note": "code {{ vars.access.api_key }}"}}, "hush-variable"),
        ({}, "hush-in-the-event"),
    ],
)
def test_a_secret_of_the_request_is_stored_nowhere(fields: dict[str, Any], secret: str, status: int) -> None:
    names = {"data": {"token": "hush-data-token"}, "vars": {"access": {"api_key": "hush-variable"}}}
    event = an_event(data_json='{"login": {"password": "hush-in-the-event"}, "city": "Pune"}')
    path = fields.get("path", "/hook")
    fields = {name: value for name, value in fields.items() if name != "path"}
    outcome = echoed(fields, status=status, path=path, names=names, run=a_run(event=event))
    assert outcome.request is not None and outcome.response is not None
    assert secret not in stored(outcome)
    assert "***" in stored(outcome)


def test_a_token_in_the_path_is_neither_in_the_circuit_nor_in_the_target_that_a_410_disables() -> None:
    with an_http_target() as server:
        server.answer = lambda call: Answer(410)
        urls = [f"{server.url}/services/T0ABC/B0ABC/canary{number}" for number in (12345678, 87654321)]
        first, second = (perform({"http": {"url": url}}) for url in urls)
        assert first.gone is not None and first.gone.startswith(f"{server.url}/services/***#")
        assert first.gone != second.gone
        assert "canary" not in f"{stored(first)} {first.gone} {first.target}"
        refused = perform({"http": {"url": urls[0]}}, disabled={first.gone: "answered 410"})
    assert refused.error_class == "target_disabled"
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    "form",
    [
        str,
        quote,
        lambda text: re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quote(text, safe="")),
        lambda text: json.dumps(text),
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: json.dumps(text).replace("/", "\\/"),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(b"user:" + text.encode() + b" and more").decode(),
        lambda text: base64.b64encode(b"ab" + text.encode()).decode().rstrip("="),
        lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;"),
    ],
)
def test_a_secret_is_recognised_in_any_form(form: Callable[[str], str]) -> None:
    secrets = Secrets()
    secrets.add(SECRET)
    written = form(SECRET)
    masked = secrets.mask(f"before {written} after")
    assert masked.startswith("before ") and masked.endswith(" after") and "***" in masked
    assert written.strip('"=')[4:-4] not in masked


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("Authorization", "Basic " + base64.b64encode(b"jane:hush-hush").decode(), "hush-hush"),
        ("Authorization", "Basic " + base64.b64encode(b"key-without-password:").decode(), "key-without-password"),
        ("Cookie", "theme=darkly; id=hush-hush", "hush-hush"),
    ],
)
def test_a_part_of_a_header_is_recognised_alone(name: str, value: str, secret: str) -> None:
    secrets = Secrets()
    secrets.add_header(name, value)
    assert secrets.mask(f"before {secret} after") == "before *** after"


def test_a_number_of_less_than_eight_digits_is_no_secret() -> None:
    secrets = Secrets()
    secrets.add("1234567", "12345678")
    assert secrets.mask("order 1234567, token 12345678") == "order 1234567, token ***"


def test_every_secret_is_recognised_however_many_there_are() -> None:
    secrets = Secrets()
    secrets.add(*(f"hush-hush-{number}" for number in range(200)))
    assert secrets.mask(f"a{'b' * 50_000} hush-hush-199, hush-hush-31") == f"a{'b' * 50_000} ***, ***"
    secrets.add("one-more-secret")
    assert secrets.mask("before one-more-secret after") == "***"


def test_whole_texts_are_masked_when_secrets_are_very_long() -> None:
    secrets = Secrets()
    secrets.add("hush" * 4_097)
    assert secrets.mask("before " + "hush" * 4_097 + " after") == "***"
    assert secrets.mask("abc") == "abc"


def test_a_secret_behind_a_thousand_fields_of_a_form_is_recognised() -> None:
    secrets = Secrets()
    add_form("a=1&" * 1_000 + "token=hush-hush", secrets)
    assert secrets.mask("before hush-hush after") == "before *** after"


def test_escaped_characters_of_an_answer_do_not_hide_a_secret() -> None:
    body = '{"token": "' + "".join(f"\\u{ord(letter):04x}" for letter in "hush-hush-hush") + '"}'
    with an_http_target(Answer(200, body.encode(), AS_JSON)) as server:
        outcome = perform({"http": {"url": server.url, "headers": {"X-Token": "hush-hush-hush"}}})
    assert outcome.output["body"] == {"token": "***"}


def test_a_secret_at_the_end_of_a_truncated_answer_is_masked() -> None:
    filling = "x" * (64 * 1024 - 10)
    with an_http_target(Answer(200, f"{filling}hush-hush-hush".encode(), ())) as server:
        outcome = perform({"http": {"url": server.url, "headers": {"X-Token": "hush-hush-hush"}}})
    assert outcome.output["body"] == filling + "***"


def test_other_values_stay_readable() -> None:
    body = {
        "author": "Jane",
        "session_id": "s-123456",
        "token_type": "bearer",
        "max_tokens": 100,
        "code": "SAVE10",
        "key": "k-1",
    }
    outcome = echoed(
        {"json": body, "headers": {"X-Trace": "t-1", "Authorization": "Bearer hush-hush"}}, path="/orders/17?page=2"
    )
    assert outcome.request is not None and outcome.request["url"].endswith("/orders/17?page=2")
    assert json.loads(outcome.request["body"]) == body
    assert json.loads(outcome.output["body"]["body"]) == body
    assert outcome.output["body"]["headers"]["X-Trace"] == "t-1"
    assert outcome.output["body"]["headers"]["Authorization"] == "***"
    assert outcome.output["headers"]["x-authorization"] == "***"


def test_a_short_secret_is_masked_only_as_a_word() -> None:
    outcome = echoed({"headers": {"X-Pin-Token": "abcd"}, "json": {"a": "abcd", "b": "abcde", "c": "1234"}})
    assert json.loads(outcome.output["body"]["body"]) == {"a": "***", "b": "abcde", "c": "1234"}


def test_a_short_number_with_a_secret_name_is_masked_in_the_request() -> None:
    outcome = echoed({"json": {"password": 1234, "is_secret": True, "token": None, "usage": {"tokens": 500}}})
    assert outcome.request is not None
    masked = {"password": "***", "is_secret": True, "token": None, "usage": {"tokens": 500}}
    assert json.loads(outcome.request["body"]) == masked


def test_the_server_receives_the_secrets() -> None:
    with an_http_target() as server:
        fields = {
            "url": server.url,
            "json": {"password": "hush-hush"},
            "headers": {"Authorization": "Bearer hush-hush"},
        }
        perform({"http": fields})
    assert server.calls[0].json == {"password": "hush-hush"}
    assert server.calls[0].headers["Authorization"] == "Bearer hush-hush"


def test_the_numbers_of_a_masked_body_keep_their_digits() -> None:
    outcome = echoed({"body": '{"n": 0.1234567890123456789, "password": "x"}'})
    assert outcome.request is not None
    assert outcome.request["body"] == '{"n":0.1234567890123456789,"password":"***"}'


@pytest.mark.parametrize(
    "body",
    [
        '{"password": "hush-hush", "cut": ',
        "[" * 700 + '{"password": "hush-hush"}' + "]" * 700,
        '{"password": "hush-hush", "n": 1' + "0" * 5_000 + "}",
    ],
)
def test_a_body_that_is_hard_to_parse_is_masked(body: str) -> None:
    outcome = echoed({"body": body})
    assert "hush-hush" not in stored(outcome)


def test_credentials_of_an_integration_are_masked_in_an_accepted_answer() -> None:
    credentials = base64.b64encode(f"{TWILIO['account_sid']}:{AUTH_TOKEN}".encode()).decode()
    body = json.dumps({"sid": "SM1", "token": AUTH_TOKEN, "header": f"Basic {credentials}"})
    with an_http_target(Answer(201, body.encode(), AS_JSON)) as server:
        settings = replace(the_settings(), twilio_base_url=server.url)
        step = {"sms": {"to": "+14155550100", "text": "hello"}}
        outcome = perform(step, integration={"twilio": TWILIO}.get, settings=settings)
    assert outcome.output["body"]["sid"] == "SM1"
    assert AUTH_TOKEN not in stored(outcome)
    assert credentials not in stored(outcome)


def test_the_error_of_a_disabled_target_contains_no_secret() -> None:
    names = {"data": {"token": "hush-data-token"}}
    with an_http_target(Answer(410)) as server:
        step = {"http": {"url": server.url + "/hooks/{{ data.token }}"}}
        gone = perform(step, names=names).gone
        assert gone is not None
        outcome = perform(step, names=names, disabled={gone: "gone"})
    assert outcome.error is not None and outcome.error.startswith(f"{server.url}/hooks/***#")
    assert outcome.error_class == "target_disabled"
    assert "hush-data-token" not in stored(outcome)


def test_an_error_in_an_action_is_logged_without_secrets(monkeypatch: pytest.MonkeyPatch, lines: list[Any]) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken with hush-data-token")

    monkeypatch.setattr(http, "make_request", fail)
    step = {"http": {"url": "http://127.0.0.1/{{ data.token }}"}}
    outcome = perform(step, names={"data": {"token": "hush-data-token"}})
    assert outcome.error == "RuntimeError: broken with ***"
    assert "RuntimeError: broken with ***" in lines[0]["exception"]


def test_a_logged_text_contains_no_secret(lines: list[Any]) -> None:
    outcome = perform({"log": "token {{ data.token }}"}, names={"data": {"token": "hush-data-token"}})
    assert outcome.output == {"text": "token ***"}
    assert [line["text"] for line in lines] == ["token ***"]
