"""Runs database functions from async code: in a thread, and again while Postgres is unavailable."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, repeat
from typing import ParamSpec, TypeVar

import structlog

from app.core.errors import Unavailable
from app.core.log_config import describe_exception

P = ParamSpec("P")
T = TypeVar("T")

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = structlog.get_logger()


class RetryUntilAvailable:
    """Calls functions until Postgres is available, so that an outage never fails a job."""

    def __init__(self, threads: ThreadPoolExecutor, rng: random.Random) -> None:
        self._threads = threads
        self._rng = rng

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call, repeated with growing pauses while it raises Unavailable."""
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                return await self.run_once(function, *args, **kwargs)
            except Unavailable as exc:
                _log.warning("Postgres is unavailable; retrying", error=describe_exception(exc), pause=pause)
                await asyncio.sleep(pause * self._rng.uniform(0.8, 1.2))
        raise AssertionError("unreachable")

    async def run_once(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call; raises Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))
