"""`par`: blocks of steps that run concurrently, each as a run of its own, and their parent run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from app.cli.run_report import run_lines
from app.db import run_trees, run_updates, runs
from app.db.inspection import RunFilter
from app.services import data_subjects, inspection, workflows
from app.services import runs as services_runs
from app.services.context import AppContext
from app.worker import transitions
from app.worker.housekeeping import sweep
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run, jobs_of, rows_of, the_run, wake

WAIT = {"wait": "1h"}
REPLY = {"id": "reply", "wait_for": "reply", "timeout": "1h", "then": [{"log": "yes"}], "else": [{"log": "no"}]}


def started(context: AppContext, sender: Sender, *steps: object, **changes: Any) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps), **changes))
    run: str = sender.post(an_event(data={"price": 1999})).get_json()["runs"][0]
    return run


def parallel_blocks(context: AppContext, sender: Sender, run: str) -> list[str]:
    """The ids of a run's blocks, in the order of their start."""
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT id FROM runs WHERE account_id = %(account)s AND parent_id = %(run)s ORDER BY id",
            {"account": sender.account_id, "run": run},
        )
        return [str(row[0]) for row in found]


def execute_due_jobs(context: AppContext, sender: Sender, run: str) -> dict[str, Any]:
    """Do the due jobs of a run and its blocks until none is due; returns the run's row."""
    while jobs := due(context, sender):
        for job in jobs:
            _, run_id, number = job.split(":")
            execute_run(context, sender.account_id, run_id, job=int(number))
            delete_job(context, job)
    return the_run(context, sender.account_id, run)


def due(context: AppContext, sender: Sender) -> list[str]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT dedupe_key FROM jobs WHERE dedupe_key LIKE %(like)s AND kind = 'run' "
            "AND due_at <= now() ORDER BY id",
            {"like": f"{sender.account_id}:%"},
        )
        return [row[0] for row in found]


def delete_job(context: AppContext, job: str) -> None:
    """Delete a job, as a worker does when it has done it."""
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM jobs WHERE dedupe_key = %(job)s", {"job": job})


def texts(context: AppContext, sender: Sender, run: str) -> list[str]:
    rows = rows_of(context, "steps", sender.account_id, run)
    return [row["output"]["text"] for row in rows if row["action"] == "log" and row["output"]]


def paths(context: AppContext, sender: Sender, run: str) -> list[str]:
    return [row["path"] for row in rows_of(context, "steps", sender.account_id, run)]


def test_blocks_start_together_and_the_run_continues_after_the_last(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[{"log": "a"}, {"log": "b"}], [{"log": "c"}], []]}, {"log": "after"})
    waiting = execute_run(context, acme.account_id, run)
    assert (waiting["status"], waiting["at"], waiting["wake_at"], waiting["blocks_left"]) == (
        "running",
        "steps[0]",
        None,
        2,
    )
    one, two = parallel_blocks(context, acme, run)
    assert execute_run(context, acme.account_id, one)["status"] == "done"
    assert jobs_of(context, run) == [f"{acme.account_id}:{run}:1"]
    assert execute_run(context, acme.account_id, two)["status"] == "done"
    assert jobs_of(context, run)[-1] == f"{acme.account_id}:{run}:2"
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"
    assert texts(context, acme, run) == ["after"]
    assert paths(context, acme, one) == ["steps[0].par[0][0]", "steps[0].par[0][1]"]
    assert paths(context, acme, two) == ["steps[0].par[1][0]"]


def test_a_waiting_block_delays_no_other(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[WAIT, {"log": "late"}], [{"log": "soon"}]]}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    late, soon = parallel_blocks(context, acme, run)
    execute_run(context, acme.account_id, late)
    assert execute_run(context, acme.account_id, soon)["status"] == "done"
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"
    execute_run(context, acme.account_id, late, job=2)
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"


def test_a_par_of_empty_blocks_ends_at_once(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[], []]}, {"log": "after"})
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert parallel_blocks(context, acme, run) == []


def test_blocks_may_have_blocks(context: AppContext, acme: Sender) -> None:
    inner = {"par": [[{"set": {"a": "1"}}], [{"set": {"b": "2"}}]]}
    run = started(
        context, acme, {"par": [[inner, {"log": "{{ vars.a }}{{ vars.b }}"}], [{"log": "x"}]]}, {"log": "end"}
    )
    assert execute_due_jobs(context, acme, run)["status"] == "done"
    outer = parallel_blocks(context, acme, run)[0]
    assert texts(context, acme, outer) == ["12"]
    grandchild = the_run(context, acme.account_id, parallel_blocks(context, acme, outer)[0])
    assert (str(grandchild["root_id"]), str(grandchild["parent_id"])) == (run, outer)
    assert grandchild["match_key"].endswith("/0.0/0.0")


