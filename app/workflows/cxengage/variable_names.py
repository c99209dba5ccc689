"""Names of variables: a word of the notation becomes a name that CEL, Liquid and Mustache take, and no two words the same one."""

from __future__ import annotations

import re

from app.workflows.cxengage.cel_writer import RESERVED

_LONGEST = 50


class Names:
    """The names that one document uses for its variables."""

    def __init__(self) -> None:
        self._taken: set[str] = set(RESERVED)

    def fresh(self, word: str) -> str:
        """A name like `word` that nothing has yet: `cust-seg` becomes `cust_seg`, a second one `cust_seg_2`."""
        plain = re.sub(r"\W", "_", word, flags=re.ASCII)[:_LONGEST]
        plain = f"_{plain}" if plain[:1].isdigit() else plain
        name, number = plain, 1
        while name in self._taken:
            number += 1
            name = f"{plain}_{number}"
        self._taken.add(name)
        return name
