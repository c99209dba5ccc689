"""`signalbox run retry …`: failed runs go on, one or all of a time."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from app.db.audit import EntryFilter
from app.services import audit
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, an_event
from tests.support.http_target import Answer, HttpTarget, an_http_target
from tests.support.run_execution import execute_run, fail_run, jobs_of, rows_of, start_run, the_run, wake


def test_a_retried_run_goes_on_with_the_same_key(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = fail_run(context, acme, broken)
    result = signalbox("run", "retry", run, "--yes")
    assert (result.exit_code, result.stdout) == (0, "1 run scheduled again\n")
    assert jobs_of(context, run)[-1] == f"{acme.account_id}:{run}:2"
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"
    assert [call.headers["Idempotency-Key"] for call in broken.calls] == [f"{run}-0"] * 2


def test_attempt_numbers_continue_and_the_retry_policy_restarts(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    with an_http_target(Answer(500)) as server:
        run = start_run(context, acme, {"http": {"url": server.url}, "retry": {"attempts": 2, "first": "1s"}})
        for job in (1, 2):
            execute_run(context, acme.account_id, run, job=job)
        signalbox("run", "retry", run, "--yes")
        again = execute_run(context, acme.account_id, run, job=3)
        assert (again["status"], again["attempt"], again["forgiven"]) == ("running", 3, 2)
        assert execute_run(context, acme.account_id, run, job=again["job"])["status"] == "failed"
    assert [row["attempt"] for row in rows_of(context, "attempts", acme.account_id, run)] == [1, 2, 3, 4]


def test_a_retried_run_is_not_failed_any_more(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = fail_run(context, acme, broken)
    before = the_run(context, acme.account_id, run)
    signalbox("run", "retry", run, "--yes")
    after = the_run(context, acme.account_id, run)
    assert (after["status"], after["error"], after["finished_at"]) == ("running", None, None)
    assert after["step_started_at"] > before["step_started_at"]
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert (step["status"], step["finished_at"]) == ("waiting", None)


def test_an_exit_event_during_the_failure_ends_the_retried_run(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = fail_run(context, acme, broken, exit_on="order_placed")
    event = acme.post(an_event(event="order_placed")).get_json()["id"]
    wake(context, acme.account_id, event)
    signalbox("run", "retry", run, "--yes")
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "exited"
    assert len(broken.calls) == 1


def test_retry_prompts_with_the_number_of_runs(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = fail_run(context, acme, broken)
    result = signalbox("run", "retry", run, typed="n\n")
    assert result.exit_code == 1
    assert "Retry 1 run? [y/N]: " in result.stderr
    assert the_run(context, acme.account_id, run)["status"] == "failed"
    assert signalbox("run", "retry", run, typed="y\n").exit_code == 0
    assert the_run(context, acme.account_id, run)["status"] == "running"


def test_all_recently_failed_runs_are_retried(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        start_run(context, acme, {"http": {"url": server.url}})
        runs = [acme.post(an_event()).get_json()["runs"][0] for _ in range(3)]
        for run in runs:
            execute_run(context, acme.account_id, run)
    long_ago = context.clock() - timedelta(hours=2)
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET finished_at = %(at)s WHERE id = %(run)s", {"at": long_ago, "run": runs[0]}
        )
    result = signalbox("run", "retry", "--failed", "--since", "1h", "--yes", "--account", acme.slug)
    assert result.stdout == "2 runs scheduled again\n"
    assert [the_run(context, acme.account_id, run)["status"] for run in runs] == ["failed", "running", "running"]
    (entry,) = audit.list_entries(context, EntryFilter(acme.account_id, action="run.retry"), 10)
    assert (entry.object_id, entry.after) == (
        None,
        {
            "count": 2,
            "runs": runs[1:],
            "chosen_by": {"workflow": None, "since": (entry.after or {})["chosen_by"]["since"]},
        },
    )


def test_retry_without_failed_runs_is_no_error(signalbox: CommandLine, acme: Sender) -> None:
    result = signalbox("run", "retry", "--failed", "--since", "1h", "--account", acme.slug)
    assert (result.exit_code, result.stdout) == (0, "no run has failed since then\n")


def test_only_failed_runs_are_retried(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = start_run(context, acme, {"wait": "1h"})
    before = the_run(context, acme.account_id, run)
    result = signalbox("run", "retry", run, "--yes")
    assert (result.exit_code, result.stdout) == (1, "0 runs scheduled again\n")
    assert result.stderr == f"{run}: skipped; it is running\n"
    assert the_run(context, acme.account_id, run) == before


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--failed"],
        ["--since", "1h"],
        ["--failed", "--since", "1h", str(uuid4())],
        [str(uuid4()), "--workflow", "a"],
    ],
)
def test_retry_requires_a_selection(signalbox: CommandLine, options: list[str]) -> None:
    assert signalbox("run", "retry", *options).exit_code == 2
