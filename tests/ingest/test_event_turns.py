"""What an account writes in transactions of its own, which may wait for locks, uses a part of the connections only."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from app.core.account_turns import AccountTurns
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event


@pytest.fixture
def turns(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> AccountTurns:
    """One turn of each account, and no waiting for another one."""
    turns = AccountTurns(1, 0.01)
    monkeypatch.setattr(context, "event_turns", turns)
    return turns


def test_events_that_match_a_pattern_wait_for_a_turn_of_their_account(
    context: AppContext, turns: AccountTurns, acme: Sender, globex: Sender
) -> None:
    for sender in (acme, globex):
        workflows.apply_workflow(context, sender.account_id, a_workflow(name="many", on={"times": 3, "of": "view"}))
    with turns.turn(acme.account_id):
        assert acme.post(an_event(event="view")).status_code == 429
        assert globex.post(an_event(event="view")).status_code == 200
        # It is written together with those of others.
        assert acme.post(an_event(event="order")).status_code == 200
    assert acme.post(an_event(event="view")).status_code == 200


def test_batches_and_events_with_a_key_wait_for_a_turn_of_their_account(turns: AccountTurns, acme: Sender) -> None:
    with turns.turn(acme.account_id):
        assert acme.post(an_event(), Idempotency_Key="one").status_code == 429
        assert acme.post_batch([an_event()]).status_code == 429
    assert acme.post(an_event(), Idempotency_Key="one").status_code == 200


def test_ordinary_events_keep_connections_when_many_accounts_use_all_their_turns(
    context: AppContext, acme: Sender
) -> None:
    with ExitStack() as stack:
        turns = context.event_turns
        for number in range(context.settings.database_pool - 2):
            stack.enter_context(turns.turn(1_000 + number))
            stack.enter_context(context.database.autocommit_connection())
        assert acme.post(an_event()).status_code == 200
        assert turns._together is not None
        assert not turns._together.acquire(blocking=False)


def test_large_bodies_and_batches_of_an_account_are_read_one_at_a_time(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, acme: Sender, globex: Sender
) -> None:
    turns = AccountTurns(1, 0.01)
    monkeypatch.setattr(context, "body_turns", turns)
    large = an_event(data={"text": "x" * 40_000})
    with turns.turn(acme.account_id):
        assert acme.post(large).status_code == 429
        assert acme.post_batch([an_event()]).status_code == 429
        assert acme.post(an_event()).status_code == 200
        assert globex.post(large).status_code == 200
    assert acme.post(large).status_code == 200


def test_events_with_much_to_store_wait_for_a_turn_of_their_account(
    context: AppContext, turns: AccountTurns, acme: Sender, globex: Sender
) -> None:
    for number in range(110):
        document = a_workflow(name=f"w{number}", on={"event": "order", "where": f"data.a != {number} && false"})
        workflows.apply_workflow(context, globex.account_id, document)
    with turns.turn(acme.account_id), turns.turn(globex.account_id):
        assert acme.post(an_event(data={"text": "x" * 20_000})).status_code == 429
        assert acme.post(an_event(data={"text": "x" * 2_000})).status_code == 200
        assert globex.post(an_event(event="order", data={"a": -1})).status_code == 429
    assert globex.post(an_event(event="order", data={"a": -1})).status_code == 200
