"""An account that has used up its share of a process: its events are stored at once, and a worker matches them later."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.work_shares import BURST, WorkShares
from app.db.late_decisions import LATE
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.clocks import Clock
from tests.support.run_execution import wake

# Each takes some thousand units.
ITEMS = {"l": list(range(250))}


@pytest.fixture
def clock(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the shares, which stands still."""
    clock = Clock()
    monkeypatch.setattr(context.limits, "shares", WorkShares(clock))
    return clock


def add_workflows(context: AppContext, sender: Sender, count: int) -> None:
    for number in range(count):
        where = f"data.l.exists(x, x == {1_000 + number})"
        document = a_workflow(name=f"w{number}", on={"event": "order", "where": where})
        workflows.apply_workflow(context, sender.account_id, document)


def use_up(context: AppContext, acme: Sender, globex: Sender) -> None:
    context.limits.shares.spend(acme.account_id, 2 * BURST)
    assert globex.post(an_event(event="other")).status_code == 200


def decisions_of(context: AppContext, event_id: str) -> list[dict[str, Any]]:
    with context.database.transaction() as connection:
        query = "SELECT decisions FROM events WHERE id = %(id)s"
        found: list[dict[str, Any]] = connection.exec_driver_sql(query, {"id": event_id}).scalar_one()
    return found


def jobs_of(context: AppContext, event_id: str) -> list[str]:
    with context.database.transaction() as connection:
        query = "SELECT kind FROM jobs WHERE payload LIKE '%%:' || %(id)s"
        return list(connection.exec_driver_sql(query, {"id": event_id}).scalars())


def post(sender: Sender, **changes: Any) -> str:
    answer = sender.post(an_event(**changes))
    assert answer.status_code == 200, answer.get_data(as_text=True)
    found: str = answer.get_json()["id"]
    return found


def test_an_account_with_many_workflows_gets_no_more_than_its_share(
    context: AppContext, clock: Clock, acme: Sender, globex: Sender
) -> None:
    add_workflows(context, acme, 30)
    add_workflows(context, globex, 1)
    before = [post(acme, event="order", data=ITEMS) for _ in range(30)]
    assert all(LATE not in str(decisions_of(context, event_id)) for event_id in before)
    assert "false" in decisions_of(context, post(globex, event="order", data=ITEMS))[0]["reason"]
    postponed = [post(acme, event="order", data=ITEMS) for _ in range(3)]
    assert [decisions_of(context, event_id) for event_id in postponed] == 3 * [
        [{"workflow": "all workflows", "version": None, "started": False, "reason": LATE}]
    ]
    assert [jobs_of(context, event_id) for event_id in postponed] == [["match"]] * 3
    clock.now += 1
    assert LATE not in str(decisions_of(context, post(acme, event="order", data=ITEMS)))


def test_an_event_is_matched_as_far_as_the_share_suffices(
    context: AppContext, clock: Clock, acme: Sender, globex: Sender
) -> None:
    add_workflows(context, acme, 60)
    assert globex.post(an_event(event="other")).status_code == 200
    context.limits.shares.spend(acme.account_id, BURST - 25_000)
    event_id = post(acme, event="order", data=ITEMS)
    *done, late = decisions_of(context, event_id)
    assert (late["reason"], {each["reason"] for each in done}) == (LATE, {"the filter is false"})
    wake(context, acme.account_id, event_id)
    *earlier, last = decisions_of(context, event_id)
    assert earlier == done
    assert (last["reason"], last["workflows"]) == ("the filter is false", late["workflows"])
    assert len(late["workflows"]) + sum(len(each.get("workflows", " ")) for each in done) == 60


def test_what_many_workflows_may_take_is_taken_before_and_given_back(
    context: AppContext, clock: Clock, acme: Sender, globex: Sender
) -> None:
    add_workflows(context, acme, 60)
    assert globex.post(an_event(event="other")).status_code == 200
    shares = context.limits.shares
    shares.spend(acme.account_id, BURST - 17_000)
    assert decisions_of(context, post(acme, event="order", data=ITEMS))[0]["workflow"] == "all workflows"
    shares.spend(acme.account_id, -BURST)
    before = shares._left[acme.account_id]
    post(acme, event="order", data={"l": []})
    assert 60 * 60 < before - shares._left[acme.account_id] < 60 * 250


def test_a_worker_starts_what_a_postponed_event_starts(
    context: AppContext, clock: Clock, acme: Sender, globex: Sender
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="one", on="view"))
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="pair", on={"times": 2, "of": "view"}))
    workflows.apply_workflow(
        context, acme.account_id, a_workflow(name="keyed", on={"times": 2, "of": "view"}, key="data.k")
    )
    use_up(context, acme, globex)
    first, second = post(acme, event="view"), post(acme, event="view")
    for event_id in (first, second, first):
        wake(context, acme.account_id, event_id)
    found = {each["workflow"]: each for each in decisions_of(context, second)}
    assert [found[name]["started"] for name in ("one", "pair", "keyed")] == [True, True, False]
    assert "data.k is the key" in found["keyed"]["reason"]
    assert found["other workflows"]["reason"].startswith("not enabled when a worker evaluated the event, at 20")
    with context.database.transaction() as connection:
        query = "SELECT count(*) FROM runs WHERE account_id = %(account)s"
        assert connection.exec_driver_sql(query, {"account": acme.account_id}).scalar_one() == 3


def test_a_postponed_event_starts_a_workflow_once_its_worker_comes_though_it_changed_meanwhile(
    context: AppContext, clock: Clock, acme: Sender, globex: Sender
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="gone", on="view"))
    use_up(context, acme, globex)
    event_id = post(acme, event="view")
    workflows.disable_workflow(context, acme.account_id, "gone")
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="new", on="view"))
    wake(context, acme.account_id, event_id)
    assert [each["workflow"] for each in decisions_of(context, event_id)] == ["new", "other workflows"]


def test_items_of_a_batch_are_postponed_too(context: AppContext, clock: Clock, acme: Sender, globex: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="one", on="view"))
    use_up(context, acme, globex)
    ids = acme.post_batch([an_event(event="view"), an_event(event="unread")]).get_json()["ids"]
    assert [jobs_of(context, event_id) for event_id in ids] == [["match"], []]


def test_an_event_that_no_workflow_reads_is_not_postponed(
    context: AppContext, clock: Clock, acme: Sender, globex: Sender
) -> None:
    use_up(context, acme, globex)
    assert jobs_of(context, post(acme, event="unread")) == []


def test_runs_take_of_the_share_too(context: AppContext, clock: Clock, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="one", on="view"))
    before = context.limits.shares._left.get(acme.account_id, BURST)
    post(acme, event="view")
    assert before - context.limits.shares._left[acme.account_id] >= 1_000
