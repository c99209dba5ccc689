"""The presets: each is valid, and provider and secrets are enough to map what its provider sends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.parser import Parser
from typing import Any
from urllib.parse import urlencode

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from app.workflows.sources.document import check_source, compile_source
from app.workflows.sources.mapping import DeliveryView, MappedEvent, MappingProblem, map_delivery
from app.workflows.sources.preset_files import find_preset, preset_names, sample_of
from app.workflows.yaml_loader import read_document

AT = datetime(2026, 11, 29, 4, 45, tzinfo=UTC)
PHONE, DIGITS = "+915673412780", "915673412780"
FORM = "application/x-www-form-urlencoded"
# For each sample: event, person, phone, dedupe id, and when it happened, in seconds after AT.
SAMPLES: Mapping[str, list[tuple[str, str, str | None, str | None, float | None]]] = {
    "cloudevents": [("com.example.order.paid", "customer-7", PHONE, "/shop/tea-house:a-1", 0)],
    "github": [("issues", "asha", None, "72d3162e-cc78-11e3-81ab-4c9367dc0958", None)],
    "listener": [("tweet", "asha", None, "tweet-1", None)],
    "razorpay": [("payment.captured", DIGITS, PHONE, "Pq1SampleEvent01", 0)],
    "shiprocket": [("DELIVERED", "TEA-1001", None, "19041424751540:DELIVERED:29 11 2026 10:15:00", 0)],
    "shopify": [("orders/create", "7123456789012", PHONE, "4a1c0b7e-6d5f-4f0a-9a57-2f3f6f6f0c11", 1.123456)],
    "standard-webhooks": [("subscription.renewed", "cus_1", PHONE, "msg_2sampleMessage0000000001", 0)],
    "stripe": [("checkout.session.completed", "cus_Sample0000001", PHONE, "evt_1Sample000000000001", 0)],
    "whatsapp": [
        ("message.text", DIGITS, PHONE, "wamid.SAMPLE1", 0),
        ("message.status.delivered", DIGITS, PHONE, "wamid.SAMPLE0:delivered", -10),
    ],
    "woocommerce": [("order.created", "asha@example.com", PHONE, "order.created:727:2026-11-29T04:45:02", 2)],
}

SAMPLES = {**SAMPLES, "svix": SAMPLES["standard-webhooks"]}


def a_source(name: str, **changes: Any) -> dict[str, Any]:
    """A source that says no more than its provider and a secret."""
    proof = {} if find_preset(name)["verify"] == "none" else {"secrets": ["{{ secrets.A }}"]}
    return {"name": "a", "provider": name, **proof, **changes}


def map_preset(
    name: str, body: Any, headers: Mapping[str, str] | None = None, media_type: str = "application/json", **changes: Any
) -> tuple[list[MappedEvent], list[MappingProblem]]:
    """What a preset makes of a body: of bytes as they are, of anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {name.lower(): value for name, value in (headers or {}).items()} | {"content-type": media_type}
    view = DeliveryView("POST", {}, fields, raw, media_type)
    return map_delivery(compile_source(a_source(name, **changes)).mapping, view)


def one_event(name: str, body: Any, headers: Mapping[str, str] | None = None, **others: Any) -> MappedEvent:
    """The only event of a body; there are no problems."""
    events, problems = map_preset(name, body, headers, **others)
    assert problems == []
    (event,) = events
    return event


def read_sample(name: str) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a preset's sample."""
    head, _, body = sample_of(name).partition(b"\n\n")
    fields = Parser().parsestr(head.decode().partition("\n")[2])
    return dict(fields.items()), body.rstrip(b"\n")


