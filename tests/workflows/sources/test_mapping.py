"""Mapping of deliveries to events: bodies, paths, persons, times, dedupe ids, and what becomes of unusable values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.workflows.sources.document import check_source, compile_source
from app.workflows.sources.mapping import DeliveryView, map_delivery
from app.workflows.yaml_loader import read_document
from tests.support.mapped_bodies import FORM, JSON, map_body, one_event

EXAMPLE = """
name: shop
provider: shopify                 # a preset: verification, handshake, name, dedupe; every part can be overridden
secrets: ["{{ secrets.SHOPIFY }}", "{{ secrets.SHOPIFY_OLD }}"]
region: IN                        # national phone numbers mean this country
events:                           # optional: of a delivery that holds many, what becomes events
  - each: body.line_items[]
map:                              # paths; a name with a hyphen is written ['event-data']
  event: "shopify_{{ headers['x-shopify-topic'] | replace: '/', '_' }}"
  distinct_id: [body.customer.id, body.email, body.phone]      # the first usable one
  phone: [body.customer.phone, body.shipping_address.phone]
  data: body
  occurred_at: body.created_at
  dedupe: headers['x-shopify-webhook-id']
unverified: refuse                # 401; or store
"""
ORDER = (
    '{"id": 12345678901234567890123, "total": 10.50, "created_at": "2026-11-29T10:15:00+05:30", '
    '"customer": {"id": 7, "phone": "98765 43210"}, "line_items": [{"sku": "a"}, {"sku": "b"}]}'
)


def test_the_example_makes_an_event_of_each_line_of_an_order() -> None:
    document = read_document(EXAMPLE)
    assert check_source(document) == []
    compiled = compile_source(document.value)
    assert compiled.secret_names == {"SHOPIFY", "SHOPIFY_OLD"}
    headers = {"x-shopify-topic": "orders/create", "x-shopify-webhook-id": "w1"}
    events, problems = map_delivery(compiled.mapping, DeliveryView("POST", {}, headers, ORDER.encode(), JSON))
    assert problems == []
    assert [event.dedupe for event in events] == ["w1#0", "w1#1"]
    for event in events:
        assert (event.event, event.distinct_id, event.phone) == ("shopify_orders_create", "7", "+919876543210")
        assert event.data_json == ORDER
        assert event.occurred_at == datetime(2026, 11, 29, 4, 45, tzinfo=UTC)
        assert event.warnings == ()


def test_the_first_usable_value_of_a_list_counts() -> None:
    rule = {"event": "body.type", "distinct_id": ["body.a", "body.b", "body.c", "body.d", "body.e"]}
    event = one_event({"type": "x", "a": None, "b": "", "c": {"id": 1}, "d": 5, "e": "later"}, map=rule)
    assert event.distinct_id == "5"


def test_a_member_without_a_person_is_a_problem_with_its_position() -> None:
    events, problems = map_body(
        [{"who": "a"}, {"name": "b"}, {"who": "c"}],
        events=[{"each": "body[]"}],
        map={"event": "'x'", "distinct_id": "item.who"},
    )
    assert [event.distinct_id for event in events] == ["a", "c"]
    (problem,) = problems
    assert (problem.item, problem.path) == (1, "map.distinct_id")
    assert problem.message == "whom the event is about is missing: nothing at item.who, and no phone"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', b"[" * 100, b'{"a": "\\u0000"}'])
def test_a_body_that_cannot_be_read_or_mapped_is_a_problem(body: bytes) -> None:
    events, problems = map_body(body)
    assert events == []
    assert len(problems) == 1


# Values


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("body.a", "1"),
        ("body.b.c", "deep"),
        ("body.list[1].x", "second"),
        ("body.list[2].x", None),
        ("body['event-data'].id", "hyphen"),
        ('body["event-data"]["id"]', "hyphen"),
        ("body[ 'event-data' ].id", "hyphen"),
        ("headers['X-Name']", "header"),
        ("headers.host", "h"),
        ("query.q", "from the URL"),
        ("body.null", None),
        ("body.empty", None),
        ("body.blank", None),
        ("body.true", None),
        ("body.list", None),
        ("body.b", None),
        ("body.list.x", None),
        ("body.a.x", None),
        ("body.missing.x", None),
        ("body.fraction", "1.5"),
        ("body.large", "12345678901234567890123"),
        ("body.a + 1", "2"),
        ("string(body.a) + '-' + body.b.c", "1-deep"),
        ("body.missing + 1", None),
        ("body.b.c + 1", None),
        ("'fixed'", "fixed"),
        ("{{ body.a }}-{{ headers['x-name'] }}", "1-header"),
        (" {{ body.b.c | upcase }}\n", "DEEP"),
        ("{{ body.missing }}-x", None),
        ("{{ body.null }}-x", None),
        ("{{ body.null.x }}-x", None),
        ("{{ body.missing | default: 'none' }}-x", "none-x"),
        ("{{ body.null | default: 'none' }}-x", "none-x"),
        ("{% if body.a == 1 %}one{% endif %}", "one"),
        ("{% if body.a == 2 %}two{% endif %}", None),
        ("{% for one in body.list %}{{ one.x }}{% endfor %}", "firstsecond"),
        ("{{ body.list.size }}", "2"),
        ("{{ body.large }}", "12345678901234567890123"),
        ("{{ body }}{{ body.a }}", None),
    ],
)
def test_a_value_is_found_or_is_nothing(value: str, found: str | None) -> None:
    body = {
        "a": 1,
        "b": {"c": "deep"},
        "list": [{"x": "first"}, {"x": "second"}],
        "event-data": {"id": "hyphen"},
        "null": None,
        "empty": "",
        "blank": " ",
        "true": True,
        "fraction": 1.5,
        "large": 12345678901234567890123,
        "filler": "x" * 300,
    }
    rule = {"event": [value, "'nothing'"], "distinct_id": "'p'"}
    event = one_event(body, map=rule, headers={"x-name": "header", "host": "h"}, query={"q": "from the URL"})
    assert event.event == (found or "nothing")


def test_an_unusable_name_is_a_problem_that_says_why() -> None:
    rule = {"event": ["body.a", "body.b + 1", "body.c"], "distinct_id": "'p'"}
    events, (problem,) = map_body({"a": {"x": 1}, "b": "text"}, map=rule)
    assert events == []
    assert problem.path == "map.event"
    assert "body.a is an object, not text or a number of 1 to 255 characters" in problem.message
    assert "body.b + 1: incompatible types" in problem.message


# Data


def test_data_keep_the_exact_text_of_the_body() -> None:
    text = '{"type": "x", "who": "a",\n "price": 10.50, "n": 12345678901234567890123, "e": 1e400, "t": "\\u00e9 /\\/"}'
    assert one_event(text).data_json == text


def test_a_byte_order_mark_is_no_part_of_the_data() -> None:
    text = '{"type": "x", "who": "a"}'
    assert one_event(b"\xef\xbb\xbf" + text.encode()).data_json == text


def test_data_of_a_path_and_of_members_keep_their_exact_texts() -> None:
    text = '{"list": [{"a": [{"n": 1.10}, {"n": 2.0}]}, {"a": []}, {"a": [{"n": 1E2}]}], "other": 5}'
    events, problems = map_body(text, events=[{"each": "body.list[].a[]"}], map={"event": "'x'", "distinct_id": "'p'"})
    assert problems == []
    assert [event.data_json for event in events] == ['{"n": 1.10}', '{"n": 2.0}', '{"n": 1E2}']


def test_data_may_be_an_object_of_values() -> None:
    data = {
        "price": "body.order.price",
        "all": "body.order",
        "inner": {"sum": "body.order.n + 1", "text": "#{{ body.order.n }}"},
        "null": "body.null",
        "first": ["body.missing", "body.null", "body.order.n"],
        "header": "headers['x-a']",
    }
    body = '{"order": {"price": 1.50, "n": 2}, "null": null}'
    event = one_event(body, map={"event": "'x'", "distinct_id": "'p'", "data": data}, headers={"x-a": "ä"})
    assert event.data_json == (
        '{"price":1.50,"all":{"price": 1.50, "n": 2},"inner":{"sum":3,"text":"#2"},"null":null,"first":2,"header":"ä"}'
    )
    assert event.data == json.loads(event.data_json)
    assert event.warnings == ()


def test_a_missing_field_of_data_is_left_out_with_a_warning() -> None:
    data = {"a": "body.a", "in": {"b": "body.x.y"}}
    event = one_event({"a": 1}, map={"event": "'x'", "distinct_id": "'p'", "data": data})
    assert event.data_json == '{"a":1,"in":{}}'
    assert event.warnings == ("data.in.b: nothing at body.x.y; the field was left out",)


@pytest.mark.parametrize(
    ("body", "text"), [("[1.0, 2]", "[1.0, 2]"), ('"hi"', '"hi"'), ("5.50", "5.50"), ("null", "null")]
)
def test_data_that_are_no_object_become_one(body: str, text: str) -> None:
    event = one_event(body, map={"event": "'x'", "distinct_id": "'p'"})
    assert event.data_json == '{"value":' + text + "}"
    assert event.data == {"value": json.loads(text)}


def test_missing_data_are_a_problem() -> None:
    events, (problem,) = map_body({"a": 1}, map={"event": "'x'", "distinct_id": "'p'", "data": ["body.b", "body.c"]})
    assert events == []
    assert (problem.path, problem.message) == ("map.data", "the data are missing: nothing at body.b, body.c")


# Bodies


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", "", "application/vnd.acme+json", "text/html"])
def test_json_is_read_under_any_media_type(media_type: str) -> None:
    assert one_event({"type": "x", "who": "a"}, media_type=media_type).distinct_id == "a"


def test_a_form_is_an_object_of_its_fields() -> None:
    event = one_event(b"type=x&who=a+b%20c&who2=&tag=1&tag=2&tag=3", media_type=FORM)
    assert event.distinct_id == "a b c"
    assert event.data == {"type": "x", "who": "a b c", "who2": "", "tag": ["1", "2", "3"]}
    assert json.loads(event.data_json) == event.data


def test_a_form_with_json_in_payload_is_that_json() -> None:
    event = one_event(b"payload=%7B%22type%22%3A%22x%22%2C%22who%22%3A1.50%7D", media_type=FORM)
    assert (event.distinct_id, event.data_json) == ("1.5", '{"type":"x","who":1.50}')


def test_a_form_with_further_fields_is_no_payload() -> None:
    event = one_event(b"payload=%7B%7D&type=x&who=a", media_type=FORM)
    assert event.data["payload"] == "{}"


def test_other_text_is_the_field_text() -> None:
    rule = {"event": "'x'", "distinct_id": "'p'"}
    assert one_event("hello", media_type="text/plain", map=rule).data == {"text": "hello"}
    assert one_event("{not json", media_type="text/plain", map=rule).data == {"text": "{not json"}


def test_an_empty_body_is_an_empty_object() -> None:
    event = one_event(b"", map={"event": "query.e", "distinct_id": "query.p"}, query={"e": "x", "p": "a"})
    assert (event.event, event.data_json) == ("x", "{}")


@pytest.mark.parametrize(
    ("body", "media_type", "message"),
    [
        (b"{not json", JSON, "the body is not JSON"),
        (b"\xff\xfe\x00", "text/plain", "the body is neither JSON, a form nor text in UTF-8 (text/plain)"),
        (b"a=%ff", FORM, "the body is a form that is not in UTF-8"),
        (b"a=%00", FORM, "a: contains a NUL character"),
        (b"&".join([b"a=1"] * 10_001), FORM, "the body is a form, and it has more than 10,000 fields"),
        (b'{"A": "\\ud800"}', JSON, "A: contains half of a surrogate pair"),
        (b'{"a": 1e999999}', JSON, "a: the number 1e999999 is beyond what can be stored"),
        (b'{"a": {"b": 1, "b": 2}}', JSON, "the name a.b appears twice in its object"),
        (b"[" * 100_000, JSON, "the body is nested more than 64 levels deep"),
        (b'{"a":' * 100_000, JSON, "the body is nested more than 64 levels deep"),
    ],
)
def test_an_unreadable_body_is_one_problem(body: bytes, media_type: str, message: str) -> None:
    events, (problem,) = map_body(body, media_type=media_type)
    assert events == []
    assert (problem.item, problem.path) == (None, "body")
    assert problem.message.startswith(message)


# Phones and persons

PERSON = {"event": "'x'", "distinct_id": "body.who", "phone": ["body.phone", "body.other"]}


@pytest.mark.parametrize(
    ("phone", "region", "found"),
    [
        ("98765 43210", "IN", "+919876543210"),
        ("098765-43210", "IN", "+919876543210"),
        ("919876543210", "IN", "+919876543210"),
        ("+91 98765 43210", "IN", "+919876543210"),
        ("+1 415 555 0100", "IN", "+14155550100"),
        (9876543210, "IN", "+919876543210"),
        ("(415) 555-0100", "US", "+14155550100"),
        ("+919876543210", None, "+919876543210"),
        ("98765 43210", None, None),
        (9876543210, None, None),
        ("12345", "IN", None),
        ("555-0100", "US", None),
        ("none", "IN", None),
        (10**80, "IN", None),
        (True, "IN", None),
        ({"number": "+919876543210"}, "IN", None),
    ],
)
def test_a_region_makes_national_numbers_usable(phone: Any, region: str | None, found: str | None) -> None:
    changes = {} if region is None else {"region": region}
    event = one_event({"who": "a", "phone": phone}, map=PERSON, **changes)
    assert event.phone == found
    assert event.extra_json == (None if found else '{"phone":' + json.dumps(phone) + "}")
    assert len(event.warnings) == (0 if found else 1)


def test_the_first_usable_phone_counts() -> None:
    event = one_event({"who": "a", "phone": "none", "other": "+919876543210"}, map=PERSON)
    assert (event.phone, event.extra_json, event.warnings) == ("+919876543210", None, ())


def test_without_a_person_the_event_is_about_the_digits_of_the_phone() -> None:
    event = one_event({"phone": "+919876543210"}, map=PERSON)
    assert event.distinct_id == "919876543210"


def test_phone_among_the_persons_means_its_digits() -> None:
    rule = {**PERSON, "distinct_id": ["body.who", "phone", "body.shop"]}
    assert one_event({"phone": "+919876543210", "shop": "s"}, map=rule).distinct_id == "919876543210"
    assert one_event({"phone": "none", "shop": "s"}, map=rule).distinct_id == "s"


def test_without_a_person_and_a_usable_phone_there_is_no_event() -> None:
    events, (problem,) = map_body({"phone": "none"}, map=PERSON)
    assert events == []
    assert problem.path == "map.distinct_id"
    assert problem.message.startswith(
        "whom the event is about is missing: nothing at body.who, and the phone must begin with +"
    )


# Times and dedupe ids


@pytest.mark.parametrize("sent", ["2026-11-29T10:15:00+05:30", 1795927500, "1795927500", 1795927500000])
def test_a_time_is_read_in_all_its_forms(sent: Any) -> None:
    event = one_event({"at": sent}, map={"event": "'x'", "distinct_id": "'p'", "occurred_at": ["body.no", "body.at"]})
    assert event.occurred_at == datetime(2026, 11, 29, 4, 45, tzinfo=UTC)
    assert event.warnings == ()


def test_a_value_that_is_no_time_is_kept_with_a_warning() -> None:
    rule = {"event": "'x'", "distinct_id": "'p'", "occurred_at": "body.at"}
    event = one_event({"at": "2026-11-29 10:15"}, map=rule)
    assert (event.occurred_at, event.extra_json) == (None, '{"occurred_at":"2026-11-29 10:15"}')
    assert event.warnings[0].startswith("occurred_at: '2026-11-29 10:15' is neither RFC 3339")
    assert one_event({"at": None}, map=rule).warnings == ()


def test_an_id_of_the_delivery_gets_the_position_of_the_member() -> None:
    events, _ = map_body(
        {"id": "d", "lines": [1, 2], "tags": ["a"]},
        events=[
            {"each": "body.lines[]"},
            {"where": "true", "map": {"event": "'order'"}},
            {"each": "body.tags[]", "map": {"dedupe": "item"}},
            {"each": "body.tags[]", "map": {"dedupe": "{{ body.id }}:{{ item }}"}},
        ],
        map={"event": "'x'", "distinct_id": "'p'", "dedupe": "body.id"},
    )
    assert [event.dedupe for event in events] == ["d#0", "d#1", "d#e1", "a", "d:a"]


def test_without_a_dedupe_id_there_is_a_warning() -> None:
    event = one_event({}, map={"event": "'x'", "distinct_id": "'p'", "dedupe": ["body.id", "headers['x-id']"]})
    assert event.dedupe is None
    assert event.warnings == ("dedupe: nothing at body.id, headers['x-id']; a repeated delivery is not recognised",)
