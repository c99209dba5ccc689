"""What a process knows of accounts before its first request."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from app.ingest import account_cache
from app.ingest.account_cache import AccountCache
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender, a_workflow


def prefix_of(sender: Sender) -> str:
    return sender.token.split("_")[1]


@pytest.fixture(autouse=True)
def no_key_was_used(context: AppContext) -> None:
    """Keys of other tests are not among those that were used lately."""
    with context.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE keys SET last_used_at = NULL")


def test_accounts_that_were_used_lately_are_loaded_before_their_first_request(
    context: AppContext, client: FlaskClient
) -> None:
    used, unused = a_sender(context, client), a_sender(context, client)
    cache = AccountCache(context)
    cache.record_key_use(prefix_of(used))
    cache.load_recent()
    assert used.account_id in cache._accounts
    assert unused.account_id not in cache._accounts
    assert cache._cached_by_key(prefix_of(used)) is not None


def test_an_account_that_cannot_be_loaded_does_not_keep_others_out(
    context: AppContext, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = a_sender(context, client), a_sender(context, client)
    cache = AccountCache(context)
    for sender in (other, broken):
        cache.record_key_use(prefix_of(sender))
    compile_rules = account_cache.compile_rules
    monkeypatch.setattr(account_cache, "compile_rules", lambda *_, **__: 1 / 0)
    cache.load_recent()
    assert broken.account_id not in cache._accounts
    monkeypatch.setattr(account_cache, "compile_rules", compile_rules)
    cache.load_recent()
    assert {broken.account_id, other.account_id} <= cache._accounts.keys()


def test_the_steps_of_workflows_are_not_loaded(context: AppContext, acme: Sender) -> None:
    steps = [{"log": "a long text " * 1000}]
    workflow = a_workflow(name="big", on="order", key="data.order", again="once", exit_on="paid", steps=steps)
    workflows.apply_workflow(context, acme.account_id, workflow)
    with context.database.transaction() as connection:
        snapshot = account_cache.read_snapshot(connection, acme.account_id)
    assert snapshot is not None
    assert [each.document for each in snapshot.workflows] == [{"on": "order", "key": "data.order", "again": "once"}]


def test_the_load_of_an_account_counts_towards_its_share(context: AppContext, acme: Sender) -> None:
    charged: list[tuple[int, float]] = []
    cache = AccountCache(context, lambda account_id, units: charged.append((account_id, units)))
    for number in range(30):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=f"w{number}"))
    cache.find_by_id(acme.account_id)
    first = charged.pop()
    assert first[0] == acme.account_id
    assert first[1] > 30 * 1_000
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="w1"))
    cache.find_by_id(acme.account_id)
    # Only one workflow is compiled again.
    assert 0 < charged.pop()[1] < first[1] / 2
    cache.find_by_id(acme.account_id)
    assert charged == []
