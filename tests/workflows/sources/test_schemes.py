"""Mistakes in the `verify` section of a source."""

from __future__ import annotations

from typing import Any

import pytest

from app.workflows.sources.schemes import Location, check_scheme, merge_scheme, read_scheme

HMAC = {"hmac": "sha256", "header": "x-signature"}
STRIPE = {
    "hmac": "sha256",
    "header": "stripe-signature",
    "fields": {"timestamp": "t", "signature": "v1"},
    "signed": "{timestamp}.{body}",
}


@pytest.mark.parametrize(
    ("section", "path", "message"),
    [
        (None, "verify", "must be none, or have one of hmac, ecdsa, shared, basic"),
        ("all", "verify", "must be none, or have one of"),
        ([], "verify", "must be none, or have one of"),
        ({"header": "x"}, "verify", "must be none, or have one of"),
        ({**HMAC, "basic": "shop"}, "verify", "must be none, or have one of"),
        ({**HMAC, "algorithm": "sha1"}, "verify.algorithm", "is unknown; a section with hmac has hmac, encoding"),
        ({**HMAC, "hmac": "crc32"}, "verify.hmac", "must be one of sha256, sha512, sha384, sha1, md5"),
        ({**HMAC, "hmac": ["sha1"]}, "verify.hmac", "must be one of"),
        ({"ecdsa": "sha1", "header": "x-signature"}, "verify.ecdsa", "must be one of sha256"),
        ({**HMAC, "encoding": "HEX"}, "verify.encoding", "must be one of hex, base64, base64url"),
        ({**HMAC, "secret_encoding": "b64"}, "verify.secret_encoding", "must be one of text, base64, hex"),
        ({"hmac": "sha256"}, "verify", "must have one of header, query, body"),
        ({**HMAC, "query": "sig"}, "verify", "must have one of header, query, body"),
        ({**HMAC, "header": "x signature"}, "verify.header", "must be the name of a header"),
        ({**HMAC, "header": []}, "verify.header", "must have 1 to 5 names"),
        ({**HMAC, "header": ["x", 5]}, "verify.header", "must be the name of a header"),
        ({"hmac": "sha256", "query": ""}, "verify.query", "must be text of 1 to 200 characters"),
        ({**HMAC, "prefix": 5}, "verify.prefix", "must be text of 1 to 200 characters"),
        ({**HMAC, "separator": ""}, "verify.separator", "must be text of 1 to 200 characters: such as ','"),
        ({**HMAC, "signed": 5}, "verify.signed", "must be text of 1 to 200 characters"),
        ({**HMAC, "signed": "{body"}, "verify.signed", "has a brace without its partner"),
        ({**HMAC, "signed": "{payload}{body}"}, "verify.signed", "{payload} is unknown; use {body}, {unpacked_body}"),
        ({**HMAC, "signed": "{header:x y}{body}"}, "verify.signed", "{header} is unknown"),
        ({**HMAC, "signed": "{id}{body}"}, "verify.signed", "contains {id}, and id has no location"),
        ({**HMAC, "signed": "{url}"}, "verify.signed", "must contain {body}, {unpacked_body} or {form}, else anybody"),
        (
            {**HMAC, "timestamp": {"header": "x-time"}},
            "verify.signed",
            "does not contain {timestamp}: timestamp could be forged",
        ),
        ({**HMAC, "timestamp": "x-time"}, "verify.timestamp", "must have one of header, query, body"),
        ({**HMAC, "id": {"header": "x", "prefix": "v"}, "signed": "{body}"}, "verify.signed", "does not contain {id}"),
        ({**HMAC, "id": {"header": "x", "as": "v"}}, "verify.id.as", "is unknown; a header has prefix"),
        ({**HMAC, "tolerance": "5m"}, "verify.tolerance", "has no effect without a timestamp"),
        ({**STRIPE, "tolerance": "5"}, "verify.tolerance", "'5' is not a duration; write it like 90s"),
        ({**STRIPE, "tolerance": 300}, "verify.tolerance", "300 is not a duration"),
        ({**STRIPE, "fields": {"timestamp": "t"}}, "verify.fields", "must name the field of the signature"),
        (
            {**STRIPE, "fields": {"signature": "v1", "nonce": "n"}},
            "verify.fields.nonce",
            "is unknown; fields has signature",
        ),
        ({**STRIPE, "timestamp": {"header": "x"}}, "verify.fields.timestamp", "cannot be combined with timestamp"),
        ({**STRIPE, "prefix": "v1="}, "verify.prefix", "cannot be combined with fields"),
        ({**HMAC, "body_hash": "h"}, "verify.body_hash", "needs {url} in signed"),
        (
            {**HMAC, "public_url": "events.example.com"},
            "verify.public_url",
            "must be scheme and host, such as https://",
        ),
        ({**HMAC, "public_url": "https://example.com/hooks"}, "verify.public_url", "must be scheme and host"),
        ({**HMAC, "public_url": "https://["}, "verify.public_url", "must be scheme and host"),
        ({"shared": "x-api-key"}, "verify.shared", "must have one of header, query, body, such as header: x-signature"),
        ({"shared": []}, "verify.shared", "must have 1 to 5 members"),
        ({"shared": [{"header": "x"}, {"cookie": "y"}]}, "verify.shared[1]", "must have one of header, query, body"),
        ({"shared": {"header": "x"}, "prefix": "y"}, "verify.prefix", "is unknown; a section with shared has shared"),
        ({"basic": None}, "verify.basic", "must be text of 1 to 200 characters: the user name"),
    ],
)
def test_a_mistake_has_its_path_and_says_what_is_right(section: Any, path: str, message: str) -> None:
    found = check_scheme(section)
    assert path in [where for where, _ in found]
    assert next(text for where, text in found if where == path).startswith(message)


