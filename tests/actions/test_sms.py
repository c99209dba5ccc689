"""The action `sms` with an API that accepts only what Twilio's documentation allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.actions import sms
from app.core.models import Outcome
from tests.support.action_contexts import perform, the_settings
from tests.support.http_target import Answer, an_http_target
from tests.support.providers import AUTH_TOKEN, SID, TWILIO, TwilioApi, running, twilio_error

SMS = {"to": "{{ phone }}", "text": "{{ event }} & co: ü"}
SERVICE = "MG" + "0123456789abcdef" * 2


@pytest.fixture
def api() -> Iterator[TwilioApi]:
    with running(TwilioApi()) as one:
        yield one


def send(api: TwilioApi, fields: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    """The outcome of one attempt with these fields."""
    changes.setdefault("settings", replace(the_settings(), twilio_base_url=api.url))
    changes.setdefault("integration", {"twilio": TWILIO}.get)
    return perform({"sms": {**SMS, **(fields or {})}}, **changes)


def test_the_form_is_the_one_of_the_documentation(api: TwilioApi) -> None:
    send(api)
    assert api.complaints == []
    assert api.accepted == [{"To": "+915673412780", "From": "+15017122661", "Body": "order_placed & co: ü"}]


def test_later_steps_can_read_the_sid(api: TwilioApi) -> None:
    outcome = send(api)
    assert (outcome.kind, outcome.output["status"]) == ("done", 201)
    assert outcome.output["body"]["sid"].startswith("SM")


def test_the_number_is_sent_with_a_plus_sign(api: TwilioApi) -> None:
    send(api, {"to": "91 5673 412780"})
    assert api.accepted[0]["To"] == "+915673412780"


def test_a_messaging_service_may_be_the_sender(api: TwilioApi) -> None:
    fields = {"account_sid": SID, "auth_token": AUTH_TOKEN, "messaging_service_sid": SERVICE}
    send(api, integration={"twilio": fields}.get)
    assert api.accepted == [{"To": "+915673412780", "MessagingServiceSid": SERVICE, "Body": "order_placed & co: ü"}]


@pytest.mark.parametrize(
    ("sender", "name", "value"),
    [
        ("+1 (501) 712-2661", "From", "+15017122661"),
        ("MyShop", "From", "MyShop"),
        ("54321", "From", "54321"),
        (SERVICE, "MessagingServiceSid", SERVICE),
    ],
)
def test_the_step_may_name_another_sender(api: TwilioApi, sender: str, name: str, value: str) -> None:
    send(api, {"from": sender})
    assert api.accepted[0][name] == value


@pytest.mark.parametrize(
    ("fields", "error_class"),
    [
        ({"to": "{{ data.nothing }}"}, "bad_address"),
        ({"from": "{{ data.price }}{{ phone }}"}, "bad_address"),
        ({"text": "{{ data.nothing }}"}, "bad_text"),
        ({"text": "{% for i in (1..1601) %}x{% endfor %}"}, "bad_text"),
    ],
)
def test_what_cannot_be_sent_fails_without_a_call(api: TwilioApi, fields: Any, error_class: str) -> None:
    outcome = send(api, fields)
    assert (outcome.kind, outcome.error_class) == ("failed", error_class)
    assert api.calls == 0


def test_without_an_integration_the_error_says_how_to_create_one(api: TwilioApi) -> None:
    outcome = send(api, integration={}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "not_set_up")
    assert outcome.error == "the account has no twilio integration: set it up"


@pytest.mark.parametrize(("status", "code"), [(429, 20429), (500, 20500), (503, 20503), (400, 21611), (400, 14107)])
def test_transient_errors_are_retried(api: TwilioApi, status: int, code: int) -> None:
    api.instead.append(twilio_error(status, code, "Too Many Requests"))
    outcome = send(api)
    assert (outcome.kind, outcome.error_class) == ("retry", f"twilio_{code}")


@pytest.mark.parametrize(("status", "code"), [(401, 20003), (400, 21211), (400, 21610), (403, 21612), (404, 20404)])
def test_permanent_errors_fail(api: TwilioApi, status: int, code: int) -> None:
    api.instead.append(twilio_error(status, code, "No"))
    outcome = send(api)
    assert (outcome.kind, outcome.error_class) == ("failed", f"twilio_{code}")


def test_the_error_has_the_message_of_twilio(api: TwilioApi) -> None:
    api.instead.append(twilio_error(400, 21610, "Attempt to send to unsubscribed recipient"))
    assert str(send(api).error) == (
        "Twilio answered 400, code 21610: Attempt to send to unsubscribed recipient "
        "(https://www.twilio.com/docs/errors/21610)"
    )


def test_twilio_may_say_when_to_retry() -> None:
    body = json.dumps(twilio_error(429, 20429, "Too Many Requests")[1]).encode()
    with an_http_target(Answer(429, body, (("Content-Type", "application/json"), ("Retry-After", "7")))) as server:
        changed = replace(the_settings(), twilio_base_url=server.url)
        outcome = perform({"sms": SMS}, settings=changed, integration={"twilio": TWILIO}.get)
    assert outcome.retry_after == 7


def test_the_auth_token_is_not_stored(api: TwilioApi) -> None:
    api.instead.append(twilio_error(401, 20003, f"Authenticate with something else than {AUTH_TOKEN}"))
    outcome = send(api)
    assert AUTH_TOKEN not in json.dumps([outcome.request, outcome.response, outcome.error])
    assert outcome.request is not None
    assert outcome.request["headers"]["Authorization"] == "***"


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ("hello", "sms", "must be an object"),
        ({"to": None}, "sms.to", "is required"),
        ({"to": "0123"}, "sms.to", "not a phone number"),
        ({"text": ""}, "sms.text", "is empty"),
        ({"text": "x" * 1_601}, "sms.text", "1600"),
        ({"text": "{{ nope }}"}, "sms.text", "nope is unknown"),
        ({"from": "a very long name"}, "sms.from", "11 letters"),
        ({"media": "x"}, "sms.media", "is unknown"),
    ],
)
def test_an_error_has_its_path(fields: Any, path: str, message: str) -> None:
    given = {**SMS, **fields} if isinstance(fields, dict) else fields
    ((found_path, found_message),) = sms.check(given, "sms")
    assert found_path == path
    assert message in found_message


def test_valid_fields_have_no_errors() -> None:
    assert sms.check(SMS, "sms") == []
    assert sms.check({**SMS, "from": "{{ data.sender }}"}, "sms") == []