def test_a_par_in_a_repeat_starts_new_blocks_each_round(context: AppContext, acme: Sender) -> None:
    count = {"set": {"n": "vars.n + 1"}}
    body = [{"par": [[{"log": "{{ vars.n }}"}], [{"log": "x"}]]}, count]
    run = started(context, acme, {"set": {"n": "0"}}, {"repeat": body, "until": "vars.n == 3"})
    assert execute_due_jobs(context, acme, run)["status"] == "done"
    blocks = parallel_blocks(context, acme, run)
    assert [texts(context, acme, block) for block in blocks] == [["0"], ["x"], ["1"], ["x"], ["2"], ["x"]]


def test_outputs_and_variables_of_blocks_can_be_read_after_them_and_by_each_other(
    context: AppContext, acme: Sender
) -> None:
    one = [{"id": "say", "log": "hello"}, {"set": {"x": "'one'"}}]
    other = [WAIT, {"log": "{{ vars.x }} {{ steps.say.text }}"}]
    run = started(context, acme, {"par": [one, other]}, {"log": "{{ vars.x }} {{ steps.say.text }}"})
    execute_due_jobs(context, acme, run)
    execute_run(context, acme.account_id, parallel_blocks(context, acme, run)[1], job=2)
    execute_run(context, acme.account_id, run, job=2)
    assert texts(context, acme, parallel_blocks(context, acme, run)[1]) == ["one hello"]
    assert texts(context, acme, run) == ["one hello"]


def test_last_in_a_block_is_not_that_of_another_block(context: AppContext, acme: Sender) -> None:
    log_last = {"log": "{{ last.text }}"}
    blocks = [[log_last, {"log": "mine"}, WAIT, log_last], [{"log": "yours"}]]
    run = started(context, acme, {"log": "before"}, {"par": blocks}, log_last)
    execute_due_jobs(context, acme, run)
    mine = parallel_blocks(context, acme, run)[0]
    execute_run(context, acme.account_id, mine, job=2)
    execute_run(context, acme.account_id, run, job=2)
    assert texts(context, acme, mine) == ["before", "mine", "mine"]
    assert texts(context, acme, run)[-1] == "mine"