def test_all_mistakes_are_found_at_once() -> None:
    section = {"hmac": "crc32", "encoding": "HEX", "header": "x y", "secret_prefix": 5, "id": 5}
    assert {path for path, _ in check_scheme(section)} == {
        "verify.hmac",
        "verify.encoding",
        "verify.header",
        "verify.secret_prefix",
        "verify.id",
    }


def test_an_account_may_change_a_part_of_a_preset() -> None:
    merged = merge_scheme(STRIPE, {"tolerance": "1h"})
    scheme = read_scheme(merged)
    assert check_scheme(merged) == []
    assert scheme is not None
    assert (scheme.tolerance, scheme.field_names) == (3_600, STRIPE["fields"])


@pytest.mark.parametrize("own", ["none", {"basic": "shop"}, HMAC, 5])
def test_a_section_with_a_kind_replaces_that_of_the_preset(own: Any) -> None:
    assert merge_scheme(STRIPE, own) == own


def test_the_presets_section_counts_if_the_account_has_none() -> None:
    assert merge_scheme(STRIPE, None) == STRIPE
    assert merge_scheme(None, HMAC) == HMAC


def test_the_tolerance_is_five_minutes_unless_the_section_says_another() -> None:
    sections = [STRIPE, {**STRIPE, "tolerance": "90s"}, {**STRIPE, "tolerance": "none"}, HMAC]
    schemes = [scheme for section in sections if (scheme := read_scheme(section))]
    assert [scheme.tolerance for scheme in schemes] == [300, 90, None, None]


@pytest.mark.parametrize(
    ("section", "locations"),
    [
        ({"shared": [{"header": "X-Key"}, {"query": "key"}]}, (Location("header", "x-key"), Location("query", "key"))),
        ({"basic": "shop"}, (Location("header", "authorization", "Basic "),)),
        (HMAC, ()),
    ],
)
def test_a_scheme_knows_where_a_delivery_has_the_secret_itself(section: Any, locations: tuple[Location, ...]) -> None:
    scheme = read_scheme(section)
    assert scheme is not None
    assert scheme.secret_locations == locations
