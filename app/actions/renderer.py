"""Renders the templates of actions in threads, off the event loop.

An account renders one attempt at a time. A slow text therefore delays only its own account, and takes at most the share of one
thread from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

# More accounts than this wait for each other.
_THREADS = 16


class Renderer:
    """The threads of one worker. Use it in one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="render")
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def run(self, account_id: int, function: Callable[..., T], *arguments: object) -> T:
        """The result of `function(*arguments)`, which a thread calls. A cancelled caller leaves the thread running, and the next
        one of the account waits for it."""
        turn = self._turns.setdefault(account_id, asyncio.Lock())
        await turn.acquire()
        loop = asyncio.get_running_loop()
        try:
            job = self._threads.submit(function, *arguments)
        except RuntimeError:
            turn.release()
            raise
        job.add_done_callback(lambda _: _call_in(loop, turn.release))
        return await asyncio.wrap_future(job)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    # A loop that has been closed raises: nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)
