"""`flask workflow import-cxengage`: patterns from files become documents on the screen, mistakes are told with their places."""

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


def test_a_resource_of_4_1_is_printed_as_yaml(flask: CommandLine, tmp_path: Path) -> None:
    file = a_file(tmp_path, "pattern.json", {"name": "Two checks!", "when": WHEN, "then": THEN, "status": True})
    result = flask("workflow", "import-cxengage", file)
    assert (result.exit_code, result.stdout) == (0, AS_YAML)


def test_a_resource_of_4_2_brings_its_key(flask: CommandLine, tmp_path: Path) -> None:
    file = a_file(tmp_path, "pattern.json", {"name": "hello", "code": CODE, "key": "id"})
    template = a_file(tmp_path, "hello.mustache", "Hello {{first-name}}\n")
    result = flask("workflow", "import-cxengage", file, "--template", f"TM1={template}")
    assert read_document(result.stdout).value == {
        "name": "hello",
        "on": {"event": "*", "where": 'data.type == "hello"'},
        "key": "data.id",
        "steps": [{"log": {"mustache": "Hello {{first-name}}"}}],
    }


def test_plain_texts_are_read_too(flask: CommandLine, tmp_path: Path) -> None:
    when, then = a_file(tmp_path, "checks.clj", WHEN), a_file(tmp_path, "then.clj", THEN)
    script = a_file(tmp_path, "script.clj", CODE)
    template = a_file(tmp_path, "hello.mustache", "Hello")
    both = flask("workflow", "import-cxengage", when, "--then", then)
    assert both.stdout == AS_YAML.replace("Two-checks", "checks")
    named = flask(
        "workflow", "import-cxengage", script, "--name", "a b", "--key", "c.d", "--template", f"+TM1={template}"
    )
    assert read_document(named.stdout).value == {
        "name": "a-b",
        "on": {"event": "*", "where": 'data.type == "hello"'},
        "key": "data.c.d",
        "steps": [{"log": {"mustache": "Hello"}}],
    }


def test_a_mistake_is_one_line_with_its_place(flask: CommandLine, tmp_path: Path) -> None:
    wrong = WHEN.replace("hours", "hour5")
    told = 'expected one of seconds, minutes, hours, days, found "hour5"'
    resource = a_file(tmp_path, "pattern.json", {"name": "x", "when": wrong, "then": THEN})
    result = flask("workflow", "import-cxengage", resource)
    assert (result.exit_code, result.stderr) == (1, f"Error: {resource}: when:1:11: {told}\n")
    when, then = a_file(tmp_path, "when.clj", WHEN), a_file(tmp_path, "then.clj", "(seq\n  (delay 1 hour5))")
    result = flask("workflow", "import-cxengage", when, "--then", then)
    assert (result.exit_code, result.stderr) == (1, f"Error: {then}:2:12: {told}\n")


@pytest.mark.parametrize(
    ("content", "told"),
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
def test_what_is_no_pattern_is_refused(flask: CommandLine, tmp_path: Path, content: Any, told: str) -> None:
    result = flask("workflow", "import-cxengage", a_file(tmp_path, "pattern.json", content))
    assert result.exit_code == 1
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_message_without_words_has_the_name_as_people_wrote_it(flask: CommandLine, tmp_path: Path) -> None:
    code = '(event {:type "a"}) (create sendgrid email {:to "jane@example.com"})'
    result = flask("workflow", "import-cxengage", a_file(tmp_path, "p.json", {"name": "Café 1", "code": code}))
    assert "name: Caf-1\n" in result.stdout
    assert "subject: Café 1\n" in result.stdout


def test_a_template_that_is_not_there_is_told(flask: CommandLine, tmp_path: Path) -> None:
    result = flask("workflow", "import-cxengage", a_file(tmp_path, "script.clj", CODE), "--template", "TM1=nowhere")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: TM1=nowhere: expected NAME=FILE, such as TM1=hello.mustache\n",
    )
