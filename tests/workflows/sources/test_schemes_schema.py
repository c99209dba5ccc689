"""The JSON Schema of `verify` and `handshake` agrees with their check."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft7Validator

from app.core.durations import SHAPE
from app.workflows.sources import handshakes, schemes
from app.workflows.sources.schemes_schema import handshake_schema, verify_schema
from tests.support.webhook_senders import PRESET_SENDERS, SENDERS, preset_sections

_DURATION = {"duration": {"type": "string", "pattern": f"^{SHAPE.pattern}$", "minLength": 2}}
VERIFY = Draft7Validator({**verify_schema(), "definitions": _DURATION})
HANDSHAKE = Draft7Validator(handshake_schema())


@pytest.mark.parametrize("section", ["none", {"tolerance": "1h"}, *(sender.section for sender in SENDERS)], ids=str)
def test_a_section_without_mistakes_is_valid(section: Any) -> None:
    assert VERIFY.is_valid(section)


@pytest.mark.parametrize(
    "section",
    [
        "all",
        {"hmac": "crc32", "header": "x"},
        {"hmac": "sha256", "header": "x", "nonce": "y"},
        {"hmac": "sha256", "header": "x", "tolerance": 5},
        {"shared": "x"},
        {"basic": ""},
        {"shared": {"header": "x"}, "basic": "shop"},
    ],
    ids=str,
)
def test_a_section_with_a_mistake_is_not_valid(section: Any) -> None:
    assert schemes.check_scheme(section) != []
    assert not VERIFY.is_valid(section)


def test_the_handshakes_of_the_presets_are_valid() -> None:
    sections = [preset_sections(sender.name).get("handshake", "none") for sender in PRESET_SENDERS]
    assert len([section for section in sections if section != "none"]) == 2
    assert [section for section in sections if not HANDSHAKE.is_valid(section)] == []
    assert not HANDSHAKE.is_valid({"method": "PUT"})


@pytest.mark.parametrize("kind", schemes.FIELDS)
def test_the_schema_has_the_fields_of_the_check(kind: str) -> None:
    (section,) = [one for one in verify_schema()["anyOf"] if kind in one.get("properties", {})]
    assert set(section["properties"]) == {*schemes.FIELDS[kind], *(() if kind in ("shared", "basic") else ("prefix",))}


def test_the_schema_has_the_fields_of_a_handshake() -> None:
    assert set(handshake_schema()["anyOf"][1]["properties"]) == set(handshakes.FIELDS)
