"""What workers do with runs is counted: how runs end, and each attempt of an action."""

from __future__ import annotations

from typing import Any

import prometheus_client
import pytest

from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run

REFUSED = {"http": {"url": "http://10.0.0.1/"}}


def _value(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0


def _counts(status: str, action: str, outcome: str) -> list[float]:
    return [
        _value("signalbox_runs_ended_total", status=status),
        _value("signalbox_attempt_duration_seconds_count", action=action, outcome=outcome),
    ]


@pytest.mark.parametrize(
    ("steps", "status", "action", "outcome"),
    [([{"log": "hello"}], "done", "log", "done"), ([REFUSED], "failed", "http", "failed")],
)
def test_a_run_is_counted_by_how_it_ends_and_its_attempts_by_action_and_outcome(
    context: AppContext, acme: Sender, steps: list[dict[str, Any]], status: str, action: str, outcome: str
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
    (run,) = acme.post(an_event()).get_json()["runs"]
    before = _counts(status, action, outcome)
    execute_run(context, acme.account_id, run)
    assert _counts(status, action, outcome) == [number + 1 for number in before]


def test_a_run_that_waits_and_blocks_of_a_run_are_not_counted_as_ended(context: AppContext, acme: Sender) -> None:
    blocks = {"par": [[{"log": "one"}], [{"log": "two"}]]}
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[blocks, {"wait": "1h"}]))
    (run,) = acme.post(an_event()).get_json()["runs"]
    before = _value("signalbox_runs_ended_total", status="done")
    execute_run(context, acme.account_id, run)
    with context.database.transaction() as connection:
        ids = connection.exec_driver_sql("SELECT id::text FROM runs WHERE parent_id = %s", (run,)).scalars().all()
    assert len(ids) == 2
    for block in ids:
        assert execute_run(context, acme.account_id, block)["status"] == "done"
    assert _value("signalbox_runs_ended_total", status="done") == before
