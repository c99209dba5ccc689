"""Mistakes of source documents are found, all at once, with their lines and columns."""

from __future__ import annotations

import pytest

from app.workflows.sources.document import check_source, compile_source, to_document
from app.workflows.yaml_loader import read_document

HEAD = "name: a\nprovider: stripe\nsecrets: ['{{ secrets.A }}']\n"


def mistakes(text: str) -> list[str]:
    return list(map(str, check_source(read_document(text))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: a b\nprovider: stripe\nsecrets: ['{{ secrets.A }}']\n",
            "name (line 1, column 7): must be 1 to 100 letters",
        ),
        (HEAD + "colour: red\n", "colour (line 4, column 1): is unknown; a source has the fields name, description"),
        (HEAD + "event: body.x\n", "event (line 4, column 1): is unknown; a source has the fields"),
        (HEAD + "region: in\n", "region (line 4, column 9): must be the two upper-case letters of a country"),
        (HEAD + "unverified: drop\n", "unverified (line 4, column 13): must be refuse or store"),
        (
            HEAD + "verify_token: '{{ secrets.B }}'\n",
            "verify_token (line 4, column 15): has no effect: the handshake has no",
        ),
        (HEAD + "verify: {hmac: crc32, header: x}\n", "verify.hmac (line 4, column 16): must be one of sha256"),
        (
            HEAD + "handshake: {method: PUT, allow_origin: true}\n",
            "handshake.method (line 4, column 21): must be one of GET",
        ),
        (
            "name: a\nprovider: acme\n",
            "provider (line 2, column 11): is not known; known are cloudevents, github, listener",
        ),
        ("name: a\nprovider: stripe\n", "secrets (line 1, column 1): is missing: what deliveries are verified with"),
        (
            "name: a\nprovider: stripe\nsecrets: [hush]\n",
            'secrets[0] (line 3, column 11): must be "{{ secrets.SHOPIFY }}"',
        ),
        (
            "name: a\nmap: {event: body.x, phone: body.y}\n",
            "verify (line 1, column 1): is missing: how a delivery proves who sent it",
        ),
        (
            "name: a\nverify: none\nmap:\n  event: body.x\n",
            "map.distinct_id (line 3, column 1): is missing, and so is phone",
        ),
        (
            "name: a\nverify: none\nmap:\n  phone: body.x\n",
            "map.event (line 3, column 1): is missing: the name of the event",
        ),
        (
            HEAD + "map:\n  event: order.id\n",
            "map.event (line 5, column 10): order is not known; a path begins with body,",
        ),
        (HEAD + "map:\n  event: 1 +\n", "map.event (line 5, column 10): unexpected end"),
        (HEAD + "map:\n  event: body.event-data.id\n", "a name with a hyphen is written ['event-data']"),
        (
            HEAD + "map:\n  phone: [body.a, item.b]\n",
            "map.phone[1] (line 5, column 19): item is known only in an entry",
        ),
        (HEAD + "map:\n  event: body.list[].x\n", "map.event (line 5, column 10): unexpected ]"),
        (
            HEAD + "map:\n  event: '{{ body.x | foo }}'\n",
            "map.event (line 5, column 10): in the template: line 1, column",
        ),
        (HEAD + "map:\n  event: '{{ data.x }}'\n", "data is unknown; a template can read body, headers, query"),
        (HEAD + "map:\n  event: '{{ secrets.A }}'\n", "map.event (line 5, column 10): in the template"),
        (HEAD + "map:\n  event: \"{{ headers['X-A'] }}\"\n", "the names of headers are in lower case: headers['x-a']"),
        (HEAD + "map:\n  event: \"headers['X-A'] + 'b'\"\n", "the names of headers are in lower case: headers['x-a']"),
        (HEAD + "map:\n  data: {a: {b: order.x}}\n", "map.data.a.b (line 5, column 17): order is not known"),
        (HEAD + "map:\n  data: {a: {b: {c: {d: {e: {f: body.x}}}}}}\n", "is nested more than 5 levels deep"),
        (
            HEAD + "events:\n  - each: body.a\n",
            "events[0].each (line 5, column 11): must be a path to the members of a list",
        ),
        (
            HEAD + "events:\n  - each: body[][][][][][]\n",
            "events[0].each (line 5, column 11): goes through 6 lists; at most 5",
        ),
        (HEAD + "events:\n  - where: item.x == 1\n", "events[0].where (line 5, column 12): item is not known"),
        (HEAD + "events:\n  - where: body.x + 1\n", "events[0].where (line 5, column 12): gives"),
        (
            HEAD + "events:\n  - map: {event: item.x}\n",
            "events[0].map.event (line 5, column 18): item is known only in an",
        ),
        ("- a\n", "a source must be an object with the fields name, provider and secrets"),
        ("name: [\n", "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_position(text: str, expected: str) -> None:
    found = mistakes(text)
    assert len(found) == 1
    assert expected in found[0]


def test_all_mistakes_are_found_in_the_order_of_their_lines() -> None:
    found = mistakes("name: a b\nprovider: stripe\nsecrets: [x, y]\nregion: 5\nmap:\n  event: 1 +\n  foo: body.x\n")
    assert [text.partition(" ")[0] for text in found] == [
        "name",
        "secrets[0]",
        "secrets[1]",
        "region",
        "map.event",
        "map.foo",
    ]


def test_a_value_of_the_shared_map_may_read_item_if_all_entries_have_each() -> None:
    text = HEAD + "events:\n  - each: body.a[]\n  - each: body.b[]\nmap:\n  data: item\n"
    assert mistakes(text) == []
    assert "item is known only" in mistakes(text.replace("  - each: body.b[]\n", "  - {}\n"))[0]


def test_what_the_account_wrote_is_stored_without_the_preset() -> None:
    value = read_document(HEAD).value
    assert to_document(value) == {"name": "a", "provider": "stripe", "secrets": ["{{ secrets.A }}"]}


def test_a_source_is_compiled_with_its_preset() -> None:
    source = compile_source(read_document(HEAD + "verify: {tolerance: 1h}\nunverified: store\n").value)
    assert (source.name, source.provider, source.unverified) == ("a", "stripe", "store")
    assert (source.secrets, source.secret_names) == (("{{ secrets.A }}",), {"A"})
    assert source.verify is not None
    assert (source.verify.algorithm, source.verify.tolerance) == ("sha256", 3600)
    assert (source.handshake, source.verify_token, source.mapping.region) == (None, None, None)


def test_the_region_of_a_preset_can_be_another() -> None:
    document = {"name": "a", "provider": "razorpay", "secrets": ["{{ secrets.A }}"]}
    assert compile_source(document).mapping.region == "IN"
    assert compile_source({**document, "region": "MY"}).mapping.region == "MY"


def test_verify_none_needs_no_secret() -> None:
    assert mistakes("name: a\nprovider: shopify\nverify: none\n") == []
    assert compile_source({"name": "a", "provider": "shopify", "verify": "none"}).verify is None
