"""`signalbox run show` explains a run, for people and as JSON."""

from __future__ import annotations

import json
import re
from uuid import uuid4

from app.services import secrets
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, an_event
from tests.support.http_target import Answer, HttpTarget, an_http_target
from tests.support.run_execution import execute_run, fail_run, start_run, the_run, wake


def test_a_run_is_explained_from_start_to_end(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503, b"busy"), Answer(200, b'{"id": 7}')) as server:
        run = start_run(
            context,
            acme,
            {"wait": "1h"},
            {"id": "tell", "http": {"url": server.url + "/hook?token=hush"}},
            {"if": "steps.tell.body.id == 7", "then": [{"id": "say", "log": "sent"}]},
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
        "AT  steps[2].then[0] log say done: sent",
        "AT  steps[3] wait_for entered, until AT",
        f"AT  steps[3] wait_for done: order_placed arrived (event {event})",
        "AT  done after SPAN",
    ]


def test_conditions_that_could_not_be_evaluated_show_why(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    run = start_run(
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
    run = start_run(context, acme, {"wait": "1h"})
    execute_run(context, acme.account_id, run)
    output = signalbox("run", "show", run).stdout
    assert re.search(
        r"^status     running at steps\[0\] \(wait\), next wake-up .+Z \(in (1h|59m\d+s)\)$", output, re.MULTILINE
    )
    assert re.search(r"Z  next wake-up, in (1h|59m\d+s), at steps\[0\] \(wait\)\n$", output)


def test_a_run_that_no_worker_has_claimed_is_due(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    assert signalbox("run", "show", start_run(context, acme, {"log": "x"})).stdout.endswith(
        "its job is due, at steps[0] (log)\n"
    )


def test_a_failed_run_shows_why(signalbox: CommandLine, context: AppContext, acme: Sender, broken: HttpTarget) -> None:
    output = signalbox("run", "show", fail_run(context, acme, broken)).stdout
    assert re.search(r"^status     failed .+Z: steps\[0\] \(http\): answered 500$", output, re.MULTILINE)
    assert "failed, answered 500 (http_5xx)\n" in output
    assert "response: out of order\n" in output


def test_a_deferred_step_shows_why(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503)) as server:
        run = start_run(context, acme, {"http": {"url": server.url}})
        execute_run(context, acme.account_id, run)
    assert "held back" not in signalbox("run", "show", run).stdout
    with context.database.transaction() as connection:
        values = {"run": run, "error": "a.example is left alone"}
        connection.exec_driver_sql("UPDATE steps SET error = %(error)s WHERE run_id = %(run)s", values)
    assert "  steps[0] http is deferred: a.example is left alone\n" in signalbox("run", "show", run).stdout


def test_an_exited_run_names_the_event(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    run = start_run(context, acme, {"wait": "1h"}, exit_on="order_placed")
    execute_run(context, acme.account_id, run)
    event = acme.post(an_event(event="order_placed")).get_json()["id"]
    wake(context, acme.account_id, event)
    output = signalbox("run", "show", run).stdout
    assert f"steps[0] wait skipped: exit_on: order_placed (event {event})\n" in output


def test_a_run_is_explained_as_json(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    with an_http_target(
        Answer(200, b'{"id": 12345678901234567890.10}', (("Content-Type", "application/json"),))
    ) as server:
        run = start_run(context, acme, {"id": "tell", "http": {"url": server.url}}, {"wait": "1h"})
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
        run = start_run(context, acme, {"http": {"url": server.url}})
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
        run = fail_run(context, acme, server)
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
    runs = [start_run(context, acme, step, name=f"w{number}", on=f"e{number}") for number, step in enumerate(steps)]
    secrets.remove_secret(context, acme.account_id, "SHOP", force=True)
    for run, error, command in (
        (runs[0], "the account has no secret SHOP: set it", "secret set SHOP"),
        (runs[1], "the account has no twilio integration: set it up", "integration set twilio"),
    ):
        assert str(execute_run(context, acme.account_id, run)["error"]).endswith(f": {error}")
        report = signalbox("run", "show", run).stdout
        assert f"{error} (`signalbox {command} --account {acme.slug}`)" in report
        assert "`" not in signalbox("run", "show", run, "--json").stdout
