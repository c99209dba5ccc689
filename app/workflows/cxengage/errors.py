"""What is wrong with a pattern in CxEngage's notation, and where: the errors that its reader and its compilers raise."""

from __future__ import annotations

from collections.abc import Iterable


class NotationError(Exception):
    """A pattern that cannot be compiled: what was expected and what was found, the place (`line` and `column` from 1), and
    the `field` (`when`, `then`, `code` or `key`) in which that is."""

    def __init__(self, message: str, line: int, column: int, field: str) -> None:
        super().__init__(f"{field}, line {line}, column {column}: {message}")
        self.message = message
        self.line = line
        self.column = column
        self.field = field


class Unexpected(Exception):
    """The same while nobody knows yet of which field the text is."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def one_of(words: Iterable[str]) -> str:
    """`one of a, b, c`, or the only word there is."""
    listed = list(words)
    return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"
