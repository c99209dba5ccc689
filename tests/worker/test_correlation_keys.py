"""A workflow whose key is another field than distinct_id: its runs wait for and end by events that have the same there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.db import correlation_keys
from app.services import data_subjects, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run, rows_of, the_run, wake

PAID = {"wait_for": "paid", "timeout": "1h", "then": [{"log": "paid"}], "else": [{"log": "not paid"}]}


def started(context: AppContext, sender: Sender, *steps: object, data: Any = None, **changes: Any) -> str:
    workflows.apply_workflow(
        context, sender.account_id, a_workflow(on="ordered", key="data.order", steps=list(steps), **changes)
    )
    event = an_event(event="ordered", data={"order": 17} if data is None else data)
    run: str = sender.post(event).get_json()["runs"][0]
    return run


def happens(context: AppContext, sender: Sender, name: str, order: object, who: str = "somebody else") -> str:
    """An event and its job."""
    event: str = sender.post(an_event(event=name, distinct_id=who, data={"order": order})).get_json()["id"]
    wake(context, sender.account_id, event)
    return event


def last_text(context: AppContext, sender: Sender, run: str) -> object:
    return rows_of(context, "steps", sender.account_id, run)[-1]["output"]["text"]


def test_an_event_of_somebody_else_about_the_same_order_arrives(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    happens(context, acme, "paid", 17)
    assert execute_run(context, acme.account_id, run, job=3)["status"] == "done"
    assert last_text(context, acme, run) == "paid"


def test_an_event_of_the_same_person_about_another_order_does_not(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    happens(context, acme, "paid", 18, who="915673412780")
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"


def test_an_event_that_came_before_the_wait_arrives(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"wait": "1h"}, PAID)
    happens(context, acme, "paid", 17)
    happens(context, acme, "paid", 18, who="915673412780")
    execute_run(context, acme.account_id, run)
    execute_run(context, acme.account_id, run, job=2)
    assert execute_run(context, acme.account_id, run, job=4)["status"] == "done"
    assert last_text(context, acme, run) == "paid"


@pytest.mark.parametrize("claimed", [False, True])
def test_exit_on_goes_by_the_key_as_well(context: AppContext, acme: Sender, claimed: bool) -> None:
    run = started(context, acme, {"wait": "1h"}, exit_on="cancelled")
    if claimed:
        execute_run(context, acme.account_id, run)
    happens(context, acme, "cancelled", 18, who="915673412780")
    event = happens(context, acme, "cancelled", 17)
    after = execute_run(context, acme.account_id, run)
    assert (after["status"], after["error"]) == ("exited", f"exit_on: cancelled (event {event})")


def test_an_event_without_the_key_starts_a_run_that_no_event_wakes(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID, data={})
    execute_run(context, acme.account_id, run)
    wake(context, acme.account_id, acme.post(an_event(event="paid", data={})).get_json()["id"])
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"
    execute_run(context, acme.account_id, run, job=2)
    assert last_text(context, acme, run) == "not paid"


def test_blocks_go_by_the_key_of_their_run(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[PAID], [PAID]]}, {"log": "end"})
    execute_run(context, acme.account_id, run)
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql("SELECT id, subject FROM runs WHERE parent_id = %(run)s", {"run": run}).all()
    assert [row.subject for row in found] == ["17", "17"]
    for block in found:
        execute_run(context, acme.account_id, str(block.id))
    happens(context, acme, "paid", 17)
    for block in found:
        assert execute_run(context, acme.account_id, str(block.id), job=3)["status"] == "done"


def test_another_account_s_event_does_not_arrive(context: AppContext, acme: Sender, globex: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    started(context, globex, PAID)
    happens(context, globex, "paid", 17)
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"


def _kept(context: AppContext, sender: Sender) -> int:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT count(*) FROM keyed_events WHERE account_id = %(account)s", {"account": sender.account_id}
        )
        return int(found.scalar_one())


def test_what_nobody_waits_for_any_more_is_forgotten_after_a_month(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    happens(context, acme, "paid", 18)
    happens(context, acme, "paid", 17, who="915673412780")
    execute_run(context, acme.account_id, run, job=3)
    assert _kept(context, acme) == 2
    for days, left in ((29, 2), (31, 0)):
        with context.database.transaction() as connection:
            correlation_keys.delete_old_keys(connection, context.clock() + timedelta(days=days))
        assert _kept(context, acme) == left


def test_what_a_run_may_still_wait_for_is_kept(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"wait": "60d"}, PAID)
    execute_run(context, acme.account_id, run)
    happens(context, acme, "paid", 17)
    with context.database.transaction() as connection:
        correlation_keys.delete_old_keys(connection, context.clock() + timedelta(days=31))
    assert _kept(context, acme) == 1


def test_erasing_a_person_erases_what_is_kept_of_their_events(context: AppContext, acme: Sender) -> None:
    started(context, acme, PAID)
    happens(context, acme, "paid", 17)
    data_subjects.erase_subject(context, acme.account_id, "somebody else")
    assert _kept(context, acme) == 0


def test_events_are_not_kept_by_key_where_no_workflow_has_one(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on="ordered", steps=[PAID]))
    acme.post(an_event(event="ordered", data={"order": 17}))
    happens(context, acme, "paid", 17)
    assert _kept(context, acme) == 0
