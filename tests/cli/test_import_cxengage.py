"""`signalbox workflow import-cxengage` prints patterns from files as documents, and errors with their positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.workflows.yaml_loader import read_document
from tests.cli.conftest import CommandLine

WHEN = '(within 1 hours\n  (count 2 (event (= type "check"))))'
THEN = '(send echo message {:message "one\ntwo"})'
CODE = '(event {:type "hello"})\n(perform echo message {:message (template +TM1)})'

AS_YAML = """\
name: Two-checks
on:
  times: 2
  of:
    event: '*'
    where: data.type == "check"
  within: 1h
steps:
  - log: |-
      one
      two
"""


def a_file(folder: Path, name: str, content: Any) -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return file


def test_a_4_1_resource_is_printed_as_yaml(signalbox: CommandLine, tmp_path: Path) -> None:
    file = a_file(tmp_path, "pattern.json", {"name": "Two checks!", "when": WHEN, "then": THEN, "status": True})
    result = signalbox("workflow", "import-cxengage", file)
    assert (result.exit_code, result.stdout) == (0, AS_YAML)


def has_key(path: str) -> str:
    """The condition that an event has a value at a path that may be its key."""
    number = f"(type({path}) == int || type({path}) == double)"
    return f'has({path}) && (type({path}) == string && {path} != "" || {number})'


def test_a_4_2_resource_includes_its_key(signalbox: CommandLine, tmp_path: Path) -> None:
    file = a_file(tmp_path, "pattern.json", {"name": "hello", "code": CODE, "key": "id"})
    template = a_file(tmp_path, "hello.mustache", "Hello {{first-name}}\n")
    result = signalbox("workflow", "import-cxengage", file, "--template", f"TM1={template}")
    assert read_document(result.stdout).value == {
        "name": "hello",
        "on": {"event": "*", "where": f'data.type == "hello" && {has_key("data.id")}'},
        "key": "data.id",
        "steps": [{"log": {"mustache": "Hello {{first-name}}"}}],
    }


def test_plain_text_files_are_accepted(signalbox: CommandLine, tmp_path: Path) -> None:
    when, then = a_file(tmp_path, "checks.clj", WHEN), a_file(tmp_path, "then.clj", THEN)
    script = a_file(tmp_path, "script.clj", CODE)
    template = a_file(tmp_path, "hello.mustache", "Hello")
    both = signalbox("workflow", "import-cxengage", when, "--then", then)
    assert both.stdout == AS_YAML.replace("Two-checks", "checks")
    named = signalbox(
        "workflow", "import-cxengage", script, "--name", "a b", "--key", "c.d", "--template", f"+TM1={template}"
    )
    assert read_document(named.stdout).value == {
        "name": "a-b",
        "on": {
            "event": "*",
            "where": f'data.type == "hello" && has(data.c) && type(data.c) == map && {has_key("data.c.d")}',
        },
        "key": "data.c.d",
        "steps": [{"log": {"mustache": "Hello"}}],
    }


def test_an_error_is_one_line_with_the_position(signalbox: CommandLine, tmp_path: Path) -> None:
    invalid = WHEN.replace("hours", "hour5")
    message = 'expected one of seconds, minutes, hours, days, found "hour5"'
    resource = a_file(tmp_path, "pattern.json", {"name": "x", "when": invalid, "then": THEN})
    result = signalbox("workflow", "import-cxengage", resource)
    assert (result.exit_code, result.stderr) == (1, f"Error: {resource}: when:1:11: {message}\n")
    when, then = a_file(tmp_path, "when.clj", WHEN), a_file(tmp_path, "then.clj", "(seq\n  (delay 1 hour5))")
    result = signalbox("workflow", "import-cxengage", when, "--then", then)
    assert (result.exit_code, result.stderr) == (1, f"Error: {then}:2:12: {message}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{oops", "not JSON: Expecting property name enclosed in double quotes"),
        ({"name": "x"}, "a pattern needs either when and then, or code"),
        ({"when": WHEN}, "a pattern needs either when and then, or code"),
        ({"when": WHEN, "then": THEN, "code": CODE}, "a pattern needs either when and then, or code"),
        ({"code": 5}, "code must be text"),
        ({"code": CODE, "key": 5}, "key must be text"),
        ({"code": CODE, "name": ["x"]}, "name must be text"),
        ([{"code": CODE}], "contains a list; import one pattern at a time"),
        ({"code": CODE, "key": "a b"}, 'Error: key: expected a key of letters, digits, _ and -, found "a b"'),
        ({"code": CODE}, "code:2:43: expected a text: there are no templates"),
    ],
)
def test_a_file_that_is_not_a_pattern_is_refused(
    signalbox: CommandLine, tmp_path: Path, content: Any, message: str
) -> None:
    result = signalbox("workflow", "import-cxengage", a_file(tmp_path, "pattern.json", content))
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_message_without_a_text_is_an_error(signalbox: CommandLine, tmp_path: Path) -> None:
    code = '(event {:type "a"}) (create sendgrid email {:to "jane@example.com"})'
    result = signalbox("workflow", "import-cxengage", a_file(tmp_path, "p.json", {"name": "Café 1", "code": code}))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("p.json: code:1:21: expected :subject among the parameters, found none\n")


def test_a_missing_template_is_an_error(signalbox: CommandLine, tmp_path: Path) -> None:
    result = signalbox("workflow", "import-cxengage", a_file(tmp_path, "script.clj", CODE), "--template", "TM1=nowhere")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: TM1=nowhere: expected NAME=FILE, such as TM1=hello.mustache\n",
    )


@pytest.mark.parametrize("part", ["file", "then", "template"])
def test_a_file_that_is_not_utf_8_is_refused(signalbox: CommandLine, tmp_path: Path, part: str) -> None:
    binary, script = tmp_path / "binary", a_file(tmp_path, "script.clj", CODE)
    binary.write_bytes(b"(event\xff)")
    words = {"file": [binary], "then": [script, "--then", binary], "template": [script, "--template", f"TM1={binary}"]}
    result = signalbox("workflow", "import-cxengage", *words[part])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {binary}:1:7: not UTF-8")
    assert result.stderr.count("\n") == 1
