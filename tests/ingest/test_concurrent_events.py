"""What an account writes in transactions of its own, which may wait for locks, uses a part of the connections only."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from flask.testing import FlaskClient

from app.core.concurrency_limit import ConcurrencyLimit
from app.core.models import PLANS
from app.services import accounts, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.sources import a_source, an_order


@pytest.fixture
def limit(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimit:
    """One permit for each account, and no waiting for another one."""
    limit = ConcurrencyLimit(1, 0.01)
    monkeypatch.setattr(context.limits, "events", limit)
    return limit


def test_events_that_match_a_pattern_wait_for_a_permit_of_their_account(
    context: AppContext, limit: ConcurrencyLimit, acme: Sender, globex: Sender
) -> None:
    for sender in (acme, globex):
        workflows.apply_workflow(context, sender.account_id, a_workflow(name="many", on={"times": 3, "of": "view"}))
    with limit.acquire(acme.account_id):
        assert acme.post(an_event(event="view")).status_code == 429
        assert globex.post(an_event(event="view")).status_code == 200
        # It is written together with those of others.
        assert acme.post(an_event(event="order")).status_code == 200
    assert acme.post(an_event(event="view")).status_code == 200


def test_batches_and_events_with_a_key_wait_for_a_permit_of_their_account(
    limit: ConcurrencyLimit, acme: Sender
) -> None:
    with limit.acquire(acme.account_id):
        assert acme.post(an_event(), Idempotency_Key="one").status_code == 429
        assert acme.post_batch([an_event()]).status_code == 429
    assert acme.post(an_event(), Idempotency_Key="one").status_code == 200


def test_ordinary_events_keep_connections_when_many_accounts_use_all_their_permits(
    context: AppContext, acme: Sender
) -> None:
    with ExitStack() as stack:
        limit = context.limits.events
        for number in range(context.settings.database_pool - 2):
            stack.enter_context(limit.acquire(1_000 + number))
            stack.enter_context(context.database.autocommit_connection())
        assert acme.post(an_event()).status_code == 200
        assert limit._together is not None
        assert not limit._together.acquire(blocking=False)


def test_large_bodies_and_batches_of_an_account_are_read_one_at_a_time(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, acme: Sender, globex: Sender
) -> None:
    limit = ConcurrencyLimit(1, 0.01)
    monkeypatch.setattr(context.limits, "bodies", limit)
    large = an_event(data={"text": "x" * 40_000})
    with limit.acquire(acme.account_id):
        assert acme.post(large).status_code == 429
        assert acme.post_batch([an_event()]).status_code == 429
        assert acme.post(an_event()).status_code == 200
        assert globex.post(large).status_code == 200
    assert acme.post(large).status_code == 200


def test_events_with_much_to_store_wait_for_a_permit_of_their_account(
    context: AppContext, limit: ConcurrencyLimit, acme: Sender, globex: Sender
) -> None:
    for number in range(110):
        document = a_workflow(name=f"w{number}", on={"event": "order", "where": f"data.a != {number} && false"})
        workflows.apply_workflow(context, globex.account_id, document)
    with limit.acquire(acme.account_id), limit.acquire(globex.account_id):
        assert acme.post(an_event(data={"text": "x" * 20_000})).status_code == 429
        assert acme.post(an_event(data={"text": "x" * 2_000})).status_code == 200
        assert globex.post(an_event(event="order", data={"a": -1})).status_code == 429
    assert globex.post(an_event(event="order", data={"a": -1})).status_code == 200


def test_a_large_delivery_beyond_the_plan_is_refused_before_it_is_mapped(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, client: FlaskClient, acme: Sender
) -> None:
    limit = ConcurrencyLimit(1, 0.01)
    monkeypatch.setattr(context.limits, "bodies", limit)
    shop = a_source(context, client, acme.account_id)
    large = an_order(1, text="x" * 40_000)
    with limit.acquire(acme.account_id):
        assert "at the same time" in shop.post(large).get_json()["detail"]
    accounts.change_plan(context, acme.account_id, PLANS["standard"], 1)
    # Writing it finds the new plan.
    assert shop.post(an_order(99)).status_code == 200
    # The window lasts as many seconds as events open it.
    orders = [an_order(number) for number in range(60)]
    while shop.post(orders).status_code == 429:
        time.sleep(0.1)
    with limit.acquire(acme.account_id):
        # The account is known to be beyond its limit for a second.
        for _ in range(10):
            assert shop.post(an_order(100)).status_code == 429
            answer = shop.post(large)
            if "at the same time" not in answer.get_json()["detail"]:
                break
        assert "The account's limit is 1 events a second." in answer.get_json()["detail"]
        assert answer.headers["RateLimit-Remaining"] == "0"
