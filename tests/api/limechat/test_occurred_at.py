"""`occurred_at`: when an event happened, as its sender says. It never refuses an event, and what is no time stays in `extra`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.services import workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_workflow, an_event

TEN = datetime(2024, 3, 5, 10, tzinfo=UTC)
TEXT = "2024-03-05T15:30:00+05:30"
WARNING = (
    "occurred_at: must be a time with an offset, such as 2026-11-22T10:00:00+05:30, or seconds or milliseconds since 1970; "
    "the event is stored without it, what was sent is in extra"
)


def stored(rows: Rows, sender: Sender) -> list[tuple[object, ...]]:
    return rows("SELECT occurred_at, extra, warnings FROM events WHERE account_id = %s ORDER BY id", sender.account_id)


@pytest.mark.parametrize("sent", [TEXT, 1709632800, 1709632800.0, 1709632800000, "1709632800"], ids=str)
def test_the_time_is_stored_in_a_column_of_its_own(acme: Sender, rows: Rows, sent: Any) -> None:
    answer = acme.post(an_event(occurred_at=sent))
    assert (answer.status_code, answer.json["warnings"]) == (200, [])
    assert stored(rows, acme) == [(TEN, None, None)]


def test_an_event_with_an_idempotency_key_has_it_too(acme: Sender, rows: Rows) -> None:
    acme.post(an_event(occurred_at=TEXT), Idempotency_Key="k")
    assert stored(rows, acme) == [(TEN, None, None)]


def test_an_event_of_a_pattern_has_it_too(acme: Sender, context: AppContext, rows: Rows) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"times": 2, "of": "product_view"}))
    acme.post(an_event(occurred_at=TEXT))
    assert stored(rows, acme) == [(TEN, None, None)]


def test_an_event_without_it_has_null(acme: Sender, rows: Rows) -> None:
    acme.post(an_event())
    assert stored(rows, acme) == [(None, None, None)]


@pytest.mark.parametrize("sent", [None, ""], ids=repr)
def test_null_and_empty_text_count_as_absent(acme: Sender, rows: Rows, sent: Any) -> None:
    acme.post(an_event(occurred_at=sent, city="Pune"))
    assert stored(rows, acme) == [(None, {"city": "Pune"}, ["unknown fields kept in extra: city"])]


@pytest.mark.parametrize(
    "sent", ["2024-03-05T15:30:00", "yesterday", 0, 20240305, True, 1e20, [TEXT], {"a": 1}], ids=repr
)
def test_what_is_no_time_stays_in_extra_with_a_warning(acme: Sender, rows: Rows, sent: Any) -> None:
    answer = acme.post(an_event(occurred_at=sent))
    assert (answer.status_code, answer.json["warnings"]) == (200, [WARNING])
    assert stored(rows, acme) == [(None, {"occurred_at": sent}, [WARNING])]


def test_every_digit_of_what_is_no_time_is_kept(acme: Sender, rows: Rows) -> None:
    number = "12345678901234567890123.10"
    acme.post(json.dumps(an_event(occurred_at=0)).replace('"occurred_at": 0', f'"occurred_at": {number}'))
    (found,) = rows("SELECT extra ->> 'occurred_at' FROM events WHERE account_id = %s", acme.account_id)
    assert found == (number,)


def test_unknown_fields_have_their_own_warning(acme: Sender) -> None:
    answer = acme.post(an_event(occurred_at="soon", city="Pune"))
    assert answer.json["warnings"] == ["unknown fields kept in extra: city", WARNING]


def test_a_time_in_the_future_is_stored(acme: Sender, rows: Rows) -> None:
    acme.post(an_event(occurred_at="2999-12-31T23:59:59Z"))
    assert stored(rows, acme)[0][0] == datetime(2999, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_an_invalid_event_is_refused_whatever_its_time_is(acme: Sender) -> None:
    for sent in (TEXT, "soon"):
        answer = acme.post(an_event(event="", occurred_at=sent))
        assert [error["field"] for error in answer.json["errors"]] == ["event"]


# Batches


def items() -> list[dict[str, Any]]:
    return [
        an_event(occurred_at=TEXT),
        an_event(),
        an_event(occurred_at=1709632800000, idempotency_key="k"),
        an_event(occurred_at="soon"),
    ]


EXPECTED = [(TEN, None, None), (None, None, None), (TEN, None, None), (None, {"occurred_at": "soon"}, [WARNING])]


def test_the_items_of_an_array_have_it(acme: Sender, rows: Rows) -> None:
    assert acme.post_batch(items()).json["accepted"] == 4
    assert stored(rows, acme) == EXPECTED


def test_the_lines_of_a_batch_have_it(acme: Sender, rows: Rows) -> None:
    assert acme.post_lines(items()).json["accepted"] == 4
    assert stored(rows, acme) == EXPECTED


def test_items_that_start_workflows_have_it(acme: Sender, context: AppContext, rows: Rows) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    acme.post_batch(items())
    assert stored(rows, acme) == EXPECTED


# Repeats


def test_the_same_time_in_another_spelling_is_the_same_event(acme: Sender) -> None:
    first = acme.post(an_event(occurred_at=TEXT), Idempotency_Key="k").json
    again = acme.post(an_event(occurred_at=1709632800), Idempotency_Key="k").json
    assert (again["id"], again["duplicate"]) == (first["id"], True)


@pytest.mark.parametrize("other", [..., "2024-03-05T10:00:01Z", "soon"], ids=str)
def test_another_time_is_another_event(acme: Sender, other: Any) -> None:
    acme.post(an_event(occurred_at=TEXT), Idempotency_Key="k")
    assert acme.post(an_event(occurred_at=other), Idempotency_Key="k").status_code == 422


def test_an_item_of_a_batch_with_another_time_is_another_event(acme: Sender) -> None:
    acme.post_batch([an_event(occurred_at=TEXT, idempotency_key="k")])
    again = acme.post_batch([an_event(occurred_at=1709632800, idempotency_key="k")])
    other = acme.post_batch([an_event(occurred_at=1709632801, idempotency_key="k")])
    assert (again.json["duplicates"], other.status_code) == (1, 207)


# Matching


def test_filters_read_it_and_patterns_keep_the_order_of_acceptance(
    acme: Sender, context: AppContext, rows: Rows
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on={"seq": ["first", "second"]}))
    workflows.apply_workflow(
        context,
        acme.account_id,
        a_workflow(name="late", on={"event": "second", "where": "received_at - occurred_at > duration('1h')"}),
    )
    acme.post(an_event(event="first", occurred_at="2024-03-05T10:00:01Z"))
    answer = acme.post(an_event(event="second", occurred_at="2024-03-05T10:00:00Z"))
    assert len(answer.json["runs"]) == 2


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("occurred_at == null", "matched"),
        ("occurred_at != null && occurred_at < now", "the filter is false"),
        ("(occurred_at == null ? received_at : occurred_at) <= now", "matched"),
        ("occurred_at < now", "incompatible types: occurred_at is null, now is a timestamp"),
    ],
)
def test_without_a_time_filters_read_null(
    acme: Sender, context: AppContext, rows: Rows, where: str, reason: str
) -> None:
    on = {"event": "product_view", "where": where}
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=on))
    answer = acme.post(an_event()).json
    ((decisions,),) = rows("SELECT decisions FROM events WHERE id = %s", answer["id"])
    assert [decision["reason"] for decision in decisions] == [reason]
