"""Bounds what the jobs of one account's events and deadlines take of a worker.

They take little time, but an account may have thousands that are due. AT_ONCE of an account are executed at the same time, others
of it wait. When they fill half of the worker's slots, further ones go back to the queue, each for a little longer, so that the
worker gets to the jobs behind them. A job that matches a postponed event also goes back while its account has used up its share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.core.work_shares import WorkShares
from app.db.job_queue import Again
from app.worker.isolation import NotDone

# Half of the threads that query Postgres.
AT_ONCE = 4
# Seconds.
_ASSUMED_DURATION = 0.01
_MIN_PAUSE, _MAX_PAUSE = 0.1, 30.0


class _Account:
    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.jobs = 0


class AccountJobs:
    """The jobs of events and deadlines in a worker that executes `concurrency` jobs at the same time."""

    def __init__(
        self, shares: WorkShares, concurrency: int, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._shares = shares
        self._max_jobs = max(1, concurrency // 2)
        self._monotonic = monotonic
        self._accounts: dict[int, _Account] = {}
        self._next_at: dict[int, float] = {}
        self._duration = _ASSUMED_DURATION

    @asynccontextmanager
    async def slot(self, account_id: int, units: int = 0) -> AsyncIterator[None]:
        """Wait for a slot of the account, and hold it inside. `units`: of its share that the job takes at most, which are taken
        before. Raises NotDone when it has used that up, or when too many of its jobs wait."""
        account = self._accounts.get(account_id) or _Account()
        if account.jobs >= self._max_jobs:
            raise NotDone("other jobs of its account are before it", Again(self._pause(account_id), is_failure=False))
        if units and (seconds := self._shares.postpone(account_id, units)):
            raise NotDone("its account has used up its share", Again(seconds, is_failure=False))
        self._shares.spend(account_id, units)
        self._accounts[account_id] = account
        account.jobs += 1
        try:
            async with account.slots:
                began = self._monotonic()
                yield
                self._duration = 0.9 * self._duration + 0.1 * (self._monotonic() - began)
        finally:
            account.jobs -= 1
            if not account.jobs:
                del self._accounts[account_id]

    def _pause(self, account_id: int) -> float:
        """Seconds until the account's next job should come, as many a second as are executed."""
        now = self._monotonic()
        self._next_at = {each: at for each, at in self._next_at.items() if at > now}
        at = self._next_at.get(account_id, now) + self._duration / AT_ONCE
        self._next_at[account_id] = min(at, now + _MAX_PAUSE)
        return max(_MIN_PAUSE, self._next_at[account_id] - now)
