"""`par`: blocks that end together, jobs that come again, and what the sweep does with the runs of blocks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID

from app.db import run_updates, runs
from app.services import transitions, workflows
from app.services.context import AppContext
from app.worker.housekeeping import sweep
from app.workflows.expressions.work_budget import Budget
from tests.support.blocks import WAIT, delete_job, execute_due_jobs, parallel_blocks, started
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run, jobs_of, the_run


def _both_at_their_end(context: AppContext, sender: Sender) -> tuple[str, list[str]]:
    run = sender.post(an_event()).get_json()["runs"][0]
    execute_run(context, sender.account_id, run)
    return run, parallel_blocks(context, sender, run)


def test_of_blocks_that_end_together_one_enqueues_the_run(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(
        context, acme.account_id, a_workflow(steps=[{"par": [[{"log": "a"}], [{"log": "b"}], [{"log": "c"}]]}])
    )

    def end(block: str) -> bool:
        claimed = runs.claim_run(context.database, acme.account_id, UUID(block), 1)
        assert claimed is not None
        update = transitions.set_variables(_setting(claimed), context.clock(), Budget())
        return run_updates.update_run(context.database, claimed, update, context.clock())

    with ThreadPoolExecutor(3) as threads:
        for _ in range(5):
            run, blocks = _both_at_their_end(context, acme)
            with context.database.transaction() as connection:
                connection.exec_driver_sql("SELECT FROM runs WHERE id = %(run)s FOR UPDATE", {"run": run})
                ending = [threads.submit(end, block) for block in blocks]
                # All three have ended their blocks and wait for the lock of the run's row.
                while connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar_one() < 3:
                    assert not any(each.done() for each in ending)
            assert all(each.result() for each in ending)
            after = the_run(context, acme.account_id, run)
            assert (after["blocks_left"], after["wake_at"] is not None) == (0, True)
            assert jobs_of(context, run) == [f"{acme.account_id}:{run}:1", f"{acme.account_id}:{run}:2"]


def _setting(run: Any) -> Any:
    """The run with a `set` as its only step, which needs no worker."""
    block = [{"set": {"x": "1"}}]
    return replace(run, document={**run.document, "steps": [{"par": [block, block, block]}]})


def test_a_repeated_job_ends_its_block_once(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"par": [[{"log": "a"}], [WAIT]]}]))
    run, (one, _) = _both_at_their_end(context, acme)
    for _ in range(3):
        execute_run(context, acme.account_id, one)
    assert the_run(context, acme.account_id, run)["blocks_left"] == 1
    assert jobs_of(context, run) == [f"{acme.account_id}:{run}:1"]


def test_a_job_of_a_run_that_waits_for_blocks_advances_nothing(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[WAIT], [WAIT]]}, {"log": "after"})
    before = execute_run(context, acme.account_id, run)
    assert execute_run(context, acme.account_id, run, job=2) == before


# Housekeeping


def _an_hour_later(context: AppContext, sender: Sender) -> None:
    """Move all timestamps of the account's runs one hour back."""
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET wake_at = wake_at - interval '1 hour', updated_at = updated_at - interval '1 hour' "
            "WHERE account_id = %(account)s",
            {"account": sender.account_id},
        )


def test_the_sweep_does_not_touch_a_run_with_running_blocks(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[WAIT], [{"log": "x"}]]}, {"log": "after"})
    execute_due_jobs(context, acme, run)
    _an_hour_later(context, acme)
    sweep(context)
    after = the_run(context, acme.account_id, run)
    assert (after["wake_at"], after["blocks_left"]) == (None, 1)
    assert jobs_of(context, run) == []


def test_the_sweep_enqueues_a_run_whose_blocks_have_all_ended(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[{"log": "a"}], [{"log": "x"}]]}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    delete_job(context, f"{acme.account_id}:{run}:1")
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET status = 'done' WHERE parent_id = %(run)s", {"run": run}
        )  # as by a person's own hand
    _an_hour_later(context, acme)
    sweep(context)
    _an_hour_later(context, acme)
    sweep(context)
    assert jobs_of(context, run) == [f"{acme.account_id}:{run}:2"]
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"


def test_the_sweep_enqueues_the_lost_job_of_a_run(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[{"log": "a"}], [{"log": "x"}]]}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    for block in parallel_blocks(context, acme, run):
        execute_run(context, acme.account_id, block)
    for job in jobs_of(context, run):
        delete_job(context, job)
    _an_hour_later(context, acme)
    sweep(context)
    assert jobs_of(context, run) == [f"{acme.account_id}:{run}:2"]


# Cancel and exit_on
