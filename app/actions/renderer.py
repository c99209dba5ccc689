"""Renders the templates of actions in threads, off the event loop.

An account renders one attempt at a time, so that a slow text delays only its own account, and takes from the others at most the
share of one thread. An attempt that would wait long is deferred, so that it does not hold a slot of the worker meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from app.actions.circuit import Deferred
from app.actions.circuit_breaker import MAX_WAIT, spread
from app.actions.templates import locales

T = TypeVar("T")

# More accounts than this wait for each other.
_THREADS = 16
# Seconds. The account pauses after a longer rendering.
_MAX_QUICK = 0.02


@dataclass(slots=True)
class _Account:
    """The renderings of one account, one at a time. `duration` is about how many seconds a rendering takes, `next_at` when the
    next deferred attempt should come back."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    began_at: float = 0.0
    duration: float = 0.0
    next_at: float = 0.0


class Renderer:
    """The threads of one worker. Use it in one event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="render")
        # Loaded now: it takes 60 ms once, which would count against the first text that needs it.
        locales.load()
        self._accounts: dict[int, _Account] = {}
        self._clock = clock
        self._rng = random.Random()

    async def run(self, account_id: int, function: Callable[..., T], *arguments: object) -> T:
        """The result of `function(*arguments)`, which a thread calls. Raises Deferred when those of the account before it take
        long. A cancelled caller leaves the thread running, and the next one of the account waits for it."""
        account = self._accounts.setdefault(account_id, _Account())
        self._check_wait(account)
        account.waiting += 1
        try:
            await account.lock.acquire()
        finally:
            account.waiting -= 1
        account.began_at = self._clock()
        loop = asyncio.get_running_loop()
        try:
            job = self._threads.submit(function, *arguments)
        except RuntimeError:
            account.lock.release()
            raise
        job.add_done_callback(lambda _: _call_in(loop, lambda: self._end(account_id, account)))
        return await asyncio.wrap_future(job)

    def _check_wait(self, account: _Account) -> None:
        """Raise Deferred when those before this attempt take long. Deferred ones come back one after the other."""
        if not account.lock.locked():
            return
        now = self._clock()
        duration = max(account.duration, now - account.began_at)
        if duration * (account.waiting + 1) <= MAX_WAIT:
            return
        account.next_at, seconds = spread(account.next_at, now, duration, now, self._rng)
        raise Deferred("busy", "the account's texts take long to render, and are rendered one after the other", seconds)

    def _end(self, account_id: int, account: _Account) -> None:
        """After a long rendering, the account pauses for as long: half of the processor's time is for others."""
        duration = self._clock() - account.began_at
        if duration > _MAX_QUICK:
            asyncio.get_running_loop().call_later(duration, self._release, account_id, account, 2 * duration)
        else:
            self._release(account_id, account, duration)

    def _release(self, account_id: int, account: _Account, duration: float) -> None:
        now = self._clock()
        account.duration = (account.duration + duration) / 2
        account.lock.release()
        if not account.waiting and account.next_at <= now and account.duration < MAX_WAIT / 10:
            self._accounts.pop(account_id, None)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    # A loop that has been closed raises: nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)