def test_each_block_has_its_own_idempotency_keys(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        call = {"http": {"url": server.url}}
        run = started(context, acme, {"par": [[call], [call]]}, call)
        execute_due_jobs(context, acme, run)
    keys = [call.headers["Idempotency-Key"] for call in server.calls]
    assert keys == [*(f"{block}-0" for block in parallel_blocks(context, acme, run)), f"{run}-1"]


# Failures


def test_a_block_that_fails_fails_the_run_when_the_others_have_ended(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        call = {"http": {"url": server.url}}
        run = started(context, acme, {"par": [[call, {"log": "never"}], [WAIT, {"log": "x"}]]}, {"log": "never"})
        execute_run(context, acme.account_id, run)
        failing, waiting = parallel_blocks(context, acme, run)
        assert execute_run(context, acme.account_id, failing)["status"] == "failed"
        execute_run(context, acme.account_id, waiting)
        assert the_run(context, acme.account_id, run)["status"] == "running"
        assert execute_run(context, acme.account_id, waiting, job=2)["status"] == "done"
    after = execute_run(context, acme.account_id, run, job=2)
    assert (after["status"], after["error"]) == ("failed", "steps[0].par[0][0] (http): answered 404")
    assert rows_of(context, "steps", acme.account_id, run)[0]["status"] == "failed"


def test_an_else_in_a_block_prevents_the_run_from_failing(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        call = {"http": {"url": server.url}, "else": []}
        run = started(context, acme, {"par": [[call], [{"log": "x"}]]})
        assert execute_due_jobs(context, acme, run)["status"] == "done"


def test_a_retried_run_continues_in_the_failed_blocks(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404), Answer(404), Answer(200)) as server:
        call = {"http": {"url": server.url}}
        run = started(context, acme, {"par": [[{"par": [[call], [call]]}], [{"log": "x"}]]}, {"log": "after"})
        assert execute_due_jobs(context, acme, run)["status"] == "failed"
        outer = parallel_blocks(context, acme, run)[0]
        assert services_runs.retry_runs(context, acme.account_id, [UUID(run)]) == {UUID(run)}
        assert [the_run(context, acme.account_id, one)["blocks_left"] for one in (run, outer)] == [1, 2]
        assert len(due(context, acme)) == 2
        assert execute_due_jobs(context, acme, run)["status"] == "done"
    assert len(server.calls) == 4
    assert len({call.headers["Idempotency-Key"] for call in server.calls}) == 2


def test_only_a_run_is_retried_and_not_one_of_its_blocks(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        run = started(context, acme, {"par": [[{"http": {"url": server.url}}], [WAIT]]})
        execute_run(context, acme.account_id, run)
        failing = parallel_blocks(context, acme, run)[0]
        execute_run(context, acme.account_id, failing)
    assert services_runs.retry_runs(context, acme.account_id, [UUID(failing)]) == set()
    assert the_run(context, acme.account_id, failing)["status"] == "failed"


# Join


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
        update = transitions.set_variables(_setting(claimed), context.clock())
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


def _statuses(context: AppContext, sender: Sender, run: str) -> list[str]:
    blocks = [
        one
        for block in parallel_blocks(context, sender, run)
        for one in (block, *parallel_blocks(context, sender, block))
    ]
    return [the_run(context, sender.account_id, one)["status"] for one in (run, *blocks)]


@pytest.mark.parametrize("which", ["the run", "a block"])
def test_a_cancel_ends_the_run_with_all_its_blocks(context: AppContext, acme: Sender, which: str) -> None:
    run = started(context, acme, {"par": [[{"par": [[WAIT], [WAIT]]}], [WAIT], [{"log": "x"}]]})
    execute_due_jobs(context, acme, run)
    chosen = run if which == "the run" else parallel_blocks(context, acme, run)[1]
    assert services_runs.cancel_runs(context, acme.account_id, [UUID(chosen)])
    assert _statuses(context, acme, run) == ["cancelled", "cancelled", "cancelled", "cancelled", "cancelled", "done"]
    waiting = rows_of(context, "steps", acme.account_id, parallel_blocks(context, acme, run)[1])
    assert [(row["status"], row["error"]) for row in waiting] == [("skipped", "cancelled by hand")]


def test_blocks_that_start_while_their_run_is_cancelled_are_cancelled(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"par": [[WAIT], [WAIT]]}]))

    def fork(run: str, together: threading.Barrier) -> None:
        claimed = runs.claim_run(context.database, acme.account_id, UUID(run), 1)
        assert claimed is not None
        update = transitions.fork(claimed, context.clock())
        together.wait(10)
        run_updates.update_run(context.database, claimed, update, context.clock())

    with ThreadPoolExecutor(1) as threads:
        for _ in range(20):
            run = acme.post(an_event()).get_json()["runs"][0]
            together = threading.Barrier(2)
            parting = threads.submit(fork, run, together)
            together.wait(10)
            assert services_runs.cancel_runs(context, acme.account_id, [UUID(run)])
            parting.result()
            assert set(_statuses(context, acme, run)) == {"cancelled"}


def test_exit_on_ends_the_run_with_all_its_blocks(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[WAIT], [{"log": "x"}]]}, exit_on="order_placed")
    execute_due_jobs(context, acme, run)
    event = acme.post(an_event(event="order_placed")).get_json()["id"]
    wake(context, acme.account_id, event)
    assert _statuses(context, acme, run) == ["exited", "exited", "done"]
    assert the_run(context, acme.account_id, run)["error"] == f"exit_on: order_placed (event {event})"


def test_exit_on_that_came_before_the_retry_of_a_block_ends_the_run(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        blocks = [[{"http": {"url": server.url}}], [{"log": "x"}]]
        run = started(context, acme, {"par": blocks}, exit_on="order_placed")
        assert execute_due_jobs(context, acme, run)["status"] == "failed"
        acme.post(an_event(event="order_placed"))
        services_runs.retry_runs(context, acme.account_id, [UUID(run)])
        assert execute_due_jobs(context, acme, run)["status"] == "exited"
        assert len(server.calls) == 1


def test_an_event_that_a_block_has_taken_does_not_end_the_run(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[{"log": "x"}, WAIT], [REPLY, WAIT]]}, exit_on="reply")
    execute_due_jobs(context, acme, run)
    event = acme.post(an_event(event="reply")).get_json()["id"]
    wake(context, acme.account_id, event)
    wake(context, acme.account_id, event)
    assert _statuses(context, acme, run) == ["running", "running", "running"]
    assert (
        the_run(context, acme.account_id, parallel_blocks(context, acme, run)[1])["at"] == "steps[0].par[1][0].then[0]"
    )
    wake(context, acme.account_id, acme.post(an_event(event="reply")).get_json()["id"])
    assert set(_statuses(context, acme, run)) == {"exited"}


