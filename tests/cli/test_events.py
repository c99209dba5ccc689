"""`signalbox event …`: events are listed, followed, explained and sent, each for one account only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from app.cli.event_tail import EventTail
from app.cli.events import _WIDTHS, event_cells
from app.cli.terminal_text import row
from app.core.ids import uuid7
from app.db.inspection import EventFilter, StoredEvent
from app.services import inspection, workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.command_lines import SIGNALBOX
from tests.support.http_target import serving
from tests.support.run_execution import execute_run

ROOT = Path(__file__).resolve().parents[2]


def test_an_event_is_explained_as_json(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    stored = acme.post(an_event(data={"price": 19.5})).get_json()
    shown = json.loads(signalbox("event", "show", stored["id"], "--json").stdout)
    assert (shown["id"], shown["received_at"], shown["data"]) == (stored["id"], stored["received_at"], {"price": 19.5})
    assert [(decision["workflow"], decision["run"]) for decision in shown["decisions"]] == [
        ("watch", stored["runs"][0])
    ]
    assert [(run["id"], run["status"]) for run in shown["runs"]] == [(stored["runs"][0], "running")]


def test_an_event_is_shown_with_the_time_at_which_it_happened(signalbox: CommandLine, acme: Sender) -> None:
    stored = acme.post(an_event(occurred_at="2024-03-05T15:30:00+05:30")).get_json()
    lines = signalbox("event", "show", stored["id"]).stdout.splitlines()
    assert any(line.startswith("occurred   2024-03-05T10:00:00.000000Z (") for line in lines), lines
    shown = json.loads(signalbox("event", "show", stored["id"], "--json").stdout)
    (listed,) = signalbox("event", "list", "--account", acme.slug, "--json").stdout.splitlines()
    assert shown["occurred_at"] == json.loads(listed)["occurred_at"] == "2024-03-05T10:00:00.000000Z"


def test_an_event_without_such_a_time_is_shown_without(signalbox: CommandLine, acme: Sender) -> None:
    stored = acme.post(an_event()).get_json()
    assert "occurred" not in signalbox("event", "show", stored["id"]).stdout
    assert json.loads(signalbox("event", "show", stored["id"], "--json").stdout)["occurred_at"] is None


def _listed(signalbox: CommandLine, sender: Sender, *options: object) -> list[str]:
    """The names of the events in a list."""
    lines = signalbox("event", "list", "--account", sender.slug, *options).stdout.splitlines()
    return [line.split("\t")[2] for line in lines]


# list


def test_events_are_listed_newest_first(signalbox: CommandLine, acme: Sender) -> None:
    first, second = (acme.post(an_event(event=name)).get_json()["id"] for name in ("one", "two"))
    lines = signalbox("event", "list", "--account", acme.slug).stdout.splitlines()
    assert [line.split("\t")[1:4] for line in lines] == [
        [second, "two", "915673412780"],
        [first, "one", "915673412780"],
    ]


def test_a_list_shows_how_many_runs_an_event_started(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    acme.post(an_event())
    acme.post(an_event(event="other"))
    lines = signalbox("event", "list", "--account", acme.slug).stdout.splitlines()
    assert [line.split("\t")[4] for line in lines] == ["-", "1 run"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["c", "b", "a"]),
        (["--event", "a"], ["a"]),
        (["--subject", "2"], ["b"]),
        (["--phone", "+915673412781"], ["c"]),
        (["--phone", "(+91)\u00a056734-12781"], ["c"]),
        (["--since", "1h"], ["c", "b", "a"]),
        (["--since", "2999-01-01"], []),
        (["--until", "1h"], []),
        (["--until", "2999-01-01"], ["c", "b", "a"]),
        (["--limit", "2"], ["c", "b"]),
        (["--event", "a", "--subject", "2"], []),
    ],
)
def test_the_list_can_be_narrowed(signalbox: CommandLine, acme: Sender, options: list[str], names: list[str]) -> None:
    acme.post(an_event(event="a", distinct_id="1"))
    acme.post(an_event(event="b", distinct_id="2"))
    acme.post(an_event(event="c", distinct_id="3", phone="+915673412781"))
    assert _listed(signalbox, acme, *options) == names


def test_json_has_every_digit(signalbox: CommandLine, acme: Sender) -> None:
    data = '{"big":12345678901234567890123,"long":0.1234567890123456789,"ends":1.10}'
    acme.post('{"event":"a","distinct_id":"1","data":' + data + ',"more":2.50}')
    line = signalbox("event", "list", "--json", "--account", acme.slug).stdout
    for digits in ("12345678901234567890123", "0.1234567890123456789", "1.10", "2.50"):
        assert digits in line
    event = json.loads(line)
    assert (event["event"], event["distinct_id"], event["phone"], event["decisions"]) == ("a", "1", None, [])


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nothing_that_a_customer_sends_can_move_the_cursor(
    signalbox: CommandLine, acme: Sender, options: list[str]
) -> None:
    acme.post(an_event(event="a\x1b[2J", distinct_id="\x9b31m\u202e", data={"\x7f": "\x1b]0;x\x07\n"}))
    output = signalbox("event", "list", "--account", acme.slug, *options).stdout
    assert output.count("\n") == 1
    assert all(letter.isprintable() or letter in "\t\n" for letter in output)


def test_an_event_fits_a_terminal(context: AppContext, acme: Sender) -> None:
    acme.post(an_event(event="an_event_of_quite_some_length", data={"text": "日本語" * 100}))
    (event,) = inspection.find_latest_events(context, acme.account_id, EventFilter(), 10)
    line = row(event_cells(event), _WIDTHS, 160)
    assert str(event.id) in line
    assert "an_event_of_quite_s…" in line
    assert len(line) < 160


# show


def test_an_event_is_explained(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"wait": "1h"}]))
    on = {"event": "product_view", "where": "data.price > 1000"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="rich", on=on))
    answer = acme.post('{"event":"product_view","distinct_id":"1","data":{"n":1.10},"more":true}').get_json()
    run = answer["runs"][0]
    execute_run(context, acme.account_id, run)
    output = signalbox("event", "show", answer["id"]).stdout
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", "AT", output)
    assert re.sub(r"\(in (1h|59m\d+s)\)|\([^()]+ ago\)", "(SPAN)", output).splitlines() == [
        f"event      {answer['id']}",
        "name       product_view",
        f"account    {acme.slug}",
        "subject    1",
        "phone      -",
        "received   AT (SPAN)",
        "warning    unknown fields kept in extra: more",
        "data       {",
        '             "n": 1.10',
        "           }",
        "extra      {",
        '             "more": true',
        "           }",
        "",
        "decisions:",
        "  rich version 1 did not start: data.price is missing",
        f"  watch version 1 started run {run}: matched",
        "",
        "runs:",
        f"  {run} watch version 1: running at steps[0], next wake-up AT (SPAN)",
    ]


def test_an_event_without_candidate_workflows_is_explained(signalbox: CommandLine, acme: Sender) -> None:
    output = signalbox("event", "show", acme.post(an_event()).get_json()["id"]).stdout
    assert "decisions: none, no enabled workflow looked at events of this name\n\nruns: none\n" in output


def test_an_idempotency_key_is_shown_with_its_event(signalbox: CommandLine, acme: Sender) -> None:
    event = acme.post(an_event(), Idempotency_Key="order-17").get_json()["id"]
    assert "\nkey        order-17\n" in signalbox("event", "show", event).stdout


def test_many_refusals_at_once_are_reported_in_one_line(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    for number in range(25):
        on = {"event": "product_view", "where": f"data.price == {number}"}
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=f"w{number}", on=on))
    output = signalbox("event", "show", acme.post(an_event(data={"price": 99})).get_json()["id"]).stdout
    assert "  25 workflows did not start: filters on data.price are false\n" in output


def test_an_event_shows_nothing_that_could_move_the_cursor(signalbox: CommandLine, acme: Sender) -> None:
    sent = an_event(event="a\x1b[2J", distinct_id="\x9b31m", data={"\x1b": ["\u202e\x7f"]})
    output = signalbox("event", "show", acme.post(sent).get_json()["id"]).stdout
    assert all(letter.isprintable() or letter == "\n" for letter in output)
    assert "\nsubject    \\x9b31m\n" in output


@pytest.mark.parametrize(
    "unknown",
    [
        "2f1e7c1a-6a51-4d0c-9d3b-0c7c1f2f6a10",
        "01a223a0-ca9d-7f1f-b720-f912c460e148",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
    ],
)
def test_an_unknown_event_is_reported_in_one_line(signalbox: CommandLine, acme: Sender, unknown: object) -> None:
    result = signalbox("event", "show", unknown)
    assert (result.exit_code, result.stderr) == (1, f"Error: event {unknown} not found\n")


def test_another_account_s_events_cannot_be_seen(signalbox: CommandLine, acme: Sender, globex: Sender) -> None:
    event = acme.post(an_event()).get_json()["id"]
    assert _listed(signalbox, globex) == []
    for words in (("show",), ("replay", "--dry-run")):
        result = signalbox("event", *words, event, "--account", globex.slug)
        assert result.exit_code == 1
        assert "915673412780" not in result.output


# tail


def _insert_late(context: AppContext, account_id: int, before: timedelta) -> None:
    """Commit an event now that was received earlier."""
    arrived = context.clock() - before
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) "
            "VALUES (%(account)s, %(id)s, 'late', '1', '{}', %(at)s)",
            {"account": account_id, "id": uuid7(arrived), "at": arrived},
        )


def _follower(context: AppContext, account_id: int, **wanted: str) -> EventTail:
    def find_events(since: Any, known: Any, limit: int) -> list[StoredEvent]:
        return inspection.find_further_events(context, account_id, EventFilter(since=since, **wanted), known, limit)

    return EventTail(find_events, context.clock, timedelta(seconds=15))


def test_events_are_followed_each_once_and_late_ones_too(context: AppContext, acme: Sender, globex: Sender) -> None:
    acme.post(an_event(event="before"))
    follower = _follower(context, acme.account_id)
    acme.post(an_event(event="one"))
    globex.post(an_event(event="of globex"))
    found = [event.event for event in follower.poll()]
    _insert_late(context, acme.account_id, timedelta(seconds=5))
    acme.post(an_event(event="two"))
    found += [event.event for event in follower.poll()]
    assert found == ["one", "late", "two"]
    assert list(follower.poll()) == []


def test_only_wanted_events_are_followed(context: AppContext, acme: Sender) -> None:
    follower = _follower(context, acme.account_id, event="a", subject="1")
    for name, subject in (("a", "1"), ("a", "2"), ("b", "1")):
        acme.post(an_event(event=name, distinct_id=subject))
    assert [(event.event, event.distinct_id) for event in follower.poll()] == [("a", "1")]


def test_tail_prints_events_as_they_arrive_until_ctrl_c(acme: Sender, database_url: str) -> None:
    command = [*SIGNALBOX]
    tail = [*command, "event", "tail", "--json", "--account", acme.slug]
    environment = {**os.environ, "DATABASE_URL": database_url}
    # As a terminal starts it, whatever these tests were started by: nohup and `&` hand on that Ctrl-C is ignored.
    with subprocess.Popen(
        tail,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as program:
        assert program.stdout is not None
        names: list[str] = []
        try:
            # It starts at its own pace; events are posted until the first one is seen.
            seen = threading.Event()
            reader = threading.Thread(target=_read_first, args=(program.stdout, names, seen))
            reader.start()
            for number in range(200):
                acme.post(an_event(event=f"e{number}"))
                if seen.wait(0.2):
                    break
            reader.join(10)
        finally:
            program.send_signal(signal.SIGINT)
        sleep = [json.loads(line)["event"] for line in program.stdout]
        assert program.wait(10) == 0
    numbers = [int(name[1:]) for name in names + sleep]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _read_first(lines: Any, names: list[str], seen: threading.Event) -> None:
    names.append(json.loads(lines.readline())["event"])
    seen.set()


# send


class _Silent(WSGIRequestHandler):
    """Logs no requests: the lines would be in the standard error of the command, which runs in the same process."""

    def log_request(self, *_: object) -> None:
        pass


@contextmanager
def _serving(app: Flask) -> Iterator[str]:
    """The application on a port of this machine."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Silent)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def test_the_same_file_sent_again_stores_nothing_twice(
    signalbox: CommandLine, app: Flask, acme: Sender, tmp_path: Path
) -> None:
    file = tmp_path / "events.json"
    file.write_text(json.dumps([an_event(event="a"), an_event(event="a"), an_event(event="b", data={"n": 1.10})]))
    with _serving(app) as url:
        words = ("event", "send", file, "--url", url, "--token", acme.token, "--account-id", acme.account_id)
        first, second = signalbox(*words), signalbox(*words)
        assert (first.exit_code, first.stdout) == (0, "3 sent: 3 stored\n")
        assert (second.exit_code, second.stdout) == (0, "3 sent: 3 stored before\n")
        assert _listed(signalbox, acme) == ["b", "a", "a"]
        assert signalbox(*words, "--anew").stdout == "3 sent: 3 stored\n"


def test_a_refused_line_is_reported_with_the_problem_detail(
    signalbox: CommandLine, app: Flask, acme: Sender, tmp_path: Path
) -> None:
    file = tmp_path / "events.ndjson"
    lines = [an_event(), an_event(event=...), an_event(phone="12")]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    with _serving(app) as url:
        result = signalbox("event", "send", file, "--url", url, "--token", acme.token, "--account-id", acme.account_id)
    assert (result.exit_code, result.stdout) == (1, "4 sent: 1 stored, 3 refused\n")
    output = result.stderr.splitlines()
    assert output[0] == "line 2: event is missing: the name of the event (422)"
    assert output[1].startswith("line 3: phone must begin with + and the country code")
    assert output[2].startswith("line 4: The body is not JSON")
