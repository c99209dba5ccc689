"""The same idempotency key with another body: bodies are compared as JSON, and `webhook-id` tolerates a difference."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_sender, an_event

NUMBER = '{"event": "x", "distinct_id": "1", "data": {"n": %s, "m": [1, "a"]}}'


@pytest.fixture
def acme(context: AppContext, client: FlaskClient) -> Sender:
    """The account that sends."""
    return a_sender(context, client)


SAME = [
    ("white space", '{"event":"x","distinct_id":"1"}', ' {\n"event" : "x", "distinct_id": "1" }\n'),
    ("order", '{"event":"x","distinct_id":"1","data":{"a":1,"b":2}}', '{"data":{"b":2,"a":1},"distinct_id":"1","event":"x"}'),
    ("escapes", '{"event":"café","distinct_id":"1\\/2"}', '{"event":"caf\\u00e9","distinct_id":"1/2"}'),
    ("exponent", NUMBER % "100", NUMBER % "1e2"),
    ("capital exponent", NUMBER % "100", NUMBER % "1.0E+2"),
    ("fraction", NUMBER % "199.00", NUMBER % "199"),
    ("trailing zero", NUMBER % "0.10", NUMBER % "0.1"),
    ("small", NUMBER % "0.001", NUMBER % "1e-3"),
    ("zero", NUMBER % "0", NUMBER % "-0.0e5"),
    ("many digits", NUMBER % ("1" + "0" * 5000), NUMBER % "1e5000"),
    ("unknown field", '{"event":"x","distinct_id":"1","q":1.0}', '{"q":1,"event":"x","distinct_id":"1"}'),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [pair[1:] for pair in SAME], ids=[pair[0] for pair in SAME])
def test_bodies_that_are_the_same_json_are_the_same_event(acme: Sender, first: str, second: str) -> None:
    one = acme.post(first, Idempotency_Key="k").json
    again = acme.post(second, Idempotency_Key="k")
    assert (again.status_code, again.json["id"], again.json["duplicate"]) == (200, one["id"], True)


DIFFERENT = [
    ("value", NUMBER % "1", NUMBER % "2"),
    ("sign", NUMBER % "1", NUMBER % "-1"),
    ("last of many digits", NUMBER % "12345678901234567890123", NUMBER % "12345678901234567890124"),
    ("last digit behind the point", NUMBER % "0.1234567890123456789", NUMBER % "0.1234567890123456788"),
    ("number and text", NUMBER % "1", NUMBER % '"1"'),
    ("number and its text in a list", NUMBER % "[1]", NUMBER % '["1"]'),
    ("true and one", NUMBER % "1", NUMBER % "true"),
    ("null and absent", '{"event":"x","distinct_id":"1","data":{"a":null}}', '{"event":"x","distinct_id":"1","data":{}}'),
    ("order of a list", NUMBER % "[1, 2]", NUMBER % "[2, 1]"),
    ("unicode normalisation", NUMBER % '"é"', NUMBER % '"e\u0301"'),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [pair[1:] for pair in DIFFERENT], ids=[pair[0] for pair in DIFFERENT])
def test_bodies_that_are_different_json_are_refused(acme: Sender, first: str, second: str) -> None:
    assert acme.post(first, Idempotency_Key="k").status_code == 200
    answer = acme.post(second, Idempotency_Key="k")
    assert (answer.status_code, answer.json["type"]) == (422, "urn:signalbox:idempotency-key-reused")


def with_the_digest_of_an_earlier_release(rows: Rows, sender: Sender, body: bytes) -> None:
    query = "UPDATE idempotency_keys SET digest = %s WHERE account_id = %s"
    rows(query, hashlib.sha256(body).digest(), sender.account_id)


def test_the_digest_of_an_earlier_release_is_taken(acme: Sender, rows: Rows) -> None:
    body = json.dumps(an_event()).encode()
    first = acme.post(body, Idempotency_Key="k").json
    with_the_digest_of_an_earlier_release(rows, acme, body)
    again = acme.post(body, Idempotency_Key="k").json
    assert (again["id"], again["duplicate"]) == (first["id"], True)
    assert acme.post(an_event(event="other"), Idempotency_Key="k").status_code == 422


def test_the_digest_of_an_earlier_release_is_taken_for_an_item_of_a_batch(acme: Sender, rows: Rows) -> None:
    item = json.dumps(an_event(idempotency_key="k")).encode()
    first = acme.post_batch(b"[%b]" % item).json
    with_the_digest_of_an_earlier_release(rows, acme, item)
    again = acme.post_batch(b"[%b]" % item).json
    assert (again["ids"], again["duplicates"]) == (first["ids"], 1)


def test_a_batch_and_a_single_event_with_one_key_and_the_same_content_are_the_same_event(acme: Sender) -> None:
    first = acme.post(an_event(), Idempotency_Key="k").json
    again = acme.post_batch([an_event(idempotency_key="k")]).json
    assert (again["ids"], again["duplicates"], again["errors"]) == ([first["id"]], 1, [])


def test_items_of_a_batch_are_compared_as_json(acme: Sender) -> None:
    lines = b'{"event":"x","distinct_id":"1","data":{"n":1},"idempotency_key":"k"}\n'
    lines += b'{"idempotency_key":"k", "data":{"n":1.0}, "distinct_id":"1", "event":"x"}\n'
    answer = acme.post_lines(lines).json
    assert (answer["accepted"], answer["duplicates"], answer["errors"]) == (1, 1, [])


def test_a_webhook_id_with_another_body_is_a_duplicate_with_a_warning(acme: Sender, rows: Rows) -> None:
    first = acme.post(an_event(data={"sent_at": 1}), webhook_id="msg_1").json
    again = acme.post(an_event(data={"sent_at": 2}), webhook_id="msg_1")
    assert (again.status_code, again.json["id"], again.json["duplicate"]) == (200, first["id"], True)
    assert again.json["warnings"] == [
        f"webhook-id: came before with another body; event {first['id']} was stored then, this body is not stored"
    ]
    assert rows("SELECT data FROM events WHERE account_id = %s", acme.account_id) == [({"sent_at": 1},)]


def test_a_webhook_id_with_the_same_body_has_no_warning(acme: Sender) -> None:
    acme.post(an_event(), webhook_id="msg_1")
    assert acme.post(an_event(), webhook_id="msg_1").json["warnings"] == []


def test_an_idempotency_key_beside_a_webhook_id_tolerates_no_other_body(acme: Sender) -> None:
    acme.post(an_event(), Idempotency_Key="k", webhook_id="msg_1")
    assert acme.post(an_event(event="other"), Idempotency_Key="k", webhook_id="msg_1").status_code == 422


def test_a_batch_with_a_repeated_webhook_id_and_other_items_has_only_duplicates(acme: Sender) -> None:
    first = acme.post_batch([an_event(), an_event(event="two")], webhook_id="msg_1").json
    again = acme.post_batch([an_event(), an_event(event="three")], webhook_id="msg_1").json
    assert (again["ids"], again["accepted"], again["duplicates"], again["errors"]) == (first["ids"], 0, 2, [])


@pytest.mark.parametrize(("header", "status"), [("Idempotency-Key", 400), ("webhook-id", 200)])
def test_a_receiver_of_cxengage_has_the_same_rule(acme: Sender, context: AppContext, header: str, status: int) -> None:
    def post(body: str) -> Any:
        headers = {"Authorization": f"Bearer {acme.token}", "Content-Type": "application/json", header: "k"}
        return acme.client.post(f"/1.0/tenants/{acme.slug}/event", data=body.encode(), headers=headers)

    first = post('{"key": "1", "type": "x", "n": 1}').json
    assert post('{"n": 1.0, "type": "x", "key": "1"}').json["id"] == first["id"]
    other = post('{"key": "1", "type": "x", "n": 2}')
    assert other.status_code == status
    assert other.json.get("id", first["id"]) == first["id"]


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_ignored(acme: Sender, rows: Rows) -> None:
    body = json.dumps(an_event(data={"name": "\ufeffx"}), ensure_ascii=False).encode()
    first = acme.post(MARK + body, Idempotency_Key="k").json
    assert acme.post(body, Idempotency_Key="k").json["id"] == first["id"]
    assert rows("SELECT data FROM events WHERE account_id = %s", acme.account_id) == [({"name": "\ufeffx"},)]


def test_a_byte_order_mark_before_a_batch_is_ignored(acme: Sender) -> None:
    item = json.dumps(an_event()).encode()
    assert acme.post_batch(MARK + b"[" + item + b"]").json["accepted"] == 1
    assert acme.post_lines(MARK + item + b"\n" + item).json["accepted"] == 2


def test_a_second_byte_order_mark_is_refused(acme: Sender) -> None:
    assert acme.post(MARK + MARK + json.dumps(an_event()).encode()).status_code == 400


def test_a_byte_order_mark_before_an_event_of_cxengage_is_ignored_in_the_response_too(acme: Sender) -> None:
    headers = {"Authorization": f"Bearer {acme.token}", "Content-Type": "application/json"}
    answer = acme.client.post(f"/1.0/tenants/{acme.slug}/event", data=MARK + b'{"key": "1"}', headers=headers)
    assert (answer.status_code, answer.json["event"]) == (200, {"key": "1"})
