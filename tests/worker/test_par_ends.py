"""`par`: a run ends, is erased, deleted and shown with all its blocks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from app.cli.run_report import run_lines
from app.db import run_trees, run_updates, runs
from app.db.inspection import RunFilter
from app.services import data_subjects, inspection, transitions, workflows
from app.services import runs as services_runs
from app.services.context import AppContext
from tests.support.blocks import REPLY, WAIT, execute_due_jobs, parallel_blocks, started, texts
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run, rows_of, the_run, wake


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
    assert ended == set()


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
    # It is read once: it may have a megabyte, and a run 100 blocks.
    assert details.event is not None
    assert all(block.event is details.event for block in details.blocks)


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
