"""Asks Postgres from async code: in a thread, and again while it does not answer.

Comes in: questions, which are functions without arguments. Goes out: their answers, however long that takes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from typing import TypeVar

import structlog

from app.core.errors import Unavailable

T = TypeVar("T")

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = structlog.get_logger()


class RetryUntilAvailable:
    """Asks a question again, after a pause, while Postgres is away: a job is never given up for that."""

    def __init__(self, threads: ThreadPoolExecutor, chance: random.Random) -> None:
        self._threads = threads
        self._random = chance

    async def ask(self, question: Callable[[], T]) -> T:
        """The answer."""
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                return await self.ask_once(question)
            except Unavailable as exc:
                _log.warning("Postgres cannot be asked; trying again", error=str(exc)[:200], pause=pause)
                await asyncio.sleep(pause * self._random.uniform(0.8, 1.2))
        raise AssertionError("unreachable")

    async def ask_once(self, question: Callable[[], T]) -> T:
        """The answer, or Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, question)
