"""`signalbox run list`, `run cancel`, and every command of runs for another account."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from uuid import UUID

import pytest

from app.cli.run_commands import _WIDTHS, run_cells
from app.cli.terminal_text import row
from app.db import inspection, run_updates, runs
from app.services import runs as services_runs
from app.services import transitions, workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import HttpTarget
from tests.support.run_execution import execute_run, fail_run, rows_of, start_run, the_run


def test_runs_are_listed_newest_first(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    first = start_run(context, acme, {"wait": "1h"})
    second = acme.post(an_event()).get_json()["runs"][0]
    lines = signalbox("run", "list", "--account", acme.slug).stdout.splitlines()
    assert [line.split("\t")[1:5] for line in lines] == [
        [second, "running", "watch v1", "915673412780"],
        [first, "running", "watch v1", "915673412780"],
    ]


def test_the_list_shows_the_current_step_of_a_run(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = start_run(context, acme, {"wait": "1h"})
    assert signalbox("run", "list", "--account", acme.slug).stdout.endswith("\tat steps[0], due\n")
    execute_run(context, acme.account_id, run)
    assert re.search(r"\tat steps\[0\], in (1h|59m\d+s)\n$", signalbox("run", "list", "--account", acme.slug).stdout)


def test_the_list_shows_why_a_run_failed(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = fail_run(context, acme, broken)
    line = signalbox("run", "list", "--failed", "--account", acme.slug).stdout
    assert line.split("\t")[1:3] == [run, "failed"]
    assert line.endswith("\tsteps[0] (http): answered 500\n")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 3),
        (["--failed"], 0),
        (["--workflow", "watch"], 3),
        (["--workflow", "other"], 0),
        (["--subject", "somebody"], 1),
        (["--since", "1h"], 3),
        (["--since", "2999-01-01"], 0),
        (["--limit", "2"], 2),
    ],
)
def test_the_list_can_be_narrowed(
    signalbox: CommandLine, context: AppContext, acme: Sender, options: list[str], count: int
) -> None:
    start_run(context, acme, {"wait": "1h"})
    acme.post(an_event())
    acme.post(an_event(distinct_id="somebody"))
    assert len(signalbox("run", "list", "--account", acme.slug, *options).stdout.splitlines()) == count


def test_an_unknown_workflow_is_reported(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    for words in (["list"], ["retry", "--failed", "--since", "1h"]):
        result = signalbox("run", *words, "--workflow", "nix", "--account", acme.slug)
        assert (result.exit_code, result.stdout) == (1, "")
        assert (
            result.stderr
            == f"Error: there is no workflow 'nix'; `signalbox workflow list --account {acme.slug}` shows all\n"
        )
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    assert signalbox("run", "list", "--workflow", "watch", "--account", acme.slug).exit_code == 0


def test_a_run_fits_a_terminal(context: AppContext, acme: Sender) -> None:
    run = start_run(context, acme, {"wait": "1h"}, name="a-workflow-with-a-name-that-is-rather-long")
    with context.database.transaction() as connection:
        (found,) = inspection.find_latest_runs(connection, acme.account_id, inspection.RunFilter(), 10)
    line = row(run_cells(found, context.clock()), _WIDTHS, 140)
    assert run in line
    assert len(line) <= 140
    assert "a-workflow-with-a-nam…" in line


# cancel


def test_a_cancelled_run_executes_no_further_step(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = start_run(context, acme, {"wait": "1h"}, {"log": "never"})
    execute_run(context, acme.account_id, run)
    assert signalbox("run", "cancel", run).stdout == f"{run}: cancelled\n"
    after = execute_run(context, acme.account_id, run, job=2)
    assert (after["status"], after["wake_at"], after["error"]) == ("cancelled", None, "cancelled by hand")
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert (step["status"], step["error"]) == ("skipped", "cancelled by hand")


def test_only_running_runs_are_cancelled(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = start_run(context, acme, {"log": "x"})
    before = execute_run(context, acme.account_id, run)
    result = signalbox("run", "cancel", run)
    assert result.exit_code == 1
    assert result.stderr == f"{run}: skipped; it is done\n"
    assert the_run(context, acme.account_id, run) == before


def test_a_worker_writes_nothing_after_a_cancel(context: AppContext, acme: Sender) -> None:
    run = start_run(context, acme, {"wait": "1h"})
    claimed = runs.claim_run(context.database, acme.account_id, UUID(run), 1)
    assert claimed is not None
    assert services_runs.cancel_runs(context, acme.account_id, [UUID(run)])
    assert not run_updates.update_run(
        context.database, claimed, transitions.wait(claimed, context.clock()), context.clock()
    )
    assert the_run(context, acme.account_id, run)["status"] == "cancelled"


# accounts


def test_another_account_s_runs_are_not_listed(
    signalbox: CommandLine, context: AppContext, acme: Sender, globex: Sender
) -> None:
    start_run(context, acme, {"wait": "1h"})
    assert signalbox("run", "list", "--account", globex.slug).stdout == ""


@pytest.mark.parametrize("words", [("show",), ("retry", "--yes"), ("cancel",)])
def test_another_account_s_run_cannot_be_seen_or_touched(
    signalbox: CommandLine,
    context: AppContext,
    acme: Sender,
    globex: Sender,
    broken: HttpTarget,
    words: tuple[str, ...],
) -> None:
    run = fail_run(context, acme, broken) if words[0] == "retry" else start_run(context, acme, {"wait": "1h"})
    before = the_run(context, acme.account_id, run)
    result = signalbox("run", *words, run, "--account", globex.slug)
    assert result.exit_code == 1
    assert "915673412780" not in result.output
    assert the_run(context, acme.account_id, run) == before


def test_another_account_s_failed_runs_are_not_retried(
    signalbox: CommandLine, context: AppContext, acme: Sender, globex: Sender, broken: HttpTarget
) -> None:
    run = fail_run(context, acme, broken)
    signalbox("run", "retry", "--failed", "--since", "1h", "--yes", "--account", globex.slug)
    assert the_run(context, acme.account_id, run)["status"] == "failed"


def test_flask_s_own_run_does_not_hide_the_group() -> None:
    output = subprocess.run(
        [sys.executable, "-m", "flask", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"},
    ).stdout
    assert "retry" in output
    assert "development server" not in output
