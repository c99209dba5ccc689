"""Errors in patterns of CxEngage's notation, with their positions."""

from __future__ import annotations

from collections.abc import Iterable


class NotationError(Exception):
    """A pattern that cannot be compiled: what was expected and found, at `line` and `column` (from 1) of the `field` `when`,
    `then`, `code` or `key`."""

    def __init__(self, message: str, line: int, column: int, field: str) -> None:
        super().__init__(f"{field}, line {line}, column {column}: {message}")
        self.message = message
        self.line = line
        self.column = column
        self.field = field


class Unexpected(Exception):
    """The same error without the field, which only the caller knows."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def one_of(words: Iterable[str]) -> str:
    """`one of a, b, c`, or a single word itself."""
    listed = list(words)
    return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"
