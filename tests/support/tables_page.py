"""The table of `docs/data.md` that says of every table of the database whose rows it has, and what becomes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
_ROW = re.compile(r"^\| `(\w+)` \| (account|all) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


class TableEntry(NamedTuple):
    """A row of the page: is the table one of accounts, when do its rows go, and what becomes of persons in it?"""

    is_of_accounts: bool
    rows_go: str
    persons: str

    @property
    def is_erased(self) -> bool:
        """Whether an erasure deletes or masks what the table has of a person."""
        return self.persons.startswith(("deleted", "masked"))


def tables_of_page() -> dict[str, TableEntry]:
    """The rows of the page by the names of their tables."""
    section = _PAGE.read_text("utf-8").partition("## Every table\n")[2].partition("\n## ")[0]
    return {name: TableEntry(whose == "account", go, persons) for name, whose, go, persons in _ROW.findall(section)}
