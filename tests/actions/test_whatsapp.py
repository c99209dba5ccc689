"""The action `whatsapp` with an API that accepts only what its documentation allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.actions import whatsapp
from app.core.models import Outcome
from tests.support.action_contexts import perform, the_settings
from tests.support.providers import PHONE_NUMBER_ID, TOKEN, WHATSAPP, WhatsAppApi, meta_error, running

NUDGE = {
    "to": "{{ phone }}",
    "template": "cart_rescue",
    "language": "en",
    "params": ["{{ event }}", "{{ data.price }}"],
}


@pytest.fixture
def api() -> Iterator[WhatsAppApi]:
    with running(WhatsAppApi()) as one:
        yield one


def send(api: WhatsAppApi, fields: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    """The outcome of one attempt with these fields."""
    changes.setdefault("settings", replace(the_settings(), whatsapp_base_url=api.url))
    changes.setdefault("integration", {"whatsapp": WHATSAPP}.get)
    return perform({"whatsapp": {**NUDGE, **(fields or {})}}, **changes)


def components_of(api: WhatsAppApi, **fields: Any) -> Any:
    """The components of the received template."""
    outcome = send(api, fields)
    assert outcome.kind == "done", outcome
    return api.accepted[-1]["template"].get("components")


def test_the_request_is_the_one_of_the_documentation(api: WhatsAppApi) -> None:
    send(api)
    assert api.complaints == []
    assert api.accepted == [
        {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": "915673412780",
            "type": "template",
            "template": {
                "name": "cart_rescue",
                "language": {"code": "en"},
                "components": [
                    {
                        "type": "body",
                        "parameters": [{"type": "text", "text": "order_placed"}, {"type": "text", "text": "1999"}],
                    }
                ],
            },
        }
    ]


def test_later_steps_can_read_the_id_of_the_message(api: WhatsAppApi) -> None:
    outcome = send(api)
    assert outcome.output["status"] == 200
    assert outcome.output["body"]["messages"][0]["id"].startswith("wamid.")


def test_a_template_without_variables_has_no_components(api: WhatsAppApi) -> None:
    assert components_of(api, params=[]) is None


def test_variables_may_have_names(api: WhatsAppApi) -> None:
    ((body),) = components_of(api, params={"first_name": "Ada", "price": 5})
    assert body["parameters"] == [
        {"type": "text", "parameter_name": "first_name", "text": "Ada"},
        {"type": "text", "parameter_name": "price", "text": "5"},
    ]


def test_a_header_may_be_text_or_a_file(api: WhatsAppApi) -> None:
    assert components_of(api, header="Sale")[0] == {
        "type": "header",
        "parameters": [{"type": "text", "text": "Sale"}],
    }
    link = "https://example.com/{{ event }}.png"
    assert components_of(api, header={"image": link})[0]["parameters"] == [
        {"type": "image", "image": {"link": "https://example.com/order_placed.png"}}
    ]


def test_the_link_of_a_file_is_sent_as_it_is_written(api: WhatsAppApi) -> None:
    signed = "https://Example.com:443/a%2Fb%7E.png?sig=a%2Bb%3d%2f&x=a+b"
    assert components_of(api, header={"image": f" {signed} "})[0]["parameters"] == [
        {"type": "image", "image": {"link": signed}}
    ]
    assert components_of(api, header={"image": "https://example.com/ü.png"})[0]["parameters"] == [
        {"type": "image", "image": {"link": "https://example.com/%C3%BC.png"}}
    ]


def test_buttons_are_counted_from_zero(api: WhatsAppApi) -> None:
    assert components_of(api, params=[], buttons=[None, "{{ data.price }}"]) == [
        {"type": "button", "sub_type": "url", "index": "1", "parameters": [{"type": "text", "text": "1999"}]}
    ]


@pytest.mark.parametrize("phone", ["+915673412780", "915673412780", "+91 56734-12780", " (91) 5673412780 "])
def test_the_number_is_sent_as_digits(api: WhatsAppApi, phone: str) -> None:
    send(api, {"to": phone})
    assert api.accepted[0]["to"] == "915673412780"


@pytest.mark.parametrize(
    ("fields", "error_class"),
    [
        ({"to": "{{ data.nothing }}"}, "bad_address"),
        ({"to": "{{ event }}"}, "bad_address"),
        ({"params": ["{{ data.nothing }}"]}, "bad_parameter"),
        ({"header": "{{ data.nothing }}"}, "bad_parameter"),
        ({"header": {"image": "{{ data.nothing }}"}}, "bad_parameter"),
        ({"buttons": [None, "{{ data.nothing }}"]}, "bad_parameter"),
        ({"template": "{{ data.nothing }}"}, "bad_parameter"),
        ({"language": "{{ data.nothing }}"}, "bad_parameter"),
    ],
)
def test_what_cannot_be_sent_fails_without_a_call(api: WhatsAppApi, fields: Any, error_class: str) -> None:
    outcome = send(api, fields)
    assert (outcome.kind, outcome.error_class) == ("failed", error_class)
    assert api.calls == 0


def test_the_version_of_the_api_may_be_chosen(api: WhatsAppApi) -> None:
    outcome = send(api, integration={"whatsapp": {**WHATSAPP, "api_version": "v25.0"}}.get)
    assert outcome.request is not None
    assert outcome.request["url"] == f"{api.url}/v25.0/{PHONE_NUMBER_ID}/messages"


def test_without_an_integration_the_error_says_how_to_create_one(api: WhatsAppApi) -> None:
    outcome = send(api, integration={}.get)
    assert (outcome.kind, outcome.error_class) == ("failed", "not_set_up")
    assert outcome.error == "the account has no whatsapp integration: set it up"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((400, code) for code in (4, 80007, 130429, 131048, 131056)),
        *((429, code) for code in (4, 130429, 131056)),
        *((500, code) for code in (1, 2, 131000, 131016, 131057, 133004)),
    ],
)
def test_transient_errors_are_retried(api: WhatsAppApi, status: int, code: int) -> None:
    api.instead.append(meta_error(status, code, "Rate limit hit"))
    outcome = send(api)
    assert (outcome.kind, outcome.error_class) == ("retry", f"whatsapp_{code}")


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, 0), (500, 3), (403, 10), (401, 190), (400, 100), (403, 368), (400, 131026), (404, 132001), (400, 132012)],
)
def test_permanent_errors_fail(api: WhatsAppApi, status: int, code: int) -> None:
    api.instead.append(meta_error(status, code, "No"))
    outcome = send(api)
    assert (outcome.kind, outcome.error_class) == ("failed", f"whatsapp_{code}")


def test_an_error_that_is_marked_as_transient_is_retried(api: WhatsAppApi) -> None:
    api.instead.append(meta_error(400, 131999, "New", is_transient=True))
    assert send(api).kind == "retry"


@pytest.mark.parametrize(("status", "kind"), [(503, "retry"), (429, "retry"), (404, "failed")])
def test_a_response_without_a_code_is_classified_by_its_status(api: WhatsAppApi, status: int, kind: str) -> None:
    api.instead.append((status, {"oops": 1}))
    assert send(api).kind == kind


def test_the_error_has_the_message_of_meta(api: WhatsAppApi) -> None:
    data = {"messaging_product": "whatsapp", "details": "Parameter of the body is missing"}
    api.instead.append(meta_error(400, 132000, "Number of parameters does not match", error_data=data))
    error = str(send(api).error)
    assert error == (
        "WhatsApp answered 400, code 132000: (#132000) Number of parameters does not match; "
        "Parameter of the body is missing (fbtrace_id Az8or2yhqkZ)"
    )


def test_the_token_is_not_stored_even_if_meta_repeats_it(api: WhatsAppApi) -> None:
    api.instead.append(meta_error(401, 190, f"Malformed access token {TOKEN}"))
    outcome = send(api)
    assert TOKEN not in json.dumps([outcome.request, outcome.response, outcome.error])
    assert outcome.request is not None
    assert outcome.request["headers"]["Authorization"] == "***"


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ("hello", "whatsapp", "must be an object"),
        ({"to": None}, "whatsapp.to", "is required"),
        ({"to": "nobody"}, "whatsapp.to", "not a phone number"),
        ({"to": "{{ nope }}"}, "whatsapp.to", "nope is unknown"),
        ({"template": "Cart Rescue"}, "whatsapp.template", "lower-case letters"),
        ({"language": "English"}, "whatsapp.language", "en_US"),
        ({"language": 7}, "whatsapp.language", "must be text"),
        ({"params": "one"}, "whatsapp.params", "must be a list"),
        ({"params": [["a"]]}, "whatsapp.params[0]", "must be text"),
        ({"params": ["{{"]}, "whatsapp.params[0]", "is not closed"),
        ({"params": {"a": None}}, "whatsapp.params.a", "must be text"),
        ({"params": [""]}, "whatsapp.params[0]", "is empty; WhatsApp does not allow empty parameters"),
        ({"params": {"a": " "}}, "whatsapp.params.a", "is empty"),
        ({"params": [{"mustache": ""}]}, "whatsapp.params[0]", "is empty"),
        ({"header": ""}, "whatsapp.header", "is empty"),
        ({"header": {"image": "picture.png"}}, "whatsapp.header.image", "the URL must begin with https://"),
        ({"buttons": [None, ""]}, "whatsapp.buttons[1]", "is empty"),
        ({"template": {"mustache": "Cart Rescue"}}, "whatsapp.template", "lower-case letters"),
        ({"header": {"audio": "x"}}, "whatsapp.header", "image, video, document"),
        ({"buttons": "x"}, "whatsapp.buttons", "must be a list"),
        ({"buttons": [True]}, "whatsapp.buttons[0]", "must be text or null"),
        ({"text": "x"}, "whatsapp.text", "is unknown"),
    ],
)
def test_an_error_has_its_path(fields: Any, path: str, message: str) -> None:
    given = {**NUDGE, **fields} if isinstance(fields, dict) else fields
    ((found_path, found_message),) = whatsapp.check(given, "whatsapp")
    assert found_path == path
    assert message in found_message


@pytest.mark.parametrize("more", [{}, {"params": {"name": "{{ phone }}"}}, {"language": "pt_BR"}, {"buttons": [None]}])
def test_valid_fields_have_no_errors(more: dict[str, Any]) -> None:
    assert whatsapp.check({**NUDGE, **more}, "whatsapp") == []
