"""Long work in pieces, with the other requests of the process in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from app.core.group_commit import yield_to_others

Argument = TypeVar("Argument")
Result = TypeVar("Result")

# Seconds that a piece takes.
_PIECE = 0.002
_CALLS_PER_CHECK = 50


class Pacer:
    """Lets other requests run when two milliseconds have passed since they last could."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def pause_if_due(self) -> None:
        """Call this often."""
        if time.perf_counter() - self._since > _PIECE:
            yield_to_others()
            self._since = time.perf_counter()


_shared = Pacer()


def pause_between_parts() -> None:
    """Let other requests run if it is time. For work that consists of many short parts in several modules, such as compiling all
    filters of a pattern: call it before each part. All callers of a process share the two milliseconds."""
    _shared.pause_if_due()


def in_pieces(function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
    """The function, for something that calls it very often: other requests run between calls."""
    pacer, calls = Pacer(), 0

    def call(argument: Argument) -> Result:
        nonlocal calls
        calls += 1
        if calls % _CALLS_PER_CHECK == 0:
            pacer.pause_if_due()
        return function(argument)

    return call
