"""Workflows with another key than distinct_id: their runs wait for, and exit on, events with the same value under it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.db import event_keys
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


def post_event(context: AppContext, sender: Sender, name: str, order: object, who: str = "somebody else") -> str:
    """Post an event and do its job."""
    event: str = sender.post(an_event(event=name, distinct_id=who, data={"order": order})).get_json()["id"]
    wake(context, sender.account_id, event)
    return event


def last_text(context: AppContext, sender: Sender, run: str) -> object:
    return rows_of(context, "steps", sender.account_id, run)[-1]["output"]["text"]


def test_an_event_of_another_person_about_the_same_order_is_received(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    post_event(context, acme, "paid", 17)
    assert execute_run(context, acme.account_id, run, job=3)["status"] == "done"
    assert last_text(context, acme, run) == "paid"


def test_an_event_of_the_same_person_about_another_order_is_not_received(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    post_event(context, acme, "paid", 18, who="915673412780")
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"


def test_an_event_from_before_the_wait_is_received(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"wait": "1h"}, PAID)
    post_event(context, acme, "paid", 17)
    post_event(context, acme, "paid", 18, who="915673412780")
    execute_run(context, acme.account_id, run)
    execute_run(context, acme.account_id, run, job=2)
    assert execute_run(context, acme.account_id, run, job=4)["status"] == "done"
    assert last_text(context, acme, run) == "paid"


@pytest.mark.parametrize("claimed", [False, True])
def test_exit_on_uses_the_key(context: AppContext, acme: Sender, claimed: bool) -> None:
    run = started(context, acme, {"wait": "1h"}, exit_on="cancelled")
    if claimed:
        execute_run(context, acme.account_id, run)
    post_event(context, acme, "cancelled", 18, who="915673412780")
    event = post_event(context, acme, "cancelled", 17)
    after = execute_run(context, acme.account_id, run)
    assert (after["status"], after["error"]) == ("exited", f"exit_on: cancelled (event {event})")


def test_a_run_of_an_event_without_the_key_receives_no_event(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID, data={})
    execute_run(context, acme.account_id, run)
    wake(context, acme.account_id, acme.post(an_event(event="paid", data={})).get_json()["id"])
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"
    execute_run(context, acme.account_id, run, job=2)
    assert last_text(context, acme, run) == "not paid"


def test_blocks_use_the_key_of_their_run(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[PAID], [PAID]]}, {"log": "end"})
    execute_run(context, acme.account_id, run)
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql("SELECT id, subject FROM runs WHERE parent_id = %(run)s", {"run": run}).all()
    assert [row.subject for row in found] == ["17", "17"]
    for block in found:
        execute_run(context, acme.account_id, str(block.id))
    post_event(context, acme, "paid", 17)
    for block in found:
        assert execute_run(context, acme.account_id, str(block.id), job=3)["status"] == "done"


def test_an_event_of_another_account_is_not_received(context: AppContext, acme: Sender, globex: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    started(context, globex, PAID)
    post_event(context, globex, "paid", 17)
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"


def _saved_keys(context: AppContext, sender: Sender) -> int:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT count(*) FROM keyed_events WHERE account_id = %(account)s", {"account": sender.account_id}
        )
        return int(found.scalar_one())


def test_old_keys_that_no_run_waits_for_are_deleted_after_a_month(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, PAID)
    execute_run(context, acme.account_id, run)
    post_event(context, acme, "paid", 18)
    post_event(context, acme, "paid", 17, who="915673412780")
    execute_run(context, acme.account_id, run, job=3)
    assert _saved_keys(context, acme) == 2
    for days, left in ((29, 2), (31, 0)):
        with context.database.transaction() as connection:
            event_keys.delete_old_keys(connection, context.clock() + timedelta(days=days))
        assert _saved_keys(context, acme) == left


def test_old_keys_that_a_run_may_wait_for_are_kept(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"wait": "60d"}, PAID)
    execute_run(context, acme.account_id, run)
    post_event(context, acme, "paid", 17)
    with context.database.transaction() as connection:
        event_keys.delete_old_keys(connection, context.clock() + timedelta(days=31))
    assert _saved_keys(context, acme) == 1


def test_erasing_a_data_subject_erases_the_keys_of_their_events(context: AppContext, acme: Sender) -> None:
    started(context, acme, PAID)
    post_event(context, acme, "paid", 17)
    data_subjects.erase_subject(context, acme.account_id, "somebody else")
    assert _saved_keys(context, acme) == 0


def test_no_keys_are_saved_when_no_workflow_has_one(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on="ordered", steps=[PAID]))
    acme.post(an_event(event="ordered", data={"order": 17}))
    post_event(context, acme, "paid", 17)
    assert _saved_keys(context, acme) == 0


@pytest.mark.parametrize("order", ["98765", "98765.0", "9.8765e4"])
@pytest.mark.parametrize("paid", ["98765", "98765.00", "987650e-1"])
def test_equal_numbers_are_one_subject_however_they_are_written(
    context: AppContext, acme: Sender, order: str, paid: str
) -> None:
    """Before the wait and after it: an event that waits, and an event that arrives."""
    document = a_workflow(on="ordered", key="data.order", steps=[PAID, PAID])
    workflows.apply_workflow(context, acme.account_id, document)
    body = '{"event":"%s","distinct_id":"1","data":{"order":%s}}'
    run = acme.post(body % ("ordered", order)).get_json()["runs"][0]
    acme.post(body % ("paid", paid))
    first = acme.post(body % ("paid", paid)).get_json()["id"]
    wake(context, acme.account_id, first)
    job = 1
    while the_run(context, acme.account_id, run)["status"] == "running" and job < 10:
        execute_run(context, acme.account_id, run, job=job)
        job += 1
    logged = [
        row["output"]["text"] for row in rows_of(context, "steps", acme.account_id, run) if row["action"] == "log"
    ]
    assert logged == ["paid", "paid"]


def test_equal_numbers_share_the_progress_of_a_pattern(context: AppContext, acme: Sender) -> None:
    document = a_workflow(on={"seq": ["ordered", "paid"]}, key="data.order", steps=[{"log": "x"}])
    workflows.apply_workflow(context, acme.account_id, document)
    body = '{"event":"%s","distinct_id":"1","data":{"order":%s}}'
    acme.post(body % ("ordered", "98765"))
    assert len(acme.post(body % ("paid", "98765.0")).get_json()["runs"]) == 1
