"""Conditions and values that need much work are evaluated where no other run waits for them, and share one budget."""

from __future__ import annotations

from uuid import UUID

import pytest

from app.services import workflows
from app.services.context import AppContext
from app.worker.isolation import NeedsIsolation
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run, rows_of, the_run, with_executor

# About 3,000,000 units with 450 numbers, and 2,000 with 3.
LONG = "data.l.exists(x, data.l.exists(y, x + y == -1))"


def started(context: AppContext, sender: Sender, step: object, numbers: int) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=[step]))
    run: str = sender.post(an_event(data={"l": list(range(numbers))})).get_json()["runs"][0]
    return run


def execute_alone(context: AppContext, sender: Sender, run: str) -> None:
    with_executor(context, lambda executor: executor.advance(sender.account_id, UUID(run), 1), alone=True)


@pytest.mark.parametrize(
    "step",
    [{"if": LONG, "then": [{"log": "x"}]}, {"set": {"a": LONG}}, {"repeat": [{"log": "x"}], "until": LONG, "most": 1}],
)
def test_a_step_that_needs_much_work_does_not_hold_up_other_runs(
    context: AppContext, acme: Sender, step: object
) -> None:
    run = started(context, acme, step, 450)
    with pytest.raises(NeedsIsolation):
        execute_run(context, acme.account_id, run)
    assert rows_of(context, "steps", acme.account_id, run) == []
    execute_alone(context, acme, run)
    assert the_run(context, acme.account_id, run)["status"] == "done"
    assert "not_evaluated" not in str(rows_of(context, "steps", acme.account_id, run))


def test_many_values_that_need_little_hold_up_other_runs_no_longer_than_one(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"set": {f"v{number}": LONG for number in range(40)}}, 60)
    with pytest.raises(NeedsIsolation):
        execute_run(context, acme.account_id, run)
    execute_alone(context, acme, run)
    assert the_run(context, acme.account_id, run)["status"] == "done"


def test_a_step_that_needs_little_is_executed_beside_others(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"set": {"a": LONG}}, 3)
    assert execute_run(context, acme.account_id, run)["status"] == "done"


def test_the_values_of_a_step_share_one_budget(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"set": {"a": LONG, "b": LONG, "c": "1"}}, 450)
    execute_alone(context, acme, run)
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert step["output"] == {"a": False, "b": None, "c": 1}
    assert step["error"].startswith("b: not_evaluated: budget")