def test_every_block_that_waits_for_an_event_receives_it(context: AppContext, acme: Sender) -> None:
    run = started(
        context, acme, {"par": [[REPLY], [{key: REPLY[key] for key in REPLY if key != "id"}]]}, {"log": "end"}
    )
    execute_due_jobs(context, acme, run)
    wake(context, acme.account_id, acme.post(an_event(event="reply")).get_json()["id"])
    blocks = parallel_blocks(context, acme, run)
    for block in blocks:
        execute_run(context, acme.account_id, block, job=3)
    assert [texts(context, acme, block) for block in blocks] == [["yes"], ["yes"]]
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"


def test_a_run_tree_is_ended_by_another_event_only(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[REPLY], [WAIT]]}, exit_on="reply")
    execute_due_jobs(context, acme, run)
    event = UUID(acme.post(an_event(event="reply")).get_json()["id"])
    wake(context, acme.account_id, str(event))
    with context.database.transaction() as connection:
        ended = run_trees.end_run_trees(
            connection, acme.account_id, [UUID(run)], "exited", "x", context.clock(), unless_taken=event
        )
    assert ended == 0


# Erasure and inspection


def test_erasing_a_subject_erases_their_blocks(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[WAIT], [WAIT]]})
    execute_due_jobs(context, acme, run)
    assert data_subjects.erase_subject(context, acme.account_id, "915673412780").runs == 1
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT (SELECT count(*) FROM runs WHERE account_id = %(account)s) + "
            "(SELECT count(*) FROM steps WHERE account_id = %(account)s)",
            {"account": acme.account_id},
        )
        assert rows.scalar() == 0


def test_deleting_a_workflow_deletes_the_blocks_of_its_runs(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"par": [[WAIT], [WAIT]]})
    execute_due_jobs(context, acme, run)
    assert workflows.delete_workflow(context, acme.account_id, "watch").runs == 1
    assert parallel_blocks(context, acme, run) == []


def test_lists_show_runs_and_not_their_blocks(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        run = started(context, acme, {"par": [[{"http": {"url": server.url}}], [{"log": "x"}]]})
        execute_due_jobs(context, acme, run)
    for wanted in (RunFilter(), RunFilter(failed=True), RunFilter(workflow="watch")):
        found = inspection.find_latest_runs(context, acme.account_id, wanted, None)
        assert [str(row.id) for row in found] == [run]
    details = inspection.find_run_details(context, acme.account_id, UUID(run))
    assert details is not None
    assert [str(block.run.id) for block in details.blocks] == parallel_blocks(context, acme, run)


def test_the_details_of_a_run_show_its_blocks(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        steps = [
            {"par": [[{"http": {"url": server.url}, "else": []}, {"set": {"x": "1", "y": "data.no"}}], [WAIT]]},
            {"repeat": [{"log": "x"}], "until": "false", "most": 1},
        ]
        run = started(context, acme, *steps)
        execute_due_jobs(context, acme, run)
    waiting = _run_details(context, acme, run)
    assert "status     running at steps[0] (par), next wake-up when its blocks have ended" in waiting
    execute_run(context, acme.account_id, parallel_blocks(context, acme, run)[1], job=2)
    execute_run(context, acme.account_id, run, job=2)
    lines = [line[27:] for line in _run_details(context, acme, run)]
    first, second = parallel_blocks(context, acme, run)
    assert "  steps[0] par entered" in lines
    assert f"    block 0 started (run {first})" in lines
    assert "    steps[0].par[0][0] http failed: answered 404" in lines
    assert "    steps[0].par[0][1] set done: x = 1, y = null (y: data.no is missing)" in lines
    assert f"    block 1 started (run {second})" in lines
    assert any(line.startswith("    steps[0].par[1][0] wait done after") for line in lines)
    assert "  steps[1] repeat done: round 1 begins" in lines
    assert "  steps[1] repeat done: ended after 1 round, the limit is reached" in lines
    assert f"block of   {run}" in _run_details(context, acme, first)


def _run_details(context: AppContext, sender: Sender, run: str) -> list[str]:
    details = inspection.find_run_details(context, sender.account_id, UUID(run))
    assert details is not None
    return list(run_lines(details, context.clock()))
