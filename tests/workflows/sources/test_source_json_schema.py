"""The published JSON Schema of sources is generated from the code, and takes what the check takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from app.workflows.sources.document import check_source
from app.workflows.sources.event_rules import MAP_FIELDS
from app.workflows.sources.json_schema import source_schema
from app.workflows.sources.preset_files import find_preset, preset_names
from app.workflows.yaml_loader import read_document

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "docs" / "source.schema.json"
SECRET = "{{ secrets.A }}"
MAP = {"event": "body.type", "distinct_id": "body.who"}
GOOD: list[dict[str, Any]] = [
    {},
    {"description": "d", "region": "IN", "unverified": "store"},
    {"secrets": ["{{secrets.A}}", "{{ secrets.A_OLD }}"]},
    {"provider": "whatsapp", "verify_token": SECRET},
    {"provider": ..., "verify": "none", "secrets": ..., "map": MAP},
    {"provider": ..., "verify": {"shared": {"header": "x-token"}}, "events": [{"each": "body[]", "map": MAP}]},
    {"verify": {"tolerance": "1h"}, "provider": "stripe"},
    {"handshake": "none"},
    {"events": [{}]},
    {"events": [{"each": "body.a[].b[]", "where": "item.x > parents[0].y", "map": {"event": "item.type"}}]},
    {"map": {"event": ["body.a", "{{ body.b }}", "'fixed'"], "phone": None, "dedupe": None}},
    {"map": {"distinct_id": ["phone", "body.id"]}},
    {"map": {"data": {"order": "body.id", "customer": {"email": ["body.email", "body.customer.email"]}}}},
]
BAD: list[dict[str, Any]] = [
    {"name": ...},
    {"name": "a b"},
    {"colour": "red"},
    {"event": "body.type"},
    {"description": 1},
    {"provider": "acme"},
    {"provider": ..., "map": MAP},
    {"provider": ..., "verify": "none"},
    {"secrets": []},
    {"secrets": SECRET},
    {"secrets": ["hush"]},
    {"secrets": [f"Bearer {SECRET}"]},
    {"secrets": ["{{ secrets.lower }}"]},
    {"secrets": [SECRET] * 6},
    {"provider": "whatsapp", "verify_token": "hush"},
    {"region": "India"},
    {"unverified": "drop"},
    {"verify": {"hmac": "crc32", "header": "x"}},
    {"handshake": {"method": "PUT"}},
    {"events": []},
    {"events": {}},
    {"events": ["body[]"]},
    {"events": [{"colour": "red"}]},
    {"events": [{"each": 1}]},
    {"events": [{"where": ""}]},
    {"events": [{"map": {"colour": "body.x"}}]},
    {"map": {"colour": "body.x"}},
    {"map": []},
    {"map": {"event": 1}},
    {"map": {"event": []}},
    {"map": {"event": ["body.a"] * 21}},
    {"map": {"event": {"a": "body.x"}}},
    {"map": {"event": ""}},
    {"map": {"data": None}},
    {"map": {"data": {}}},
    {"map": {"data": {"a": 1}}},
]


def _document(changes: dict[str, Any]) -> dict[str, Any]:
    document = {"name": "a", "provider": "shopify", "secrets": [SECRET], **changes}
    return {name: value for name, value in document.items() if value is not ...}


def _mistakes(document: Any) -> list[str]:
    return list(map(str, check_source(read_document(json.dumps(document)))))


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    Draft7Validator.check_schema(source_schema())
    return Draft7Validator(source_schema())


def test_the_published_schema_is_the_generated_one() -> None:
    hint = "update it: write source_schema() to docs/source.schema.json"
    assert json.loads(PUBLISHED.read_text("utf-8")) == source_schema(), hint


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_a_valid_document_matches_the_schema(changes: dict[str, Any], validator: Draft7Validator) -> None:
    document = _document(changes)
    assert _mistakes(document) == []
    assert [error.message for error in validator.iter_errors(document)] == []


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_an_invalid_document_does_not_match_the_schema(changes: dict[str, Any], validator: Draft7Validator) -> None:
    document = _document(changes)
    assert _mistakes(document) != []
    assert not validator.is_valid(document)


@pytest.mark.parametrize("name", preset_names())
def test_the_sections_of_a_preset_match_the_schema(name: str, validator: Draft7Validator) -> None:
    document = {"name": "a", **find_preset(name)}
    assert [error.message for error in validator.iter_errors(document)] == []


def test_every_field_has_a_description() -> None:
    schema = source_schema()
    objects = [schema, schema["definitions"]["entry"], schema["definitions"]["map"]]
    fields = [(name, field) for one in objects for name, field in one["properties"].items()]
    assert [name for name, field in fields if not field.get("description")] == []
    assert set(schema["definitions"]["map"]["properties"]) == set(MAP_FIELDS)


def test_the_entries_of_the_page_are_valid(validator: Draft7Validator) -> None:
    text = (ROOT / "docs" / "source-documents.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(events:\n.*?)^```", text, re.DOTALL | re.MULTILINE)
    document = _document({"provider": "whatsapp", **read_document(block).value, "map": MAP})
    assert _mistakes(document) == []
    assert validator.is_valid(document)


def test_the_documents_of_the_documentation_are_valid(validator: Draft7Validator) -> None:
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
        found += [text for text in blocks if re.search(r"^name:", text, re.MULTILINE) and "steps:" not in text]
    assert found
    for text in found:
        assert list(map(str, check_source(read_document(text)))) == []
        assert [error.message for error in validator.iter_errors(read_document(text).value)] == []
