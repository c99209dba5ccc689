"""Unique names for variables that are valid in CEL, Liquid and Mustache."""

from __future__ import annotations

import re

from app.workflows.cxengage.cel_writer import RESERVED

_MAX_LENGTH = 50


class VariableNames:
    """The names of the variables of one document."""

    def __init__(self) -> None:
        self._used: set[str] = set(RESERVED)

    def fresh(self, word: str) -> str:
        """An unused name like `word`: `cust-seg` becomes `cust_seg`, a second one `cust_seg_2`."""
        plain = re.sub(r"\W", "_", word, flags=re.ASCII)[:_MAX_LENGTH]
        plain = f"_{plain}" if plain[:1].isdigit() else plain
        name, number = plain, 1
        while name in self._used:
            number += 1
            name = f"{plain}_{number}"
        self._used.add(name)
        return name
