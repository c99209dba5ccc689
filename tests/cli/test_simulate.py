"""Simulation on a file of events, and backtests on stored events, which equal the live result."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from app.core.ids import utc_text
from app.services import inspection, simulation, workflows
from app.services.context import AppContext
from tests.support.acceptance import fire_deadline
from tests.support.builders import Sender, a_workflow, an_event

EVENTS = [
    ["cart_updated", "one", 0],
    ["cart_updated", "two", 10],
    ["order_placed", "two", 20],
    ["chat", "one", 3_000],
]


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def _files(folder: Path, on: Any, events: list[list[Any]], **changes: Any) -> list[str]:
    document, lines = folder / "w.json", folder / "events.jsonl"
    document.write_text(a_workflow(on=on, **changes))
    lines.write_text(
        "\n".join(
            json.dumps({"event": name, "distinct_id": subject, "received_at": _at(second), "data": {}})
            for name, subject, second in events
        )
    )
    return [str(document), str(lines)]


def _at(second: int) -> str:
    return (datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=second)).isoformat()


def test_a_simulation_prints_events_and_deadlines_in_time_order(runner: FlaskCliRunner, tmp_path: Path) -> None:
    files = _files(tmp_path, {"seq": ["cart_updated", {"none": "order_placed", "for": "30m"}]}, EVENTS)
    result = runner.invoke(args=["workflow", "simulate", *files, "--json"])
    assert result.exit_code == 0, result.output
    waits = "will start at 2026-11-22T00:30:00.000000Z unless order_placed arrives"
    assert [json.loads(line) for line in result.output.splitlines()] == [
        {"line": 1, "at": _utc(0), "contributing": True, "fired": False, "reason": waits},
        {"line": 2, "at": _utc(10), "contributing": True, "fired": False, "reason": waits.replace("30:00.", "30:10.")},
        {"line": 3, "at": _utc(20), "contributing": False, "fired": False, "reason": "cancelled by order_placed"},
        {
            "at": "2026-11-22T00:30:00.000000Z",
            "timer": True,
            "key": "distinct_id",
            "subject": "one",
            "distinct_id": "one",
            "fired": True,
            "reason": "no order_placed arrived in time",
        },
        {
            "line": 4,
            "at": _utc(3_000),
            "contributing": False,
            "fired": False,
            "reason": "the workflow does not look at events of this name",
        },
    ]


def _utc(second: int) -> str:
    return utc_text(datetime.fromisoformat(_at(second)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"on": "a"}, "matched"),
        ({"on": {"event": "a", "where": "data.n > 1"}}, "data.n is missing"),
        ({"on": {"event": "a", "where": "event == 'b'"}}, "the filter is false"),
        ({"on": "a", "key": "data.n"}, "matched"),
        (
            {"on": "a", "key": "data.n", "again": "1d"},
            "data.n is the key, and is not a text or number of up to 255 characters",
        ),
        ({"on": {"times": 2, "of": "a"}}, "1 of 2 a"),
    ],
)
def test_a_simulation_gives_the_reason_that_would_be_stored(
    runner: FlaskCliRunner, context: AppContext, acme: Sender, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    files = _files(tmp_path, changes.pop("on"), [["a", "1", 0]], **changes)
    (line,) = runner.invoke(args=["workflow", "simulate", *files, "--json"]).output.splitlines()
    assert json.loads(line)["reason"] == reason
    assert reason in runner.invoke(args=["workflow", "simulate", *files]).output
    workflows.apply_workflow(context, acme.account_id, Path(files[0]).read_text())
    event = acme.post(an_event(event="a", distinct_id="1", data={})).get_json()["id"]
    details = inspection.find_event_details(context, acme.account_id, UUID(event))
    assert details is not None
    assert [decision["reason"] for decision in details.event.decisions] == [reason]


@pytest.mark.parametrize(
    ("again", "written"), [("1d", "at most once in 1d"), ("90m", "at most once in 1h30m"), ("once", "once")]
)
def test_a_suppressed_start_names_again_as_it_is_written(
    runner: FlaskCliRunner, tmp_path: Path, again: str, written: str
) -> None:
    files = _files(tmp_path, "a", [["a", "x", 0], ["a", "x", 1]], again=again)
    lines = runner.invoke(args=["workflow", "simulate", *files]).output.splitlines()
    assert lines[1].endswith(f"\tcontributes\tsuppressed: again ({written})")


def test_a_backtest_counts_a_start_by_an_event_without_the_key(context: AppContext, acme: Sender) -> None:
    acme.post(an_event(data={"n": 1}))
    acme.post(an_event(data={}))
    since = context.clock() - timedelta(days=1)
    for again, subjects in {"always": ["", "1"], "once": ["1"]}.items():
        rule = simulation.compile_source(a_workflow(key="data.n", again=again))
        assert [subject for subject, _ in simulation.backtest(context, acme.account_id, rule, since)] == subjects


def test_a_backtest_names_the_key_of_the_workflow(runner: FlaskCliRunner, acme: Sender, tmp_path: Path) -> None:
    event = acme.post(an_event(data={"order": "A7"})).get_json()["id"]
    for key, fields in {
        "data.order": {"key": "data.order", "subject": "A7"},
        "phone": {"key": "phone", "subject": "+915673412780"},
        "distinct_id": {"key": "distinct_id", "subject": "915673412780", "distinct_id": "915673412780"},
    }.items():
        document, _ = _files(tmp_path, "product_view", [], key=key)
        words = ["workflow", "backtest", document, "--since", "1d", "--account", acme.slug, "--json"]
        start = json.loads(runner.invoke(args=words).stdout.splitlines()[0])
        assert {name: value for name, value in start.items() if name != "at"} == {**fields, "matched": [event]}


def test_a_simulation_in_words_names_the_lines_used(runner: FlaskCliRunner, tmp_path: Path) -> None:
    files = _files(tmp_path, {"times": 2, "of": "a"}, [["a", "x", 0], ["a", "x", 1]])
    assert "starts a run (lines 1, 2)" in runner.invoke(args=["workflow", "simulate", *files]).output


def test_a_simulation_applies_again(runner: FlaskCliRunner, tmp_path: Path) -> None:
    files = _files(tmp_path, "a", [["a", "x", 0], ["a", "x", 1]], again="once")
    lines = runner.invoke(args=["workflow", "simulate", *files, "--json"]).output.splitlines()
    assert [json.loads(line)["fired"] for line in lines] == [True, False]


def test_a_simulation_reads_the_phone_as_it_is_stored(runner: FlaskCliRunner, tmp_path: Path) -> None:
    files = _files(tmp_path, {"event": "a", "where": "phone == '+915673412780' && distinct_id == '915673412780'"}, [])
    event = {"event": "a", "phone": "(+91) 56734-12780", "received_at": _at(0)}
    Path(files[1]).write_text(json.dumps(event))
    assert "starts a run" in runner.invoke(args=["workflow", "simulate", *files]).output


@pytest.mark.parametrize(
    ("sent", "starts"), [("2026-11-21T22:00:00Z", True), (1795348800, False), ("soon", False), (None, False)]
)
def test_the_time_at_which_an_event_happened_decides_alike_everywhere(
    runner: FlaskCliRunner, context: AppContext, acme: Sender, tmp_path: Path, sent: Any, starts: bool
) -> None:
    where = "occurred_at < timestamp('2026-11-22T00:00:00Z')"
    files = _files(tmp_path, {"event": "a", "where": where}, [])
    Path(files[1]).write_text(json.dumps({"event": "a", "received_at": _at(0), "occurred_at": sent}))
    assert ("starts a run" in runner.invoke(args=["workflow", "simulate", *files]).output) == starts
    event = acme.post(an_event(event="a", occurred_at=sent)).get_json()["id"]
    words = ["workflow", "backtest", files[0], "--since", "1d", "--account", acme.slug, "--json"]
    assert (event in runner.invoke(args=words).stdout) == starts
    workflows.apply_workflow(context, acme.account_id, Path(files[0]).read_text())
    replayed = runner.invoke(args=["event", "replay", event, "--dry-run"]).stdout
    assert ("would start a run" in replayed) == starts
    assert bool(acme.post(an_event(event="a", occurred_at=sent)).get_json()["runs"]) == starts


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("98765.0", "distinct_id must be text: an identifier of the person"),
        ("true", "distinct_id must be text"),
        ('["a"]', "distinct_id must be text"),
        (f'"{"x" * 256}"', "distinct_id has 256 characters; it must have 1 to 255"),
        ("9" * 300, "distinct_id has more than 255 digits"),
    ],
)
def test_a_distinct_id_that_the_receiver_refuses_is_named(
    runner: FlaskCliRunner, tmp_path: Path, sent: str, message: str
) -> None:
    files = _files(tmp_path, "a", [])
    Path(files[1]).write_text(f'{{"event": "a", "received_at": "2026-11-22T00:00:00Z", "distinct_id": {sent}}}')
    result = runner.invoke(args=["workflow", "simulate", *files])
    assert (result.exit_code, f"{files[1]}:1: {message}" in result.stderr) == (1, True)


def test_a_broken_line_is_named(runner: FlaskCliRunner, tmp_path: Path) -> None:
    files = _files(tmp_path, "a", [])
    Path(files[1]).write_text('{"event": "a", "received_at": "2026-11-22T00:00:00Z"}\n{"event": "a"}\n')
    result = runner.invoke(args=["workflow", "simulate", *files])
    assert result.exit_code == 1
    assert result.stderr == f"{files[1]}:2: received_at is missing or not text\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"event": "\xff"}', "not UTF-8: byte 12 of the line is invalid"),
        (b'{"event": "a"', "not JSON: Expecting ',' delimiter at column 14"),
        (b"[" * 100_000, "nested too deeply"),
        (
            b'{"event": "a", "received_at": "soon"}',
            "received_at is 'soon'; it must be a timestamp such as 2026-11-22T10:00:00Z",
        ),
        (
            b'{"event": "a", "received_at": "0001-01-01T00:00+14:00"}',
            "received_at is '0001-01-01T00:00+14:00'; it must",
        ),
        (
            b'{"event": "a", "received_at": "2026-11-22T00:00:00Z", "phone": "5673412780"}',
            "phone must begin with + and the country code, such as +915673412780",
        ),
        (b'{"event": "a", "received_at": "9999-12-31T00:00Z"}', "received_at is '9999-12-31T00:00Z'; it must"),
    ],
)
def test_an_invalid_line_is_reported_with_its_position(
    runner: FlaskCliRunner, tmp_path: Path, line: bytes, message: str
) -> None:
    files = _files(tmp_path, {"seq": ["a", {"none": "b", "for": "365d"}]}, [])
    Path(files[1]).write_bytes(b"\n" + line + b"\n")
    result = runner.invoke(args=["workflow", "simulate", *files])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{files[1]}:2: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("text", [b"name: a\xff\n", b"name: a\non: [\n", b"name: a\non: b\nsteps: soon\n"])
def test_errors_in_a_document_are_printed_as_by_check(
    runner: FlaskCliRunner, tmp_path: Path, acme: Sender, text: bytes
) -> None:
    document, events = _files(tmp_path, "a", [])
    Path(document).write_bytes(text)
    checked = runner.invoke(args=["workflow", "check", document])
    for words in (
        ["simulate", document, events],
        ["backtest", document, "--since", "1d", "--account", acme.slug],
        ["apply", document, "--account", acme.slug],
    ):
        result = runner.invoke(args=["workflow", *words])
        assert (result.exit_code, result.stderr) == (1, checked.stdout)


PATTERNS = [
    {"times": 3, "of": "view", "within": "1m"},
    {"seq": ["view", {"event": "add", "where": "data.n > 3"}, "buy"], "unless": "chat"},
    {"all": ["view", "add"], "within": "30s"},
    {"seq": ["view", {"none": "buy", "for": "20s"}]},
]


@pytest.mark.parametrize("on", PATTERNS, ids=range(len(PATTERNS)))
def test_a_backtest_equals_what_happened_live(on: Any, context: AppContext, acme: Sender) -> None:
    rng = random.Random(7)
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=on))
    workflow = workflows.find_workflow(context, acme.account_id, "watch").id
    before, now = context.clock, datetime.now(UTC) - timedelta(hours=1)
    try:
        for _ in range(120):
            now += timedelta(seconds=rng.choice([0, 1, 5, 15]))
            context.clock = lambda now=now: now
            acme.post(
                an_event(
                    event=rng.choice(["view", "add", "buy", "chat"]),
                    distinct_id=rng.choice(["one", "two", "three"]),
                    data={"n": rng.randrange(8)},
                )
            )
        now += timedelta(minutes=10)
        context.clock = lambda: now
        for subject in ("one", "two", "three"):
            fire_deadline(context, acme.account_id, workflow, subject)
    finally:
        context.clock = before
    rule = simulation.compile_source(a_workflow(on=on))
    simulated = {
        (subject, match.used)
        for subject, matches in simulation.backtest(context, acme.account_id, rule, now - timedelta(days=1))
        for match in matches
    }
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT distinct_id, matched FROM runs WHERE account_id = %(account)s", {"account": acme.account_id}
        )
        happened = {(row[0], tuple(row[1])) for row in rows}
    assert simulated == happened
    assert simulated


def test_a_backtest_resumes_where_it_stopped(runner: FlaskCliRunner, acme: Sender, tmp_path: Path) -> None:
    for subject in ("a", "b", "c"):
        acme.post(an_event(distinct_id=subject))
    document, checkpoint = tmp_path / "w.json", tmp_path / "checkpoint"
    document.write_text(a_workflow())
    checkpoint.write_text(
        json.dumps({"last_subject": "b", "subjects": 2, "subjects_started": 2, "starts": 2, "days": {"2026-11-01": 2}})
    )
    result = runner.invoke(
        args=["workflow", "backtest", str(document), "--since", "1d", "--account", acme.slug, "--json",
              "--checkpoint", str(checkpoint)]
    )  # fmt: skip
    *starts, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [start["distinct_id"] for start in starts] == ["c"]
    assert (summary["subjects"], summary["starts"]) == (3, 3)


@pytest.mark.parametrize("kept", [b"nonsense", b"\xff", b"[]", b"{}", b'{"last_subject": 1, "subjects": "x"}'])
def test_an_invalid_checkpoint_is_reported_in_one_line_and_kept(
    runner: FlaskCliRunner, acme: Sender, tmp_path: Path, kept: bytes
) -> None:
    document, _ = _files(tmp_path, "a", [])
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(kept)
    words = ["workflow", "backtest", document, "--since", "1d", "--account", acme.slug, "--checkpoint", str(checkpoint)]
    result = runner.invoke(args=words)
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: --checkpoint: {checkpoint} was not written by a backtest. Remove it, or use another file.\n",
    )
    assert checkpoint.read_bytes() == kept


def test_a_checkpoint_that_cannot_be_written_is_reported_before_the_work(
    runner: FlaskCliRunner, acme: Sender, tmp_path: Path
) -> None:
    acme.post(an_event(event="a"))
    document, _ = _files(tmp_path, "a", [])
    checkpoint = str(tmp_path / "nowhere" / "checkpoint")
    words = ["workflow", "backtest", document, "--since", "1d", "--account", acme.slug, "--checkpoint", checkpoint]
    result = runner.invoke(args=words)
    assert (result.exit_code, result.output) == (
        1,
        f"Error: --checkpoint: {checkpoint} cannot be written: No such file or directory\n",
    )


def test_a_backtest_changes_nothing(context: AppContext, acme: Sender, globex: Sender) -> None:
    acme.post(an_event())
    globex.post(an_event())
    rule = simulation.compile_source(a_workflow())
    since = context.clock() - timedelta(days=1)
    assert len(list(simulation.backtest(context, acme.account_id, rule, since))) == 1
    with context.database.transaction() as connection:
        count = connection.exec_driver_sql(
            "SELECT count(*) FROM runs WHERE account_id = %(account)s", {"account": acme.account_id}
        )
        assert count.scalar() == 0


def test_check_prints_the_maximum_size_of_the_match_state(runner: FlaskCliRunner, tmp_path: Path) -> None:
    document, _ = _files(tmp_path, {"times": 3, "of": "a"}, [])
    assert "its match state is at most 2 events" in runner.invoke(args=["workflow", "check", document]).output
