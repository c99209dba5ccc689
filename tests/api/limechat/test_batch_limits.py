"""`POST /api/v1/cvf-events/batch`: limits of size and rate."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from app.core.models import PLANS
from app.services import accounts
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.api.limechat.test_batch import named, stored
from tests.support.builders import BATCH_PATH, Sender, a_sender, an_event
from tests.support.server import running_server

SMALL = {
    "MAX_BATCH_EVENTS": "5",
    "MAX_BATCH_BYTES": "2000",
    "MAX_BATCH_UNPACKED_BYTES": "4000",
    "MAX_EVENT_BYTES": "1024",
}


@pytest.fixture(scope="module")
def small(context: AppContext) -> Iterator[Sender]:
    """A sender to a server with small limits."""
    with running_server(**settings_of(context), **SMALL) as running:
        yield a_sender(context, running)


# Limits


def test_five_thousand_events_are_accepted(acme: Sender, rows: Rows) -> None:
    answer = acme.post_batch([an_event(data={})] * 5_000)
    assert (answer.status_code, answer.json["accepted"], len(set(answer.json["ids"]))) == (200, 5_000, 5_000)
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", acme.account_id) == [(5_000,)]


@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
def test_one_event_more_is_refused(acme: Sender, rows: Rows, lines: bool) -> None:
    answer = (acme.post_lines if lines else acme.post_batch)([an_event(data={})] * 5_001)
    assert answer.status_code == 413
    assert "5000 events" in answer.json["detail"]
    assert stored(rows, acme) == []


def test_a_body_of_the_limit_is_accepted_and_one_byte_more_is_refused(small: Sender) -> None:
    text = json.dumps(named("one")).encode()
    assert small.post_batch(text.ljust(2_000)).status_code == 200
    assert small.post_batch(text.ljust(2_001)).status_code == 413


def test_a_packed_body_may_hold_more_but_not_too_much(small: Sender) -> None:
    text = json.dumps(named("one")).encode()
    assert small.post_batch(gzip.compress(text.ljust(4_000)), Content_Encoding="gzip").status_code == 200
    assert small.post_batch(gzip.compress(text.ljust(4_001)), Content_Encoding="gzip").status_code == 413


def test_the_number_of_events_is_a_setting(small: Sender) -> None:
    tiny = {"event": "x", "distinct_id": "1"}
    assert small.post_batch([tiny] * 5).status_code == 200
    assert small.post_batch([tiny] * 6).status_code == 413
    assert small.post_lines([tiny] * 6).status_code == 413


def test_each_item_obeys_the_limit_of_a_single_event(small: Sender) -> None:
    answer = small.post_batch([an_event(), an_event(data={"x": "y" * 1_000})])
    assert (answer.status_code, answer.json["accepted"]) == (207, 1)
    assert answer.json["errors"] == [{"index": 1, "field": None, "message": "The event is larger than 1024 bytes."}]


@pytest.mark.parametrize("content_type", ["text/plain", "application/ndjson", "application/json; charset=latin-1", ""])
def test_other_media_types_are_refused(local: Sender, content_type: str) -> None:
    assert local.post_batch([an_event()], Content_Type=content_type).status_code == 415


def test_get_is_refused_with_the_allowed_method(local: Sender) -> None:
    answer = local.client.get(BATCH_PATH)  # type: ignore[union-attr]
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


# Rates


def limited(context: AppContext, client: FlaskClient, rate: int) -> Sender:
    """A new sender with a rate."""
    sender = a_sender(context, client, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], rate)
    return sender


def test_each_event_counts(context: AppContext, client: FlaskClient) -> None:
    sender = limited(context, client, 1_000_000)
    answer = sender.post_batch(named("a", "b", "c"))
    assert answer.headers["RateLimit-Limit"] == "1000000"
    assert answer.headers["RateLimit-Remaining"] == "999997"
    assert answer.headers["RateLimit-Reset"] == "1"


def test_a_batch_larger_than_the_rest_of_the_window_is_refused_as_a_whole(
    context: AppContext, client: FlaskClient, rows: Rows
) -> None:
    sender = limited(context, client, 10)
    answers = [sender.post_batch(named("a", "b", "c")) for _ in range(12)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    assert len(stored(rows, sender)) == 3 * (12 - len(refused))


def test_a_batch_larger_than_the_rate_is_accepted_and_extends_the_window(
    context: AppContext, client: FlaskClient, rows: Rows
) -> None:
    sender = limited(context, client, 2)
    first = sender.post_batch(named(*"abcdefghijklmnopqrst"))
    assert (first.status_code, first.headers["RateLimit-Remaining"], first.headers["RateLimit-Reset"]) == (
        200,
        "0",
        "10",
    )
    second, single = sender.post_batch(named(*"abc")), sender.post(an_event())
    assert (second.status_code, single.status_code) == (429, 429)
    assert 1 < int(second.headers["Retry-After"]) <= 10
    assert f"Retry after {second.headers['Retry-After']} seconds." in second.json["detail"]
    assert len(stored(rows, sender)) == 20


def test_a_batch_larger_than_the_rate_is_refused_after_another_event(context: AppContext, client: FlaskClient) -> None:
    for rate in (20, 5, 2):
        sender = limited(context, client, rate)
        statuses = [sender.post(an_event()).status_code, sender.post_batch(named(*"a" * (rate + 1))).status_code]
        if statuses == [200, 429]:
            return
    pytest.fail("this machine takes more than a second for two requests, three times over")


def test_a_malformed_batch_counts_as_one_event(context: AppContext, client: FlaskClient) -> None:
    sender = limited(context, client, 1_000_000)
    assert sender.post_batch(b"[").headers["RateLimit-Remaining"] == "999999"


def test_a_malformed_batch_above_the_limit_is_answered_with_its_own_problem(
    context: AppContext, client: FlaskClient
) -> None:
    sender = limited(context, client, 2)
    assert sender.post_batch(named(*"a" * 20)).status_code == 200
    answer = sender.post_batch(b"[")
    assert (answer.status_code, answer.headers["RateLimit-Remaining"]) == (400, "0")
