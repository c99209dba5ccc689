"""The action `sendgrid` with an API that accepts only what SendGrid's documentation allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.actions import sendgrid
from app.core.models import Outcome
from tests.support.action_contexts import KEY, NOW, an_action_context, in_a_session, perform, the_settings
from tests.support.providers import API_KEY, SENDGRID, SendGridApi, running, sendgrid_error

LETTER = {"to": "Jane <jane@example.com>", "subject": "About {{ event }}", "text": "Hello {{ phone }}, ü"}


@pytest.fixture
def api() -> Iterator[SendGridApi]:
    with running(SendGridApi()) as one:
        yield one


def send(api: SendGridApi, fields: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    """The outcome of one attempt with these fields; `...` leaves one out."""
    changes.setdefault("settings", replace(the_settings(), sendgrid_base_url=api.url))
    changes.setdefault("integration", {"sendgrid": SENDGRID}.get)
    given = {**LETTER, **(fields or {})}
    return perform({"sendgrid": {name: value for name, value in given.items() if value is not ...}}, **changes)


def test_the_request_is_the_one_of_the_documentation(api: SendGridApi) -> None:
    send(api)
    assert api.complaints == []
    assert api.accepted == [
        {
            "personalizations": [{"to": [{"email": "jane@example.com", "name": "Jane"}]}],
            "from": {"email": "shop@example.com", "name": "Shop"},
            "subject": "About order_placed",
            "content": [{"type": "text/plain", "value": "Hello +915673412780, ü"}],
            "custom_args": {"idempotency_key": KEY},
        }
    ]


def test_later_steps_can_read_the_message_id(api: SendGridApi) -> None:
    outcome = send(api)
    assert (outcome.kind, outcome.output["status"], outcome.output["body"]) == ("done", 202, "")
    assert outcome.output["message_id"] == "LrbnHvJfRBuDdVwzBQBZ0A"


def test_plain_text_comes_before_html(api: SendGridApi) -> None:
    send(api, {"html": "<p>{{ event }}</p>"})
    kinds = [(part["type"], part["value"]) for part in api.accepted[0]["content"]]
    assert kinds == [("text/plain", "Hello +915673412780, ü"), ("text/html", "<p>order_placed</p>")]


def test_html_needs_no_plain_text(api: SendGridApi) -> None:
    send(api, {"text": ..., "html": "<p>{{ event }}</p>"})
    assert api.accepted[0]["content"] == [{"type": "text/html", "value": "<p>order_placed</p>"}]


def test_an_empty_part_is_left_out(api: SendGridApi) -> None:
    send(api, {"text": "{{ data.nothing }}", "html": "<p>x</p>"})
    assert [part["type"] for part in api.accepted[0]["content"]] == ["text/html"]


def test_each_recipient_occurs_once(api: SendGridApi) -> None:
    send(api, {"to": ["jane@example.com", "Joe <joe@example.com>", "JANE@example.com"]})
    (personalization,) = api.accepted[0]["personalizations"]
    assert personalization["to"] == [{"email": "jane@example.com"}, {"email": "joe@example.com", "name": "Joe"}]


def test_the_step_may_name_another_sender(api: SendGridApi) -> None:
    send(api, {"from": "sales@example.com"})
    assert api.accepted[0]["from"] == {"email": "sales@example.com"}


def test_without_a_sender_nothing_is_sent(api: SendGridApi) -> None:
    integration = {"api_key": API_KEY, "account": "apikey"}
    outcome = send(api, integration={"sendgrid": integration}.get)
    assert (outcome.kind, outcome.error_class, api.calls) == ("failed", "bad_address", 0)
    assert "from is required" in str(outcome.error)
    assert send(api, {"from": "sales@example.com"}, integration={"sendgrid": integration}.get).kind == "done"


def test_no_data_can_add_a_line_or_a_recipient(api: SendGridApi) -> None:
    names = {
        "data": {"name": "x\r\nBcc: eve@example.com", "to": "a@example.com, eve@example.com"},
        "phone": "",
        "event": "",
    }
    send(api, {"subject": "Hi {{ data.name }}"}, names=names)
    assert api.accepted[0]["subject"] == "Hi x Bcc: eve@example.com"
    outcome = send(api, {"to": "{{ data.to }}"}, names=names)
    assert (outcome.kind, outcome.error_class) == ("failed", "bad_address")


@pytest.mark.parametrize(
    ("region", "base"), [(None, "https://api.sendgrid.com"), ("eu", "https://api.eu.sendgrid.com")]
)
def test_the_region_selects_the_host(region: str | None, base: str) -> None:
    integration = {**SENDGRID, **({"region": region} if region else {})}

    async def make(session: Any) -> Any:
        return sendgrid.make_request(LETTER, an_action_context(session), integration)

    assert str(in_a_session(make).url) == f"{base}/v3/mail/send"


@pytest.mark.parametrize(
    ("fields", "error_class"),
    [
        ({"to": "{{ data.nothing }}"}, "bad_address"),
        ({"from": "{{ data.nothing }}"}, "bad_address"),
        ({"subject": "{{ data.nothing }}"}, "bad_text"),
        ({"text": "{{ data.nothing }}"}, "bad_text"),
        ({"text": "{{ data.nothing }}", "html": " "}, "bad_text"),
    ],
)
def test_what_cannot_be_sent_fails_without_a_call(api: SendGridApi, fields: Any, error_class: str) -> None:
    outcome = send(api, fields)
    assert (outcome.kind, outcome.error_class) == ("failed", error_class)
    assert api.calls == 0


def test_without_an_integration_the_error_says_how_to_create_one(api: SendGridApi) -> None:
    outcome = send(api, integration={}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "not_set_up")
    assert outcome.error == "the account has no sendgrid integration: set it up"


def test_a_rate_limit_says_when_to_retry(api: SendGridApi) -> None:
    api.instead.append(sendgrid_error(429, "too many requests"))
    api.headers = {
        "X-RateLimit-Limit": "150",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(NOW.timestamp()) + 42),
    }
    outcome = send(api)
    assert (outcome.kind, outcome.error_class, outcome.retry_after) == ("retry", "sendgrid_429", 42)


@pytest.mark.parametrize("reset", ["", "soon", "1392815263", "-5"])
def test_without_a_future_reset_the_pause_of_the_policy_holds(api: SendGridApi, reset: str) -> None:
    api.instead.append(sendgrid_error(429, "too many requests"))
    api.headers = {"X-RateLimit-Reset": reset}
    outcome = send(api)
    assert (outcome.kind, outcome.retry_after) == ("retry", None)


def test_the_pause_is_at_most_a_day(api: SendGridApi) -> None:
    api.instead.append(sendgrid_error(429, "too many requests"))
    api.headers = {"X-RateLimit-Reset": "999999999999999"}
    assert send(api).retry_after == 86_400


@pytest.mark.parametrize("status", [500, 503])
def test_transient_errors_are_retried(api: SendGridApi, status: int) -> None:
    api.instead.append(sendgrid_error(status, "An internal error occurred."))
    outcome = send(api)
    assert (outcome.kind, outcome.error_class) == ("retry", f"sendgrid_{status}")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 413, 415])
def test_permanent_errors_fail(api: SendGridApi, status: int) -> None:
    api.instead.append(sendgrid_error(status, "No"))
    outcome = send(api)
    assert (outcome.kind, outcome.error_class) == ("failed", f"sendgrid_{status}")


def test_the_error_has_the_message_of_sendgrid(api: SendGridApi) -> None:
    api.instead.append(sendgrid_error(403, "The from address does not match a verified Sender Identity.", field="from"))
    assert str(send(api).error) == (
        "SendGrid answered 403: from: The from address does not match a verified Sender Identity."
    )


@pytest.mark.parametrize("body", [{}, {"errors": None}, {"errors": ["x", {"message": None}]}, {"errors": {"a": 1}}])
def test_a_response_without_an_error_message_is_accepted(api: SendGridApi, body: dict[str, Any]) -> None:
    api.instead.append((400, body))
    assert send(api).error_class == "sendgrid_400"


def test_a_message_that_was_only_validated_is_not_sent(api: SendGridApi) -> None:
    api.instead.append((200, {}))
    outcome = send(api)
    assert (outcome.kind, str(outcome.error)) == ("failed", "SendGrid answered 200: the message was not queued")


def test_the_api_key_is_not_stored(api: SendGridApi) -> None:
    outcome = send(api, integration={"sendgrid": {**SENDGRID, "api_key": "SG.wrong-and-secret"}}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "sendgrid_401")
    assert "SG.wrong-and-secret" not in json.dumps([outcome.request, outcome.response, outcome.error])
    kept = send(api).request
    assert kept is not None
    assert API_KEY not in json.dumps(kept)


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ("hello", "sendgrid", "must be an object"),
        ({"to": None}, "sendgrid.to", "is required"),
        ({"to": []}, "sendgrid.to", "1 to 50"),
        ({"to": ["jane@example.com", "joe"]}, "sendgrid.to[1]", "is not one e-mail address"),
        ({"subject": ""}, "sendgrid.subject", "is empty"),
        ({"text": ...}, "sendgrid.text", "is required"),
        ({"html": "{{ nope }}"}, "sendgrid.html", "nope is unknown"),
        ({"from": "me"}, "sendgrid.from", "is not one e-mail address"),
        ({"cc": "a@example.com"}, "sendgrid.cc", "is unknown"),
    ],
)
def test_an_error_has_its_path(fields: Any, path: str, message: str) -> None:
    given = {**LETTER, **fields} if isinstance(fields, dict) else fields
    if isinstance(given, dict):
        given = {name: value for name, value in given.items() if value is not ...}
    ((found_path, found_message),) = sendgrid.check(given, "sendgrid")
    assert found_path == path
    assert message in found_message


def test_valid_fields_have_no_errors() -> None:
    assert sendgrid.check({**LETTER, "to": ["{{ data.email }}", "joe@example.com"], "html": "x"}, "sendgrid") == []