def test_there_is_a_sample_for_each_preset() -> None:
    assert set(SAMPLES) == set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_provider_and_secrets_are_enough(name: str) -> None:
    assert check_source(read_document(json.dumps(a_source(name)))) == []
    assert find_preset(name)["description"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_valid_document(name: str) -> None:
    proof = {name: value for name, value in a_source(name).items() if name == "secrets"}
    document = {"name": "a", **proof, **find_preset(name)}
    assert list(map(str, check_source(read_document(json.dumps(document))))) == []


@pytest.mark.parametrize("name", preset_names())
def test_a_sample_is_mapped(name: str) -> None:
    headers, body = read_sample(name)
    events, problems = map_preset(name, body, headers, headers["Content-Type"].partition(";")[0])
    assert problems == []
    found = [
        (
            event.event,
            event.distinct_id,
            event.phone,
            event.dedupe,
            None if event.occurred_at is None else (event.occurred_at - AT) / timedelta(seconds=1),
        )
        for event in events
    ]
    assert found == SAMPLES[name]
    assert [event.warnings for event in events] == [()] * len(events)
    assert all(json.loads(event.data_json) == event.data for event in events)


# Shopify

SHOP = {"X-Shopify-Shop-Domain": "tea.myshopify.com", "X-Shopify-Webhook-Id": "w1"}


@pytest.mark.parametrize(
    ("topic", "body", "person"),
    [
        ("orders/create", {"id": 1, "customer": None, "email": "a@example.com"}, "a@example.com"),
        ("orders/create", {"id": 1, "customer": None, "email": "", "phone": PHONE}, DIGITS),
        ("orders/create", {"id": 1, "shipping_address": {"phone": "056734 12780"}}, DIGITS),
        ("customers/create", {"id": 706405506930370084, "email": "a@example.com"}, "706405506930370084"),
        ("products/update", {"id": 788032119674292922, "title": "Tea"}, "tea.myshopify.com"),
        ("app/uninstalled", {"id": 548380009}, "tea.myshopify.com"),
        ("bulk_operations/finish", {"admin_graphql_api_id": "gid://1"}, "tea.myshopify.com"),
    ],
)
def test_every_topic_of_shopify_is_about_somebody(topic: str, body: Any, person: str) -> None:
    event = one_event("shopify", body, {"X-Shopify-Topic": topic, **SHOP}, region="IN")
    assert (event.event, event.distinct_id, event.dedupe) == (topic, person, "w1")


# Razorpay


@pytest.mark.parametrize(
    ("payload", "person"),
    [
        ({"payment": {"entity": {"contact": "05673412780", "email": "void@example.com"}}}, DIGITS),
        ({"payment": {"entity": {"contact": PHONE}}, "order": {"entity": {"id": "order_1"}}}, DIGITS),
        ({"refund": {"entity": {"payment_id": "pay_1"}}}, "pay_1"),
        ({"subscription": {"entity": {"customer_id": "cust_1"}}}, "cust_1"),
        ({"payment_link": {"entity": {"customer": {"contact": PHONE}}}}, DIGITS),
        ({"settlement": {"entity": {"id": "setl_1"}}}, "acc_1"),
    ],
)
def test_every_event_of_razorpay_is_about_somebody(payload: Any, person: str) -> None:
    event = one_event("razorpay", {"event": "x.y", "account_id": "acc_1", "payload": payload})
    assert event.distinct_id == person


# WooCommerce

TOPIC = {"X-WC-Webhook-Topic": "product.updated", "X-WC-Webhook-Source": "https://tea.example/"}


def test_the_ping_of_woocommerce_has_no_events() -> None:
    assert map_preset("woocommerce", b"webhook_id=3", media_type=FORM) == ([], [])


def test_a_customer_of_woocommerce_is_the_person() -> None:
    headers = {**TOPIC, "X-WC-Webhook-Topic": "customer.updated", "X-WC-Webhook-Resource": "customer"}
    assert one_event("woocommerce", {"id": 25}, headers).distinct_id == "25"
    assert one_event("woocommerce", {"id": 1, "customer_id": 26}, TOPIC).distinct_id == "26"


def test_a_deleted_product_of_woocommerce_is_an_event() -> None:
    event = one_event("woocommerce", {"id": 5}, TOPIC)
    assert (event.distinct_id, event.dedupe) == ("https://tea.example/", "product.updated:5")


# Shiprocket


def test_a_time_of_shiprocket_in_another_form_is_kept_with_a_warning() -> None:
    body = {"awb": 1, "order_id": 7, "current_status": "Shipped", "current_timestamp": "yesterday"}
    event = one_event("shiprocket", body)
    assert (event.distinct_id, event.occurred_at) == ("7", None)
    assert event.extra_json == '{"occurred_at":"yesterday"}'
    assert len(event.warnings) == 1


# Standard Webhooks, Stripe


def test_a_message_of_svix_is_recognised_by_its_own_headers() -> None:
    event = one_event("standard-webhooks", {"type": "user.created", "data": {}}, {"svix-id": "msg_1"})
    assert (event.event, event.distinct_id, event.dedupe) == ("user.created", "msg_1", "msg_1")


@pytest.mark.parametrize(
    ("item", "person"),
    [
        ({"object": "customer", "id": "cus_1", "email": "a@example.com"}, "cus_1"),
        ({"object": "charge", "customer": None, "billing_details": {"email": "a@example.com"}}, "a@example.com"),
        ({"object": "charge", "customer": {"id": "cus_2"}}, "cus_2"),
        ({"object": "checkout.session", "customer_details": {"phone": PHONE, "email": None}}, DIGITS),
        ({"object": "payout", "id": "po_1"}, "po_1"),
    ],
)
def test_every_event_of_stripe_is_about_somebody(item: Any, person: str) -> None:
    assert one_event("stripe", {"id": "evt_1", "type": "x.y", "data": {"object": item}}).distinct_id == person


# GitHub


def test_a_form_of_github_is_read_as_its_json() -> None:
    text = '{"zen": "x",  "sender": {"login": "asha"}, "n": 1.50}'
    body = urlencode({"payload": text}).encode()
    event = one_event("github", body, {"X-GitHub-Event": "push", "X-GitHub-Delivery": "d"}, media_type=FORM)
    assert (event.distinct_id, event.data_json) == ("asha", text)


def test_the_ping_of_github_has_no_events() -> None:
    assert map_preset("github", {"zen": "x", "hook_id": 1}, {"X-GitHub-Event": "ping"}) == ([], [])


def test_an_event_of_github_without_a_sender_is_an_event() -> None:
    headers = {"X-GitHub-Event": "security_advisory", "X-GitHub-Delivery": "d"}
    assert one_event("github", {"action": "published"}, headers).distinct_id == "d"


# CloudEvents


def test_a_binary_cloud_event_has_its_attributes_in_headers() -> None:
    headers = {"ce-id": "a-1", "ce-source": "/shop", "ce-type": "paid", "ce-time": "2026-11-29T04:45:00Z"}
    event = one_event("cloudevents", b'{"total": 10.50}', headers)
    assert (event.event, event.distinct_id, event.dedupe, event.occurred_at) == ("paid", "/shop", "/shop:a-1", AT)
    assert event.data_json == '{"total": 10.50}'


def test_the_attributes_of_a_binary_cloud_event_are_decoded() -> None:
    # They are percent-encoded in headers, where + is not a space.
    attributes = {
        "id": "a 1",
        "source": "/tea house",
        "type": "päid",
        "subject": "Asha+Köln 100%",
        "specversion": "1.0",
    }
    sent = CloudEvent(attributes=attributes, data={"total": 1})
    binary, structured = to_binary_event(sent), to_structured_event(sent)
    assert "%C3%B6" in binary.headers["ce-subject"]
    found = [one_event("cloudevents", message.body, message.headers) for message in (binary, structured)]
    assert [(one.event, one.distinct_id, one.dedupe) for one in found] == [
        ("päid", "Asha+Köln 100%", "/tea house:a 1")
    ] * 2


def test_a_batch_of_cloud_events_makes_an_event_of_each() -> None:
    members = [
        {"id": str(n), "source": "/shop", "type": "paid", "subject": f"p{n}", "data": {"n": n}} for n in range(50)
    ]
    events, problems = map_preset("cloudevents", members, media_type="application/cloudevents-batch+json")
    assert problems == []
    assert [event.dedupe for event in events] == [f"/shop:{n}" for n in range(50)]
    assert events[7].data == {"n": 7}


# WhatsApp


def a_change(field: str = "messages", **value: Any) -> dict[str, Any]:
    return {"field": field, "value": {"metadata": {"phone_number_id": "106"}, **value}}


def test_a_delivery_of_whatsapp_holds_messages_and_statuses_of_all_entries() -> None:
    messages = [{"from": DIGITS, "id": f"m{n}", "type": "image", "timestamp": "1795927500"} for n in range(3)]
    statuses = [{"id": f"s{n}", "status": "read", "recipient_id": DIGITS} for n in range(2)]
    entries = [
        {"id": "1", "changes": [a_change(messages=messages[:1]), a_change(statuses=statuses[:1])]},
        {"id": "2", "changes": [a_change(messages=messages[1:], statuses=statuses[1:])]},
    ]
    events, problems = map_preset("whatsapp", {"entry": entries})
    assert problems == []
    assert [event.dedupe for event in events] == ["m0", "m1", "m2", "s0:read", "s1:read"]
    assert {event.event for event in events} == {"message.image", "message.status.read"}
    assert {event.phone for event in events} == {PHONE}


def test_a_message_of_whatsapp_without_a_phone_is_about_its_user() -> None:
    contacts = [{"user_id": "IN.2", "profile": {"name": "Asha"}}]
    message = {"id": "m", "type": "text"}
    by_message = {"entry": [{"changes": [a_change(messages=[{**message, "from_user_id": "IN.1"}])]}]}
    by_contact = {"entry": [{"changes": [a_change(messages=[message], contacts=contacts)]}]}
    events = [one_event("whatsapp", body) for body in (by_message, by_contact)]
    assert [(event.distinct_id, event.phone) for event in events] == [("IN.1", None), ("IN.2", None)]


def test_other_fields_of_whatsapp_are_events_of_the_business_account() -> None:
    change = a_change("message_template_status_update", event="APPROVED")
    event = one_event("whatsapp", {"entry": [{"id": "102", "time": 1795927500, "changes": [change]}]})
    assert (event.event, event.distinct_id, event.occurred_at) == ("message_template_status_update", "102", AT)


def test_errors_of_whatsapp_are_events_of_the_business_phone() -> None:
    event = one_event("whatsapp", {"entry": [{"id": "1", "changes": [a_change(errors=[{"code": 130429}])]}]})
    assert (event.event, event.distinct_id) == ("message.error", "106")


@pytest.mark.parametrize(
    "change",
    [a_change(contacts=[]), {"field": "messages"}, {"value": {"messages_v2": []}}],
    ids=["list", "value", "field"],
)
def test_a_change_of_whatsapp_that_is_not_recognised_is_a_problem(change: dict[str, Any]) -> None:
    events, problems = map_preset("whatsapp", {"entry": [{"id": "1", "changes": [change]}]})
    assert (events, [(one.item, one.path) for one in problems]) == ([], [(0, "map.event")])


def test_a_delivery_of_github_without_the_name_of_its_event_is_a_problem() -> None:
    events, problems = map_preset("github", {"sender": {"login": "asha"}})
    assert (events, [one.path for one in problems]) == ([], ["map.event"])


# Overrides


def test_a_field_of_map_takes_the_place_of_that_of_the_preset() -> None:
    _, body = read_sample("whatsapp")
    events, problems = map_preset("whatsapp", body, map={"event": "'wa_' + string(item.id)"})
    assert problems == []
    assert [event.event for event in events] == ["wa_wamid.SAMPLE1", "wa_wamid.SAMPLE0"]
    assert events[0].dedupe == "wamid.SAMPLE1"


def test_null_removes_a_field_of_the_preset() -> None:
    headers, body = read_sample("shopify")
    event = one_event("shopify", body, headers, map={"dedupe": None, "phone": None})
    assert (event.dedupe, event.phone, event.warnings) == (None, None, ())


def test_own_events_take_the_place_of_those_of_the_preset() -> None:
    headers, body = read_sample("woocommerce")
    events, problems = map_preset(
        "woocommerce", body, headers, events=[{"each": "body.line_items[]", "map": {"data": "item"}}]
    )
    assert problems == []
    assert [event.data["sku"] for event in events] == ["TEA-1"]
    assert events[0].dedupe == "order.created:727:2026-11-29T04:45:02#0"
