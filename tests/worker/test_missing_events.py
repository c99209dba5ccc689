"""A run whose event is no longer stored, since its partition was dropped, ends with the reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from app.cli.run_report import run_lines
from app.db import job_queue, needed_events
from app.services import inspection, workflows
from app.services.context import AppContext
from app.services.runs import retry_runs
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run, jobs_of, rows_of, the_run


def _started(context: AppContext, sender: Sender, *steps: object) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps)))
    run: str = sender.post(an_event()).get_json()["runs"][0]
    return run


def _drop_events(context: AppContext, sender: Sender) -> None:
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE account_id = %s", (sender.account_id,))


def test_a_run_without_its_event_fails_with_the_reason(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    _drop_events(context, acme)
    after = execute_run(context, acme.account_id, run, job=2)
    assert (after["status"], after["error"]) == ("failed", "steps[0] (wait): its event is no longer stored")
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert (step["status"], step["error"]) == ("failed", "its event is no longer stored")
    (attempt,) = rows_of(context, "attempts", acme.account_id, run)
    assert (attempt["outcome"], attempt["error_class"]) == ("failed", "event_missing")


def test_a_run_without_its_event_is_not_enqueued_again(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "one"})
    _drop_events(context, acme)
    execute_run(context, acme.account_id, run)
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM jobs WHERE dedupe_key LIKE %s", (f"%{run}%",))
        job_queue.enqueue_orphans(connection, datetime.now(UTC) + timedelta(hours=1))
    assert jobs_of(context, run) == []


def test_run_show_says_that_the_event_is_gone(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "one"})
    _drop_events(context, acme)
    row = execute_run(context, acme.account_id, run)
    details = inspection.find_run_details(context, acme.account_id, row["id"])
    assert details is not None
    text = "\n".join(run_lines(details, context.clock()))
    assert "failed, its event is no longer stored" in text
    assert "a deleted event" in text


def test_a_retried_run_without_its_event_fails_again(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "one"})
    _drop_events(context, acme)
    row = execute_run(context, acme.account_id, run)
    assert retry_runs(context, acme.account_id, [row["id"]]) == {row["id"]}
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "failed"


def test_blocks_without_their_event_end_their_run(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"par": [[{"log": "a"}], [{"log": "b"}]]})
    execute_run(context, acme.account_id, run)
    _drop_events(context, acme)
    with context.database.transaction() as connection:
        blocks = connection.exec_driver_sql("SELECT id FROM runs WHERE root_id = %s", (run,)).scalars().all()
    for block in blocks:
        execute_run(context, acme.account_id, str(block))
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "failed"


def test_an_outdated_job_ends_no_run(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    _drop_events(context, acme)
    execute_run(context, acme.account_id, run, job=1)
    assert the_run(context, acme.account_id, run)["status"] == "running"


def _is_needed(context: AppContext, begin: datetime, end: datetime) -> bool:
    with context.database.transaction() as connection:
        return needed_events.are_events_needed(connection, begin, end)


def test_events_of_running_runs_are_needed(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"})
    with context.database.transaction() as connection:
        # Long ago, where no other test has events; the second id of `matched` is from May 2001.
        connection.exec_driver_sql(
            "UPDATE runs SET event_received_at = '2001-02-03', matched = ARRAY[%s]::uuid[] || matched WHERE id = %s",
            ("00e65ffb-9000-7000-8000-000000000000", run),
        )
    month = [datetime(2001, number, 1, tzinfo=UTC) for number in range(1, 7)]
    assert [_is_needed(context, begin, end) for begin, end in pairwise(month)] == [
        False,
        True,
        False,
        False,
        True,
    ]
    with context.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE runs SET status = 'done' WHERE id = %s", (run,))
    assert not _is_needed(context, month[0], month[-1])
