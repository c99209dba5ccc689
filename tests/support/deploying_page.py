"""The shell blocks of docs/deploying.md, by section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "deploying.md"
# The sections whose blocks are run by `make deploy-check`, in this order.
FOLLOWED = ("From an empty machine", "Upgrading", "Rolling back", "Backup and restore")


@dataclass(frozen=True)
class Block:
    """A shell block: the section that it is in, the line of its first line in the page, and its text."""

    section: str
    line: int
    text: str


def read_blocks(text: str) -> list[Block]:
    """The `sh` blocks of a page. A section is a heading of the second level; `Rolling back` is one of the third."""
    blocks: list[Block] = []
    section, begin = "", 0
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if begin:
            if line == "```":
                blocks.append(Block(section, begin + 1, "\n".join(lines[begin : number - 1]) + "\n"))
                begin = 0
        elif line == "```sh":
            begin = number
        elif (heading := re.fullmatch(r"(##|###) (.+)", line)) and (heading[1] == "##" or heading[2] in FOLLOWED):
            section = heading[2]
    return blocks


def followed_blocks() -> list[Block]:
    """The blocks that `make deploy-check` runs, in their order."""
    blocks = read_blocks(PAGE.read_text("utf-8"))
    return [block for section in FOLLOWED for block in blocks if block.section == section]
