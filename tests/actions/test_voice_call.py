"""The action `call` with an API that accepts only what Twilio's documentation allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from app.actions import voice_call
from app.core.models import Outcome
from tests.support.action_contexts import perform, the_settings
from tests.support.http_target import Answer, an_http_target
from tests.support.providers import AUTH_TOKEN, SID, TWILIO, TwilioApi, running, twilio_error

RUNG = {"to": "{{ phone }}", "say": "{{ event }} for <you> & me: ü"}


@pytest.fixture
def api() -> Iterator[TwilioApi]:
    with running(TwilioApi()) as one:
        yield one


def ring(api: TwilioApi, fields: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    """The outcome of one attempt with these fields."""
    changes.setdefault("settings", replace(the_settings(), twilio_base_url=api.url))
    changes.setdefault("integration", {"twilio": TWILIO}.get)
    given = {**RUNG, **(fields or {})}
    return perform({"call": {name: value for name, value in given.items() if value is not ...}}, **changes)


def spoken(api: TwilioApi) -> str | None:
    """The text of the only accepted call."""
    (form,) = api.accepted
    response = ElementTree.fromstring(form["Twiml"])
    (say,) = response
    assert (response.tag, say.tag, say.attrib) == ("Response", "Say", {})
    return say.text


def test_the_form_is_the_one_of_the_documentation(api: TwilioApi) -> None:
    ring(api)
    assert api.complaints == []
    assert api.accepted == [
        {
            "To": "+915673412780",
            "From": "+15017122661",
            "Twiml": "<Response><Say>order_placed for &lt;you&gt; &amp; me: ü</Say></Response>",
        }
    ]


def test_later_steps_can_read_sid_and_status(api: TwilioApi) -> None:
    outcome = ring(api)
    assert (outcome.kind, outcome.output["status"], outcome.output["body"]["status"]) == ("done", 201, "queued")
    assert outcome.output["body"]["sid"].startswith("CA")


def test_instructions_may_come_from_a_url(api: TwilioApi) -> None:
    ring(api, {"say": ..., "url": "https://example.com/voice?who={{ phone | url_encode }}"})
    url = "https://example.com/voice?who=%2B915673412780"
    assert api.accepted == [{"To": "+915673412780", "From": "+15017122661", "Url": url}]


def test_the_step_may_name_another_caller(api: TwilioApi) -> None:
    ring(api, {"from": "+1 (501) 712-2662"})
    assert api.accepted[0]["From"] == "+15017122662"


@pytest.mark.parametrize("text", ["</Say></Response>", "<Hangup/>", "&amp;", "]]>", "a\nb\tc", "🙂 \ufffd"])
def test_markup_in_data_is_spoken_as_text(api: TwilioApi, text: str) -> None:
    ring(api, {"say": "{{ data.said }}"}, names={"phone": "+915673412780", "data": {"said": text}})
    assert spoken(api) == text


def test_characters_that_xml_does_not_allow_become_spaces(api: TwilioApi) -> None:
    ring(api, {"say": "{{ data.said }}"}, names={"phone": "+915673412780", "data": {"said": "a\x00\x0b\ufffeb"}})
    assert spoken(api) == "a   b"


@pytest.mark.parametrize(
    "fields",
    [{"from": "MyShop"}, {"from": "54321"}, {"messaging_service_sid": "MG" + "0" * 32}],
    ids=["name", "short code", "service"],
)
def test_a_sender_that_is_not_a_phone_number_cannot_call(api: TwilioApi, fields: dict[str, str]) -> None:
    integration = {"account_sid": SID, "auth_token": AUTH_TOKEN, **fields}
    outcome = ring(api, integration={"twilio": integration}.get)
    assert (outcome.kind, outcome.error_class, api.calls) == ("failed", "bad_address", 0)
    assert ring(api, {"from": "+15017122661"}, integration={"twilio": integration}.get).kind == "done"


@pytest.mark.parametrize(
    ("fields", "error_class"),
    [
        ({"to": "{{ data.nothing }}"}, "bad_address"),
        ({"from": "{{ data.nothing }}"}, "bad_address"),
        ({"say": "{{ data.nothing }}"}, "bad_text"),
        ({"say": "{% for i in (1..1000) %}&{% endfor %}"}, "bad_text"),
        ({"say": ..., "url": "{{ data.nothing }}"}, "bad_url"),
        ({"say": ..., "url": "ftp://{{ phone }}"}, "bad_url"),
    ],
)
def test_what_cannot_be_called_fails_without_a_call(api: TwilioApi, fields: Any, error_class: str) -> None:
    outcome = ring(api, fields)
    assert (outcome.kind, outcome.error_class) == ("failed", error_class)
    assert api.calls == 0


def test_without_an_integration_the_error_says_how_to_create_one(api: TwilioApi) -> None:
    outcome = ring(api, integration={}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "not_set_up")


@pytest.mark.parametrize(("status", "code"), [(429, 20429), (500, 20500), (503, 20503), (400, 10004)])
def test_transient_errors_are_retried(api: TwilioApi, status: int, code: int) -> None:
    api.instead.append(twilio_error(status, code, "Too Many Requests"))
    outcome = ring(api)
    assert (outcome.kind, outcome.error_class) == ("retry", f"twilio_{code}")


@pytest.mark.parametrize(("status", "code"), [(401, 20003), (400, 21205), (400, 21212), (403, 21215), (404, 20404)])
def test_permanent_errors_fail(api: TwilioApi, status: int, code: int) -> None:
    api.instead.append(twilio_error(status, code, "No"))
    outcome = ring(api)
    assert (outcome.kind, outcome.error_class) == ("failed", f"twilio_{code}")
    assert f"Twilio answered {status}, code {code}: No" in str(outcome.error)


def test_twilio_may_say_when_to_retry() -> None:
    body = json.dumps(twilio_error(429, 20429, "Too Many Requests")[1]).encode()
    with an_http_target(Answer(429, body, (("Content-Type", "application/json"), ("Retry-After", "7")))) as server:
        changed = replace(the_settings(), twilio_base_url=server.url)
        outcome = perform({"call": RUNG}, settings=changed, integration={"twilio": TWILIO}.get)
    assert outcome.retry_after == 7


def test_the_auth_token_is_not_stored(api: TwilioApi) -> None:
    api.instead.append(twilio_error(401, 20003, f"Authenticate with something else than {AUTH_TOKEN}"))
    outcome = ring(api)
    assert AUTH_TOKEN not in json.dumps([outcome.request, outcome.response, outcome.error])


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ("hello", "call", "must be an object"),
        ({"to": None}, "call.to", "is required"),
        ({"to": "0123"}, "call.to", "not a phone number"),
        ({"say": ...}, "call.say", "is required"),
        ({"url": "https://example.com"}, "call.url", "cannot be combined"),
        ({"say": ..., "url": "nowhere"}, "call.url", "https://"),
        ({"say": "&" * 1_000}, "call.say", "4000"),
        ({"say": "{{ nope }}"}, "call.say", "nope is unknown"),
        ({"from": "MyShop"}, "call.from", "not a phone number"),
        ({"record": "x"}, "call.record", "is unknown"),
    ],
)
def test_an_error_has_its_path(fields: Any, path: str, message: str) -> None:
    given = {**RUNG, **fields} if isinstance(fields, dict) else fields
    if isinstance(given, dict):
        given = {name: value for name, value in given.items() if value is not ...}
    ((found_path, found_message),) = voice_call.check(given, "call")
    assert found_path == path
    assert message in found_message


def test_valid_fields_have_no_errors() -> None:
    assert voice_call.check(RUNG, "call") == []
    assert voice_call.check({"to": "+915673412780", "url": "https://example.com/{{ event }}"}, "call") == []
