"""`POST /api/v1/cvf-events/batch`: idempotency keys of items and of whole batches."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Rows
from tests.api.limechat.test_batch import stored
from tests.support.builders import Sender, an_event

# Idempotency keys


def event_with_key(key: str, **changes: Any) -> dict[str, Any]:
    return an_event(idempotency_key=key, **changes)


def test_the_same_item_twice_in_a_batch_is_stored_once(acme: Sender, rows: Rows) -> None:
    answer = acme.post_batch([event_with_key("k"), an_event(), event_with_key("k")])
    assert (answer.status_code, answer.json["accepted"], answer.json["duplicates"]) == (200, 2, 1)
    first, _, third = answer.json["ids"]
    assert first == third
    assert len(stored(rows, acme)) == 2
    kept = rows("SELECT idempotency_key, extra FROM events WHERE id = %s", first)
    assert kept == [("k", None)]


def test_another_content_with_the_same_key_is_refused(acme: Sender, rows: Rows) -> None:
    answer = acme.post_batch([event_with_key("k"), event_with_key("k", event="other")])
    assert (answer.status_code, answer.json["accepted"], answer.json["ids"][1]) == (207, 1, None)
    (error,) = answer.json["errors"]
    assert (error["index"], error["field"]) == (1, "idempotency_key")
    assert "item 0 of this batch" in error["message"]
    assert len(stored(rows, acme)) == 1


def test_a_batch_sent_again_stores_nothing_and_returns_the_first_ids(acme: Sender, rows: Rows) -> None:
    items = [event_with_key(f"k{number}") for number in range(50)]
    first, second = acme.post_batch(items).json, acme.post_batch(items[::-1]).json
    assert (second["accepted"], second["duplicates"]) == (0, 50)
    assert second["ids"] == first["ids"][::-1]
    assert len(stored(rows, acme)) == 50


def test_a_key_used_before_with_another_content_is_refused_alone(acme: Sender, rows: Rows) -> None:
    (first,) = acme.post_batch([event_with_key("k")]).json["ids"]
    answer = acme.post_batch(
        [event_with_key("k", event="other"), event_with_key("k", event="other"), event_with_key("l")]
    )
    assert (answer.status_code, answer.json["accepted"], answer.json["duplicates"]) == (207, 1, 0)
    assert [error["index"] for error in answer.json["errors"]] == [0, 1]
    assert first in answer.json["errors"][0]["message"]
    assert len(stored(rows, acme)) == 2


def test_a_refused_item_does_not_use_up_its_key(acme: Sender) -> None:
    assert acme.post_batch([event_with_key("k", event=""), event_with_key("k")]).json["accepted"] == 1


def test_the_batchs_own_key_makes_all_of_it_repeatable(acme: Sender, rows: Rows) -> None:
    items = [an_event(), an_event(), event_with_key("own")]
    first, second = (acme.post_batch(items, Idempotency_Key="batch 7").json for _ in range(2))
    assert (first["accepted"], second["accepted"], second["duplicates"]) == (3, 0, 3)
    assert first["ids"] == second["ids"]
    found = rows("SELECT idempotency_key FROM events WHERE account_id = %s ORDER BY id", acme.account_id)
    assert found == [("batch 7#0",), ("batch 7#1",), ("own",)]


def test_a_batchs_own_key_may_not_be_too_long(acme: Sender) -> None:
    assert acme.post_batch([an_event()], Idempotency_Key="k" * 240).status_code == 200
    assert acme.post_batch([an_event()], Idempotency_Key="k" * 241).status_code == 422


def test_idempotency_keys_belong_to_one_account(acme: Sender, globex: Sender) -> None:
    assert [sender.post_batch([event_with_key("k")]).json["accepted"] for sender in (acme, globex)] == [1, 1]


def test_a_key_is_forgotten_after_30_days(acme: Sender, rows: Rows) -> None:
    acme.post_batch([event_with_key("k")])
    rows("UPDATE idempotency_keys SET received_at = now() - interval '31 days' WHERE account_id = %s", acme.account_id)
    assert acme.post_batch([event_with_key("k", event="other")]).json["accepted"] == 1
