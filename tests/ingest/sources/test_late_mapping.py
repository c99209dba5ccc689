"""Mapping of deliveries and the account's share of the process: what exceeds it is stored at once and mapped by a worker."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from app.core import metrics
from app.core.work_shares import BURST, WorkShares
from app.db.job_queue import Job
from app.ingest.sources.delivery_replay import DeliveryReplayer
from app.services import workflows
from app.services.context import AppContext
from app.worker.handlers import call_handler, make_handlers
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.clocks import Clock
from tests.support.run_execution import with_executor
from tests.support.sources import ASource, a_source, an_order

# Costs more than paths alone.
CEL = {"event": "'order'", "distinct_id": "item.who", "data": "item", "dedupe": "string(item.id) + '!'"}


@pytest.fixture
def shares(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> WorkShares:
    """The shares of the process, for which time stands still."""
    shares = WorkShares(Clock())
    monkeypatch.setattr(context.limits, "shares", shares)
    return shares


@pytest.fixture
def shop(context: AppContext, client: FlaskClient, acme: Sender) -> ASource:
    """A source of acme with more than paths."""
    return a_source(context, client, acme.account_id, map=CEL)


def use_up(shares: WorkShares, account_id: int, other: Sender) -> None:
    shares.spend(account_id, 2 * BURST)
    assert other.post(an_event(event="other")).status_code == 200


def jobs_of(context: AppContext, delivery_id: str) -> list[Job]:
    with context.database.transaction() as connection:
        query = "SELECT id, kind, payload, attempts FROM jobs WHERE payload LIKE '%%:' || %(id)s"
        return [Job(*row) for row in connection.exec_driver_sql(query, {"id": delivery_id})]


def work(context: AppContext, job: Job) -> None:
    """Do a job as a worker does, in another process."""
    with_executor(
        context.with_own_shares(), lambda executor: call_handler(make_handlers(executor), job.kind, job.payload)
    )


def stored(context: AppContext, account_id: int, table: str) -> list[tuple[Any, ...]]:
    columns = {
        "deliveries": "result, problems, jsonb_array_length(events)",
        "events": "distinct_id, data",
        "runs": "status",
    }
    with context.database.transaction() as connection:
        query = f"SELECT {columns[table]} FROM {table} WHERE account_id = %(account)s ORDER BY id"
        return [tuple(row) for row in connection.exec_driver_sql(query, {"account": account_id})]


def test_mapping_takes_units_of_its_accounts_share(shop: ASource, shares: WorkShares, globex: Sender) -> None:
    assert globex.post(an_event(event="other")).status_code == 200
    assert shop.post([an_order(number) for number in range(50)]).status_code == 200
    assert 50 * 200 < BURST - shares._left[shop.account_id] < 50 * 2_000


def test_a_delivery_beyond_the_share_is_stored_and_mapped_once_by_a_worker(
    context: AppContext, shop: ASource, shares: WorkShares, globex: Sender
) -> None:
    workflows.apply_workflow(context, shop.account_id, a_workflow(on="order"))
    use_up(shares, shop.account_id, globex)
    before = metrics.deliveries.labels("postponed")._value.get()
    answer = shop.post([an_order(1), an_order(2)])
    assert (answer.status_code, answer.json["result"], answer.json["events"]) == (200, "unmapped", [])
    assert "a worker maps it" in answer.json["problems"][0]["message"]
    assert metrics.deliveries.labels("postponed")._value.get() == before + 1
    (job,) = jobs_of(context, answer.json["delivery"])
    assert job.kind == "map"
    for _ in range(2):
        work(context, job)
    assert stored(context, shop.account_id, "deliveries") == [("accepted", None, 2)]
    assert stored(context, shop.account_id, "events") == [("buyer 1", an_order(1)), ("buyer 2", an_order(2))]
    assert len(stored(context, shop.account_id, "runs")) == 2


def test_a_postponed_delivery_may_be_mapped_by_a_person_before(
    context: AppContext, shop: ASource, shares: WorkShares, globex: Sender
) -> None:
    use_up(shares, shop.account_id, globex)
    delivery_id = shop.post(an_order(1)).json["delivery"]
    assert DeliveryReplayer(context, shop.account_id).replay(UUID(delivery_id)).result == "accepted"
    work(context, jobs_of(context, delivery_id)[0])
    assert len(stored(context, shop.account_id, "events")) == 1


def test_a_mapping_of_paths_is_not_postponed(
    context: AppContext, client: FlaskClient, acme: Sender, shares: WorkShares, globex: Sender
) -> None:
    source = a_source(context, client, acme.account_id)
    use_up(shares, acme.account_id, globex)
    assert source.post(an_order(1)).json["result"] == "accepted"
    assert source.post(an_order(2, filler=[0] * 20_000)).json["result"] == "unmapped"


def test_an_account_that_is_alone_is_not_postponed(shop: ASource, shares: WorkShares) -> None:
    shares.spend(shop.account_id, 2 * BURST)
    assert shop.post(an_order(1)).json["result"] == "accepted"
