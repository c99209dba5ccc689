"""`signalbox workflow …`: documents are checked without a database, drafts are saved with their errors."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from app.services import workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.command_lines import SIGNALBOX

ROOT = Path(__file__).resolve().parents[2]
GOOD = "name: watch\non: product_view\nsteps:\n  - log: seen\n"
INVALID = "name: watch\non: product_view\nsteps:\n  - log: '{{ nobody }}'\n  - wait: soon\n"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def invalid(tmp_path: Path) -> Path:
    file = tmp_path / "wrong.yaml"
    file.write_text(INVALID)
    return file


def test_check_finds_nothing_in_a_good_document(signalbox: CommandLine, good: Path) -> None:
    result = signalbox("workflow", "check", good)
    assert (result.exit_code, result.output) == (0, f"{good}: no errors; its pattern keeps no match state\n")


def test_check_prints_each_error_with_its_position(signalbox: CommandLine, invalid: Path) -> None:
    result = signalbox("workflow", "check", invalid)
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{invalid}:4:10: steps[0].log: in the template: line 1, column 4: nobody is unknown")
    assert second.startswith(f"{invalid}:5:11: steps[1].wait: 'soon' is not a duration")


def test_check_gives_json(signalbox: CommandLine, invalid: Path) -> None:
    result = signalbox("workflow", "check", invalid, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [(one["path"], one["line"], one["column"]) for one in found] == [
        ("steps[0].log", 4, 10),
        ("steps[1].wait", 5, 11),
    ]
    assert all(one.keys() == {"path", "message", "line", "column"} for one in found)


def test_json_of_a_good_document_is_an_empty_list(signalbox: CommandLine, good: Path) -> None:
    result = signalbox("workflow", "check", good, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_json_of_several_files_names_the_file(signalbox: CommandLine, good: Path, invalid: Path) -> None:
    found = json.loads(signalbox("workflow", "check", good, invalid, "--json").stdout)
    assert {one["file"] for one in found} == {str(invalid)}


def test_a_file_that_is_not_utf_8_is_an_error(signalbox: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: a\non: \xfc\n")
    assert signalbox("workflow", "check", file).stdout == f"{file}:2:5: not UTF-8: byte 13 is invalid\n"


def test_names_in_a_document_cannot_move_the_cursor(signalbox: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(GOOD + '"\\e[2J": 1\n')
    result = signalbox("workflow", "check", file)
    assert "\x1b" not in result.stdout
    assert r"\x1b[2J: is unknown" in result.stdout


def test_check_needs_no_database_and_no_settings(good: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    }
    command = [*SIGNALBOX, "workflow", "check", str(good)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"{good}: no errors; its pattern keeps no match state\n",
        "",
    )


def test_schema_prints_what_is_published(signalbox: CommandLine) -> None:
    published = (ROOT / "docs" / "workflow.schema.json").read_text("utf-8")
    assert signalbox("workflow", "schema").stdout == published


def _apply(signalbox: CommandLine, sender: Sender, file: Path, *options: str) -> str:
    return signalbox("workflow", "apply", file, "--account", sender.slug, *options).stdout


def test_a_draft_is_saved_with_its_errors_and_looks_at_no_event(
    signalbox: CommandLine, acme: Sender, invalid: Path
) -> None:
    result = signalbox("workflow", "apply", invalid, "--draft", "--account", acme.slug)
    assert (result.exit_code, result.stdout) == (0, "watch: draft created as version 1, 2 errors, not enabled\n")
    assert f"{invalid}:5:11: steps[1].wait: 'soon' is not a duration" in result.stderr
    assert acme.post(an_event()).get_json()["runs"] == []


def test_a_draft_without_errors_is_not_enabled_either(signalbox: CommandLine, acme: Sender, good: Path) -> None:
    assert _apply(signalbox, acme, good, "--draft") == "watch: draft created as version 1, no errors, not enabled\n"
    assert acme.post(an_event()).get_json()["runs"] == []


def test_a_draft_leaves_the_enabled_version_alone(
    signalbox: CommandLine, acme: Sender, good: Path, invalid: Path
) -> None:
    _apply(signalbox, acme, good)
    output = _apply(signalbox, acme, invalid, "--draft")
    assert output.endswith("2 errors, version 1 stays enabled\n")
    assert len(acme.post(an_event()).get_json()["runs"]) == 1


def test_a_draft_with_errors_cannot_be_enabled(signalbox: CommandLine, acme: Sender, invalid: Path) -> None:
    _apply(signalbox, acme, invalid, "--draft")
    result = signalbox("workflow", "enable", "watch", "--account", acme.slug)
    assert result.exit_code == 1
    assert "watch:4:10: steps[0].log: in the template" in result.stderr
    assert "watch:5:11: steps[1].wait" in result.stderr
    assert acme.post(an_event()).get_json()["runs"] == []


def test_a_draft_without_errors_can_be_enabled(signalbox: CommandLine, acme: Sender, good: Path) -> None:
    _apply(signalbox, acme, good, "--draft")
    assert signalbox("workflow", "enable", "watch", "--account", acme.slug).stdout == "watch: enabled at version 1\n"
    assert len(acme.post(an_event()).get_json()["runs"]) == 1


def test_what_an_enabled_draft_waits_for_is_known(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    waiting = a_workflow(steps=[{"wait_for": "order_placed", "timeout": "1h"}])
    workflows.save_draft(context, acme.account_id, waiting)
    workflows.enable_workflow(context, acme.account_id, "watch")
    event = acme.post(an_event(event="order_placed")).get_json()["id"]
    with context.database.transaction() as connection:
        jobs = connection.exec_driver_sql("SELECT payload FROM jobs WHERE kind = 'event'")
        assert f"{acme.account_id}:{event}" in [row[0] for row in jobs]


def test_the_same_draft_again_changes_nothing(signalbox: CommandLine, acme: Sender, invalid: Path) -> None:
    _apply(signalbox, acme, invalid, "--draft")
    assert _apply(signalbox, acme, invalid, "--draft") == "watch: draft unchanged at version 1, 2 errors, not enabled\n"


def test_applying_the_newest_draft_enables_that_version(
    signalbox: CommandLine, acme: Sender, good: Path, tmp_path: Path
) -> None:
    _apply(signalbox, acme, good)
    better = tmp_path / "better.yaml"
    better.write_text(GOOD.replace("seen", "seen well"))
    assert _apply(signalbox, acme, better, "--draft").endswith("version 1 stays enabled\n")
    assert _apply(signalbox, acme, better) == "watch: unchanged, version 2 is enabled\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: watch\non: [", ":2:6: not YAML: "),
        ("- a\n- b\n", ":1:1: a workflow must be an object with the fields name, on and steps"),
        ("on: a\nsteps: []\n", ":1:1: name: is missing"),
        ("name: a b\n", ":1:7: name: must be 1 to 100 letters"),
    ],
)
def test_a_draft_must_be_valid_yaml_and_have_a_name(
    signalbox: CommandLine, acme: Sender, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "draft.yaml"
    file.write_text(text)
    result = signalbox("workflow", "apply", file, "--draft", "--account", acme.slug)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{file}{message}")
    assert f"{file}: not saved; a draft must be valid YAML and have a name\n" in result.stderr
    assert signalbox("workflow", "list", "--account", acme.slug).stdout == ""


def test_the_list_shows_drafts_with_errors(signalbox: CommandLine, acme: Sender, good: Path, invalid: Path) -> None:
    _apply(signalbox, acme, good)
    _apply(signalbox, acme, invalid, "--draft")
    assert signalbox("workflow", "list", "--account", acme.slug).stdout.split("\t")[:3] == [
        "watch",
        "version 2 (a draft with 2 errors)",
        "enabled at version 1",
    ]


def test_a_long_list_comes_in_pages(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    for name in ("b", "c", "a"):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=name))
    first = signalbox("workflow", "list", "--limit", 2, "--account", acme.slug)
    assert [line.split("\t")[0] for line in first.stdout.splitlines()] == ["a", "b"]
    assert first.stderr == "There are more; continue with --after b\n"
    second = signalbox("workflow", "list", "--limit", 2, "--after", "b", "--account", acme.slug)
    assert (second.stdout.split("\t")[0], second.stderr) == ("c", "")


def test_null_differs_from_a_missing_value(context: AppContext, acme: Sender) -> None:
    url = "https://a.example"
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"http": {"url": url}}]))
    applied = workflows.apply_workflow(
        context, acme.account_id, a_workflow(steps=[{"http": {"url": url, "json": None}}])
    )
    assert (applied.version, applied.differences) == (2, ("steps[0].http.json",))


def test_show_prints_the_document_only(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    workflows.apply_workflow(context, acme.account_id, a_workflow(on="order_placed"))
    result = signalbox("workflow", "show", "watch", "--version", 1, "--account", acme.slug)
    assert json.loads(result.stdout)["on"] == "product_view"
    assert result.stderr == "watch, version 1 of 2, enabled at version 2\n"


def test_an_unknown_version_is_reported_in_one_line(signalbox: CommandLine, context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    result = signalbox("workflow", "show", "watch", "--version", 9, "--account", acme.slug)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: watch has the versions 1 to 1\n")


def test_disable_lets_runs_go_on_or_cancels_them(context: AppContext, acme: Sender, signalbox: CommandLine) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="greet", steps=[{"wait": "1h"}]))
    acme.post(an_event())
    plain = signalbox("workflow", "disable", "greet", "--account", acme.slug)
    assert (plain.exit_code, plain.output) == (0, "greet: disabled\n")
    cancelling = signalbox("workflow", "disable", "greet", "--cancel-runs", "--account", acme.slug)
    assert (cancelling.exit_code, cancelling.output) == (0, "greet: disabled, 1 run cancelled\n")
