"""The published JSON Schema is the language: generated from the code, it takes what the checks take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from app.actions import ACTIONS
from app.workflows.json_schema import workflow_schema
from app.workflows.validate import find_mistakes
from app.workflows.yaml_loader import read_document

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "workflow.schema.json"


def _examples() -> Iterator[tuple[str, str]]:
    """Every workflow in examples/ and in the documentation, by its file and number."""
    for file in sorted((ROOT / "examples").glob("*.yaml")):
        yield file.name, file.read_text("utf-8")
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        blocks = re.findall(r"^```(?:yaml|json)\n(.*?)^```", file.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        whole = [text for text in blocks if re.search(r'^"?name"?:', text, re.MULTILINE) and "steps" in text]
        yield from ((f"{file.name}-{number}", text) for number, text in enumerate(whole, start=1))


EXAMPLES = dict(_examples())

STEP = {"log": "x"}
WHATSAPP = {"to": "+915673412780", "template": "a", "language": "en"}
GOOD: list[dict[str, Any]] = [
    {"on": "a"},
    {"on": {"event": "a", "where": "data.x > 1"}, "description": "d", "exit_on": "b", "again": "once", "key": "phone"},
    {"on": {"times": 3, "of": "a", "within": "1h"}, "again": "1d", "key": "data.order.id"},
    {"on": {"seq": ["a", {"any": ["b", {"event": "c"}]}, {"none": "d", "for": "30m"}], "unless": {"any": ["e", "f"]}}},
    {"on": {"all": ["a", {"seq": ["b", "c"], "within": "90s"}]}},
    {"on": {"seq": ["a", {"none": {"event": "d", "where": "true"}, "for": "1h30m"}]}},
    {
        "steps": [
            {"wait": "30m"},
            {"id": "x", "http": {"url": "https://a.example/{{ event }}"}, "retry": {"attempts": 2}},
        ]
    },
    {"steps": [{"http": {"url": "https://a.example", "method": "PUT", "headers": {"a": 1}, "json": [None]}}]},
    {"steps": [{"if": "data.x > 1", "then": [], "else": [{"wait_for": "b", "timeout": "1d", "then": [STEP]}]}]},
    {"steps": [{"log": "x", "timeout": "5s", "retry": {"first": "5s", "max": "1h"}}]},
    {"strict": True, "steps": [{"log": "x", "strict": False}]},
    {"steps": [{"whatsapp": {"to": "{{ phone }}", "template": "a", "language": "en", "params": ["x", 1]}}]},
    {"steps": [{"whatsapp": {"to": "{{ phone }}", "template": "a", "language": "en", "params": {"x": "y"}}}]},
    {"steps": [{"whatsapp": {**WHATSAPP, "header": {"image": "https://a.example"}, "buttons": [None, "x"]}}]},
    {"steps": [{"sms": {"to": "+915673412780", "text": "x", "from": "+915673412781"}}]},
    {"steps": [{"email": {"to": ["a@example.com"], "subject": "x", "html": "y", "cc": "b@example.com"}}]},
    {"steps": [{"sendgrid": {"to": ["a@example.com"], "subject": "x", "html": "y", "from": "b@example.com"}}]},
    {
        "steps": [
            {"call": {"to": "+915673412780", "say": "x"}},
            {"call": {"to": "{{ phone }}", "url": "https://a.example"}},
        ]
    },
    {
        "steps": [
            {"message": {"text": {"mustache": "{{x}}"}, "data": {"a": ["{{ event }}", 1], "b": {"mustache": "x"}}}}
        ]
    },
    {"steps": [{"sms": {"to": {"mustache": "{{phone}}"}, "text": {"mustache": "{{#a}}{{b-c.d}}{{/a}}"}}}]},
    {"steps": [{"log": {"mustache": "x"}}, {"email": {"to": [{"mustache": "{{x}}"}], "subject": "x", "html": "y"}}]},
    {
        "steps": [
            {"http": {"url": {"mustache": "{{x}}"}, "headers": {"a": {"mustache": "x"}}, "json": {"mustache": "x"}}}
        ]
    },
    {
        "steps": [
            {
                "whatsapp": {
                    **WHATSAPP,
                    "params": [{"mustache": "x"}],
                    "header": {"video": {"mustache": "https://a.example"}},
                }
            }
        ]
    },
    {"steps": [{"log": "x", "then": [STEP], "else": []}]},
    {
        "steps": [
            {"id": "s", "set": {"a": "add(data.x, 1)", "b": 2.5, "c": False}},
            {"log": "{{ vars.a }} {{ last.x }}"},
        ]
    },
    {"steps": [{"par": [[STEP], [{"par": [[], [STEP]]}]]}]},
    {"steps": [{"repeat": [{"par": [[STEP], [STEP]]}], "until": "count(matched) > 1 || latest.x == 1", "most": 1000}]},
]
BAD: list[dict[str, Any]] = [
    {"colour": "red"},
    {"name": "a b"},
    {"name": ...},
    {"on": ...},
    {"on": {"event": "a", "colour": "red"}},
    {"on": {"times": 0, "of": "a"}},
    {"on": {"times": 2}},
    {"on": {"seq": []}},
    {"on": {"all": ["a", {"none": "b", "for": "1h"}]}},
    {"on": {"seq": ["a", {"seq": ["b", {"none": "b", "for": "1h"}]}]}},
    {"on": {"event": "a", "within": "soon"}},
    {"on": {"none": "a", "for": "1h"}},
    {"exit_on": {"any": ["a", "b"]}},
    {"key": "price"},
    {"again": "never"},
    {"strict": "yes"},
    {"steps": [{"log": "x", "strict": 1}]},
    {"steps": [{"wait": "1h", "strict": True}]},
    {"steps": []},
    {"steps": [{}]},
    {"steps": [{"colour": "red"}]},
    {"steps": [{"log": "x", "colour": "red"}]},
    {"steps": [{"log": "x", "wait": "1h"}]},
    {"steps": [{"wait": "1h", "retry": {}}]},
    {"steps": [{"wait": 30}]},
    {"steps": [{"log": "x", "id": "1a"}]},
    {"steps": [{"log": "x", "retry": {"attempts": 0}}]},
    {"steps": [{"log": "x", "retry": {"colour": "red"}}]},
    {"steps": [{"http": {}}]},
    {"steps": [{"http": {"url": "https://a.example", "colour": "red"}}]},
    {"steps": [{"http": {"url": "https://a.example", "method": "FETCH"}}]},
    {"steps": [{"http": {"url": "https://a.example", "json": 1, "body": "x"}}]},
    {"steps": [{"whatsapp": {**WHATSAPP, "colour": "red"}}]},
    {"steps": [{"whatsapp": {**WHATSAPP, "header": {"image": "https://a.example", "video": "https://a.example"}}}]},
    {"steps": [{"whatsapp": {**WHATSAPP, "params": "x"}}]},
    {"steps": [{"whatsapp": {"to": "+915673412780", "template": "a"}}]},
    {"steps": [{"sms": {"to": "+915673412780", "text": "x", "colour": "red"}}]},
    {"steps": [{"sms": {"to": "+915673412780"}}]},
    {"steps": [{"email": {"to": "a@example.com", "subject": "x"}}]},
    {"steps": [{"email": {"to": [], "subject": "x", "text": "y"}}]},
    {"steps": [{"email": {"to": "a@example.com", "subject": "x", "text": "y", "colour": "red"}}]},
    {"steps": [{"sendgrid": {"to": "a@example.com", "subject": "x"}}]},
    {"steps": [{"sendgrid": {"to": "a@example.com", "subject": "x", "text": "y", "cc": "b@example.com"}}]},
    {"steps": [{"message": {"data": {}}}]},
    {"steps": [{"message": {"text": "x", "data": ["y"]}}]},
    {"steps": [{"call": {"to": "+915673412780"}}]},
    {"steps": [{"call": {"to": "+915673412780", "say": "x", "url": "https://a.example"}}]},
    {"steps": [{"log": {"mustache": 1}}]},
    {"steps": [{"log": {"mustache": "x", "colour": "red"}}]},
    {"steps": [{"sms": {"to": "+915673412780", "text": {"liquid": "x"}}}]},
    {"steps": [{"wait_for": "b"}]},
    {"steps": [{"if": "true", "else": []}]},
    {"steps": [{"if": "true", "then": [{"colour": "red"}]}]},
    {"steps": [{"log": "x", "then": "y"}]},
    {"steps": [{"set": {}}]},
    {"steps": [{"set": {"a b": "1"}}]},
    {"steps": [{"set": {"a": ["1"]}}]},
    {"steps": [{"par": [[STEP]]}]},
    {"steps": [{"par": [[STEP], STEP]}]},
    {"steps": [{"par": [[STEP], [STEP]], "else": []}]},
    {"steps": [{"repeat": [STEP]}]},
    {"steps": [{"repeat": [], "until": "true"}]},
    {"steps": [{"repeat": [STEP], "until": "true", "most": 1001}]},
]


def _document(changes: dict[str, Any]) -> dict[str, Any]:
    document = {"name": "a", "on": "b", "steps": [STEP], **changes}
    return {name: value for name, value in document.items() if value is not ...}


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    Draft7Validator.check_schema(workflow_schema())
    return Draft7Validator(workflow_schema())


def test_the_published_schema_is_the_generated_one() -> None:
    published = json.loads(PUBLISHED.read_text("utf-8"))
    hint = "update it: .venv/bin/signalbox workflow schema > docs/workflow.schema.json"
    assert published == workflow_schema(), hint


def test_the_examples_are_found() -> None:
    assert {"hello.yaml", "README.md-1", "workflows.md-1"} <= EXAMPLES.keys()


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_an_example_passes_schema_and_checks(text: str, validator: Draft7Validator) -> None:
    assert [error.message for error in validator.iter_errors(read_document(text).value)] == []
    assert list(map(str, find_mistakes(text.encode()))) == []


def test_the_steps_in_the_documentation_are_valid() -> None:
    text = (ROOT / "docs" / "workflows.md").read_text("utf-8")
    snippets = re.findall(r"^```yaml\n(- .*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(snippets) >= 6
    for snippet in snippets:
        document = _document({"steps": read_document(snippet).value})
        assert list(map(str, find_mistakes(json.dumps(document).encode()))) == []


@pytest.mark.parametrize("changes", GOOD, ids=json.dumps)
def test_a_valid_document_matches_the_schema(changes: dict[str, Any], validator: Draft7Validator) -> None:
    document = _document(changes)
    assert list(map(str, find_mistakes(json.dumps(document).encode()))) == []
    assert [error.message for error in validator.iter_errors(document)] == []


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_an_invalid_document_does_not_match_the_schema(changes: dict[str, Any], validator: Draft7Validator) -> None:
    document = _document(changes)
    assert find_mistakes(json.dumps(document).encode()) != []
    assert not validator.is_valid(document)


def test_every_field_of_the_language_has_a_description() -> None:
    undescribed = []

    def walk(schema: Any, path: str) -> None:
        if isinstance(schema, list):
            for index, member in enumerate(schema):
                walk(member, f"{path}[{index}]")
        elif isinstance(schema, dict):
            for name, member in schema.get("properties", {}).items():
                undescribed.extend([f"{path}.{name}"] if "description" not in member else [])
            for name, member in schema.items():
                if name not in ("default", "examples", "enum"):
                    walk(member, f"{path}.{name}")

    walk(workflow_schema(), "")
    assert undescribed == [], "describe it in app/workflows/json_schema.py or in the SCHEMA of the action"


@pytest.mark.parametrize("name", ACTIONS)
def test_the_schema_of_an_action_has_the_fields_of_the_action(name: str) -> None:
    step = next(each for each in workflow_schema()["definitions"]["step"]["anyOf"] if name in each["properties"])
    fields: tuple[str, ...] = getattr(ACTIONS[name], "FIELDS", ())
    assert step["properties"][name].get("properties", {}).keys() == set(fields)
