"""`signalbox run …`: runs are listed, shown, retried and cancelled, each for one account only."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from app.cli.run_commands import _WIDTHS, run_cells
from app.cli.terminal_text import row
from app.db import inspection, run_updates, runs
from app.db.audit import EntryFilter
from app.services import audit, secrets, transitions, workflows
from app.services import runs as services_runs
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, HttpTarget, an_http_target
from tests.support.run_execution import execute_run, jobs_of, rows_of, the_run, wake


def _started(context: AppContext, sender: Sender, *steps: object, **changes: object) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps), **changes))
    run: str = sender.post(an_event(event=changes.get("on", "product_view"))).get_json()["runs"][0]
    return run


def _failed(context: AppContext, sender: Sender, server: HttpTarget, **changes: object) -> str:
    """A run that has failed with its first and only attempt."""
    run = _started(context, sender, {"http": {"url": server.url}, "retry": {"attempts": 1}}, **changes)
    assert execute_run(context, sender.account_id, run)["status"] == "failed"
    return run


@pytest.fixture
def broken() -> Iterator[HttpTarget]:
    """A target that answers 500 once and 200 afterwards."""
    with an_http_target(Answer(500, b"out of order"), Answer(200)) as server:
        yield server


# list


def test_runs_are_listed_newest_first(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    first = _started(context, acme, {"wait": "1h"})
    second = acme.post(an_event()).get_json()["runs"][0]
    lines = signalbox("run", "list", "--account", acme.slug).stdout.splitlines()
    assert [line.split("\t")[1:5] for line in lines] == [
        [second, "running", "watch v1", "915673412780"],
        [first, "running", "watch v1", "915673412780"],
    ]


def test_the_list_shows_the_current_step_of_a_run(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"})
    assert signalbox("run", "list", "--account", acme.slug).stdout.endswith("\tat steps[0], due\n")
    execute_run(context, acme.account_id, run)
    assert re.search(r"\tat steps\[0\], in (1h|59m\d+s)\n$", signalbox("run", "list", "--account", acme.slug).stdout)


def test_the_list_shows_why_a_run_failed(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = _failed(context, acme, broken)
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
    _started(context, acme, {"wait": "1h"})
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
    run = _started(context, acme, {"wait": "1h"}, name="a-workflow-with-a-name-that-is-rather-long")
    with context.database.transaction() as connection:
        (found,) = inspection.find_latest_runs(connection, acme.account_id, inspection.RunFilter(), 10)
    line = row(run_cells(found, context.clock()), _WIDTHS, 140)
    assert run in line
    assert len(line) <= 140
    assert "a-workflow-with-a-nam…" in line


# show


def test_a_run_is_explained_from_start_to_end(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503, b"busy"), Answer(200, b'{"id": 7}')) as server:
        run = _started(
            context,
            acme,
            {"wait": "1h"},
            {"id": "tell", "http": {"url": server.url + "/hook?token=hush"}},
            {"if": "steps.tell.body.id == 7", "then": [{"id": "say", "log": "told"}]},
            {"wait_for": "order_placed", "timeout": "1d"},
        )
        for job in (1, 2, 3):
            execute_run(context, acme.account_id, run, job=job)
        event = acme.post(an_event(event="order_placed")).get_json()["id"]
        wake(context, acme.account_id, event)
        execute_run(context, acme.account_id, run, job=5)
    output = signalbox("run", "show", run).stdout
    first = the_run(context, acme.account_id, run)["event_id"]
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", "AT", output)
    output = re.sub(r"\b\d+ms|\b\d(?:\.\d)?s", "SPAN", output)
    assert output.splitlines() == [
        f"run        {run}",
        f"workflow   watch, version 1, account {acme.slug}",
        "subject    915673412780",
        "status     done AT",
        "",
        f"AT  started by product_view (event {first})",
        "AT  steps[0] wait entered, until AT",
        "AT  steps[0] wait done after SPAN",
        "AT  steps[1] http tell entered",
        f"AT    attempt 1: POST {server.url}/hook?token=*** → 503 in SPAN: retry, answered 503 (http_5xx)",
        "                                 response: busy",
        f"AT    attempt 2: POST {server.url}/hook?token=*** → 200 in SPAN: done",
        '                                 response: {"id": 7}',
        "AT  steps[1] http tell done",
        "AT  steps[2] if done: then",
        "AT  steps[2].then[0] log say entered",
        "AT    attempt 1: in SPAN: done",
        "AT  steps[2].then[0] log say done: told",
        "AT  steps[3] wait_for entered, until AT",
        f"AT  steps[3] wait_for done: order_placed arrived (event {event})",
        "AT  done after SPAN",
    ]


def test_conditions_that_could_not_be_evaluated_show_why(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    run = _started(
        context,
        acme,
        {"if": "data.no > 1", "then": []},
        {"set": {"a": "data.no", "b": "1"}},
        {"repeat": [{"wait": "1h"}], "until": "data.no > 1", "most": 1},
        {"wait_for": {"event": "order_placed", "where": "data.no > 1"}, "timeout": "1h"},
        {"if": "data.no > 1", "strict": True, "then": []},
    )
    for job in (1, 2):
        execute_run(context, acme.account_id, run, job=job)
    event = acme.post(an_event(event="order_placed", data={"total": 1})).get_json()["id"]
    wake(context, acme.account_id, event)
    execute_run(context, acme.account_id, run, job=3)
    output = signalbox("run", "show", run).stdout
    lines = [line.partition("Z  ")[2] for line in output.splitlines()]
    assert [line for line in lines if line.startswith("steps[") and "data.no" in line] == [
        "steps[0] if done: else (data.no is missing)",
        "steps[1] set done: a = null, b = 1 (a: data.no is missing)",
        "steps[2] repeat done: round 1 begins (data.no is missing)",
        "steps[2] repeat done: ended after 1 round, the limit is reached (data.no is missing)",
        f"steps[3] wait_for done: no event arrived in time (order_placed (event {event}): data.no is missing)",
        "steps[4] if failed: steps[4].if: data.no is missing",
    ]


def test_a_waiting_run_shows_when_it_wakes_up(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"})
    execute_run(context, acme.account_id, run)
    output = signalbox("run", "show", run).stdout
    assert re.search(
        r"^status     running at steps\[0\] \(wait\), next wake-up .+Z \(in (1h|59m\d+s)\)$", output, re.MULTILINE
    )
    assert re.search(r"Z  next wake-up, in (1h|59m\d+s), at steps\[0\] \(wait\)\n$", output)


def test_a_run_that_no_worker_has_claimed_is_due(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    assert signalbox("run", "show", _started(context, acme, {"log": "x"})).stdout.endswith(
        "its job is due, at steps[0] (log)\n"
    )


def test_a_failed_run_shows_why(signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget) -> None:
    output = signalbox("run", "show", _failed(context, acme, broken)).stdout
    assert re.search(r"^status     failed .+Z: steps\[0\] \(http\): answered 500$", output, re.MULTILINE)
    assert "failed, answered 500 (http_5xx)\n" in output
    assert "response: out of order\n" in output


def test_a_deferred_step_shows_why(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503)) as server:
        run = _started(context, acme, {"http": {"url": server.url}})
        execute_run(context, acme.account_id, run)
    assert "held back" not in signalbox("run", "show", run).stdout
    with context.database.transaction() as connection:
        values = {"run": run, "error": "a.example is left alone"}
        connection.exec_driver_sql("UPDATE steps SET error = %(error)s WHERE run_id = %(run)s", values)
    assert "  steps[0] http is deferred: a.example is left alone\n" in signalbox("run", "show", run).stdout


def test_an_exited_run_names_the_event(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, exit_on="order_placed")
    execute_run(context, acme.account_id, run)
    event = acme.post(an_event(event="order_placed")).get_json()["id"]
    wake(context, acme.account_id, event)
    output = signalbox("run", "show", run).stdout
    assert f"steps[0] wait skipped: exit_on: order_placed (event {event})\n" in output


def test_a_run_is_explained_as_json(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(
        Answer(200, b'{"id": 12345678901234567890.10}', (("Content-Type", "application/json"),))
    ) as server:
        run = _started(context, acme, {"id": "tell", "http": {"url": server.url}}, {"wait": "1h"})
        execute_run(context, acme.account_id, run)
    output = signalbox("run", "show", run, "--json").stdout
    assert '"id":12345678901234567890.10' in output
    shown = json.loads(output)
    assert (shown["id"], shown["status"], shown["at"]) == (run, "running", "steps[1]")
    assert shown["event"]["event"] == "product_view"
    assert [(step["name"], step["action"], step["status"]) for step in shown["steps"]] == [
        ("tell", "http", "done"),
        (None, "wait", "waiting"),
    ]
    assert [step["until"] for step in shown["steps"]] == [None, shown["wake_at"]]
    (attempt,) = shown["attempts"]
    assert (attempt["ordinal"], attempt["attempt"], attempt["outcome"], attempt["response"]["status"]) == (
        0,
        1,
        "done",
        200,
    )


def test_no_response_of_a_target_can_move_the_cursor(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404, b"\x1b[2J\x9b31m" + "\u202e".encode())) as server:
        run = _started(context, acme, {"http": {"url": server.url}})
        execute_run(context, acme.account_id, run)
    output = signalbox("run", "show", run).stdout
    assert all(letter.isprintable() or letter == "\n" for letter in output)
    assert r"response: \x1b[2J" in output


def test_an_unknown_run_is_reported_in_one_line(signalbox: CommandLine, acme: Sender) -> None:
    unknown = uuid4()
    result = signalbox("run", "show", unknown)
    assert (result.exit_code, result.stderr) == (1, f"Error: run {unknown} not found\n")


def test_a_command_in_a_report_works_when_it_is_pasted(
    signalbox: CommandLine, context: AppContext, acme: Sender, globex: Sender
) -> None:
    with an_http_target(Answer(410)) as server:
        run = _failed(context, acme, server)
        event = the_run(context, acme.account_id, run)["event_id"]
    reports = [("run", "show", run), ("event", "show", event)]
    reports += [("subject", words, acme.slug, "915673412780") for words in ("show", "why")]
    reports += [("run", words, "--account", acme.slug) for words in ("list", "failures")]
    for words in reports:
        report = signalbox(*words).stdout
        command = f"signalbox target enable {server.url} --account {acme.slug}"
        assert set(re.findall(r"`(.*?)`", report)) == {command}
    assert signalbox(*command.split()[1:]).exit_code == 0


def test_what_an_account_lacks_is_reported_with_the_command_that_sets_it(
    signalbox: CommandLine, context: AppContext, acme: Sender, globex: Sender
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", "a secret of the test")
    steps = [{"http": {"url": "https://example.com/{{ secrets.SHOP }}"}}, {"sms": {"to": "{{ phone }}", "text": "hi"}}]
    runs = [_started(context, acme, step, name=f"w{number}", on=f"e{number}") for number, step in enumerate(steps)]
    secrets.remove_secret(context, acme.account_id, "SHOP", force=True)
    for run, error, command in (
        (runs[0], "the account has no secret SHOP: set it", "secret set SHOP"),
        (runs[1], "the account has no twilio integration: set it up", "integration set twilio"),
    ):
        assert str(execute_run(context, acme.account_id, run)["error"]).endswith(f": {error}")
        report = signalbox("run", "show", run).stdout
        assert f"{error} (`signalbox {command} --account {acme.slug}`)" in report
        assert "`" not in signalbox("run", "show", run, "--json").stdout


# retry


def test_a_retried_run_goes_on_with_the_same_key(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = _failed(context, acme, broken)
    result = signalbox("run", "retry", run, "--yes")
    assert (result.exit_code, result.stdout) == (0, "1 run scheduled again\n")
    assert jobs_of(context, run)[-1] == f"{acme.account_id}:{run}:2"
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"
    assert [call.headers["Idempotency-Key"] for call in broken.calls] == [f"{run}-0"] * 2


def test_attempt_numbers_continue_and_the_retry_policy_restarts(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    with an_http_target(Answer(500)) as server:
        run = _started(context, acme, {"http": {"url": server.url}, "retry": {"attempts": 2, "first": "1s"}})
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
    run = _failed(context, acme, broken)
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
    run = _failed(context, acme, broken, exit_on="order_placed")
    event = acme.post(an_event(event="order_placed")).get_json()["id"]
    wake(context, acme.account_id, event)
    signalbox("run", "retry", run, "--yes")
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "exited"
    assert len(broken.calls) == 1


def test_retry_prompts_with_the_number_of_runs(
    signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget
) -> None:
    run = _failed(context, acme, broken)
    result = signalbox("run", "retry", run, typed="n\n")
    assert result.exit_code == 1
    assert "Retry 1 run? [y/N]: " in result.stderr
    assert the_run(context, acme.account_id, run)["status"] == "failed"
    assert signalbox("run", "retry", run, typed="y\n").exit_code == 0
    assert the_run(context, acme.account_id, run)["status"] == "running"


def test_all_recently_failed_runs_are_retried(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        _started(context, acme, {"http": {"url": server.url}})
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
    run = _started(context, acme, {"wait": "1h"})
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


# cancel


def test_a_cancelled_run_executes_no_further_step(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "never"})
    execute_run(context, acme.account_id, run)
    assert signalbox("run", "cancel", run).stdout == f"{run}: cancelled\n"
    after = execute_run(context, acme.account_id, run, job=2)
    assert (after["status"], after["wake_at"], after["error"]) == ("cancelled", None, "cancelled by hand")
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert (step["status"], step["error"]) == ("skipped", "cancelled by hand")


def test_only_running_runs_are_cancelled(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "x"})
    before = execute_run(context, acme.account_id, run)
    result = signalbox("run", "cancel", run)
    assert result.exit_code == 1
    assert result.stderr == f"{run}: skipped; it is done\n"
    assert the_run(context, acme.account_id, run) == before


def test_a_worker_writes_nothing_after_a_cancel(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"})
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
    _started(context, acme, {"wait": "1h"})
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
    run = _failed(context, acme, broken) if words[0] == "retry" else _started(context, acme, {"wait": "1h"})
    before = the_run(context, acme.account_id, run)
    result = signalbox("run", *words, run, "--account", globex.slug)
    assert result.exit_code == 1
    assert "915673412780" not in result.output
    assert the_run(context, acme.account_id, run) == before


def test_another_account_s_failed_runs_are_not_retried(
    signalbox: CommandLine, context: AppContext, acme: Sender, globex: Sender, broken: HttpTarget
) -> None:
    run = _failed(context, acme, broken)
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
