"""The chapters "Verification" and "Handshakes" of docs/source-documents.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from app.workflows.sources.handshakes import check_handshake, read_handshake
from app.workflows.sources.schemes import LOCATIONS, PARTS, SIGNED_FIELDS, check_scheme
from app.workflows.yaml_loader import read_document
from tests.support.webhook_senders import OTHER_SENDERS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "source-documents.md"
CHAPTERS = PAGE.read_text("utf-8").partition("\n## Verification\n")[2]
BLOCKS = [read_document(text) for text in re.findall(r"```yaml\n(.*?)```", CHAPTERS, re.DOTALL)]
SECTIONS: list[Any] = [block.value["verify"] for block in BLOCKS if block.value and "verify" in block.value]


def test_every_block_is_read_without_mistakes() -> None:
    assert [block.mistakes for block in BLOCKS if block.mistakes] == []
    assert len(SECTIONS) > 10
    assert [check_scheme(section) for section in SECTIONS if check_scheme(section)] == []


@pytest.mark.parametrize(
    "name",
    ["segment", "slack", "twilio", "sendgrid", "typeform", "calendly", "hubspot", "paddle", "mailgun"],
)
def test_the_section_of_another_provider_is_the_one_that_is_tested(name: str) -> None:
    (sender,) = [sender for sender in OTHER_SENDERS if sender.name == name]
    assert sender.section in SECTIONS


@pytest.mark.parametrize("name", [*SIGNED_FIELDS, *LOCATIONS, *(f"{{{part}}}" for part in PARTS)])
def test_every_field_and_part_is_described(name: str) -> None:
    assert re.search(rf"`{re.escape(name)}[`:]", CHAPTERS)


def test_the_handshake_of_slack_is_read_without_mistakes() -> None:
    (section,) = [block.value["handshake"] for block in BLOCKS if "handshake" in block.value]
    assert check_handshake(section) == []
    handshake = read_handshake(section)
    assert handshake is not None
    assert handshake.method == "POST"
