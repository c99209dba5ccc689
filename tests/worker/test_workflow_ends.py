"""What becomes of the runs of a workflow that is disabled or deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Call, HttpTarget, an_http_target
from tests.support.run_execution import execute_run, rows_of, the_run, with_executor

NAME = "greet"


def _started(context: AppContext, sender: Sender, *steps: object) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(name=NAME, steps=list(steps)))
    run: str = sender.post(an_event()).get_json()["runs"][0]
    return run


def _workflow_of(context: AppContext, run: str) -> str:
    with context.database.transaction() as connection:
        query = "SELECT name FROM runs JOIN workflows ON workflows.id = runs.workflow_id WHERE runs.id = %s"
        return str(connection.exec_driver_sql(query, (run,)).scalar())


def _disable(context: AppContext, sender: Sender) -> int:
    return workflows.disable_workflow(context, sender.account_id, NAME, cancel_runs=True)


def test_runs_of_a_disabled_workflow_go_on(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    workflows.disable_workflow(context, acme.account_id, NAME)
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"


def test_waiting_runs_are_cancelled_with_the_reason(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    assert _disable(context, acme) == 1
    after = execute_run(context, acme.account_id, run, job=2)
    assert (after["status"], after["error"]) == ("cancelled", "its workflow was disabled and its runs cancelled")
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert (step["status"], step["error"]) == ("skipped", "its workflow was disabled and its runs cancelled")


def test_blocks_are_cancelled_with_their_run(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"par": [[{"wait": "1h"}], [{"wait": "2h"}]]})
    execute_run(context, acme.account_id, run)
    assert _disable(context, acme) == 1
    with context.database.transaction() as connection:
        statuses = connection.exec_driver_sql("SELECT status FROM runs WHERE account_id = %s", (acme.account_id,))
        assert set(statuses.scalars()) == {"cancelled"}


def test_runs_of_other_workflows_are_not_cancelled(context: AppContext, acme: Sender, globex: Sender) -> None:
    there = _started(context, globex, {"wait": "1h"})
    _started(context, acme, {"wait": "1h"})
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="other", steps=[{"wait": "1h"}]))
    started = acme.post(an_event()).get_json()["runs"]
    (other,) = [run for run in started if _workflow_of(context, run) == "other"]
    assert _disable(context, acme) == 2
    assert the_run(context, globex.account_id, there)["status"] == "running"
    assert the_run(context, acme.account_id, other)["status"] == "running"


@contextmanager
def _a_run_in_its_first_step(context: AppContext, sender: Sender, server: HttpTarget) -> Iterator[str]:
    """A run whose first call has arrived and is not answered until the block ends."""
    run = _started(context, sender, {"http": {"url": server.url + "/one"}}, {"http": {"url": server.url + "/two"}})
    arrived, answered = threading.Event(), threading.Event()

    def hold(_: Call) -> None:
        arrived.set()
        assert answered.wait(10)

    server.before_answer = hold
    with ThreadPoolExecutor(1) as threads:
        executing = threads.submit(
            with_executor, context, lambda executor: executor.advance(sender.account_id, UUID(run), 1)
        )
        assert arrived.wait(10)
        try:
            yield run
        finally:
            answered.set()
        executing.result(10)


def test_a_run_in_a_step_ends_after_it_and_the_attempt_is_kept(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        with _a_run_in_its_first_step(context, acme, server) as run:
            assert _disable(context, acme) == 1
        assert [call.path for call in server.calls] == ["/one"]
    assert the_run(context, acme.account_id, run)["status"] == "cancelled"
    assert [row["outcome"] for row in rows_of(context, "attempts", acme.account_id, run)] == ["done"]


def test_a_run_of_a_deleted_workflow_ends_after_its_step(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        with _a_run_in_its_first_step(context, acme, server) as run:
            assert workflows.delete_workflow(context, acme.account_id, NAME).runs == 1
        assert [call.path for call in server.calls] == ["/one"]
    assert rows_of(context, "attempts", acme.account_id, run) == []
