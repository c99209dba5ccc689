"""Limits what one account does at the same time, so that it cannot use all of something that a process has few of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from app.core import pacing
from app.core.errors import Problem, ProblemType
from app.core.semaphores import Semaphore, make_semaphore
from app.core.work_shares import WorkShares

# Seconds. What is limited takes much less.
_RETRY_AFTER = "1"


class ConcurrencyLimit:
    """At most `at_once` operations of each account at the same time, and `together` of all accounts; others wait, at most
    `seconds` for each of both. What an operation takes of the processor comes out of the account's part of `shares`, if they are
    given; it slows down when that is used up. Works with threads and with gevent's greenlets."""

    def __init__(
        self, at_once: int, seconds: float, *, together: int | None = None, shares: WorkShares | None = None
    ) -> None:
        self._at_once = at_once
        self._seconds = seconds
        self._together = None if together is None else make_semaphore(together)
        self._shares = shares
        self._lock = threading.Lock()
        # For each account that has or waits for a permit: its semaphore, and how many do.
        self._accounts: dict[int, tuple[Semaphore, int]] = {}

    @contextmanager
    def acquire(self, account_id: int) -> Iterator[None]:
        """Wait for a permit, and hold it inside. Raises Problem 429 when none is free in time."""
        semaphore = self._count(account_id, 1)
        try:
            with self._acquired(semaphore, "of this account"), self._charged(account_id):
                if self._together is None:
                    yield
                else:
                    with self._acquired(self._together, "of this kind"):
                        yield
        finally:
            self._count(account_id, -1)

    def _charged(self, account_id: int) -> AbstractContextManager[None]:
        return nullcontext() if self._shares is None else pacing.charged(partial(self._shares.pay, account_id))

    @contextmanager
    def _acquired(self, semaphore: Semaphore, which: str) -> Iterator[None]:
        if not semaphore.acquire(timeout=self._seconds):
            raise Problem(
                ProblemType.RATE_LIMIT_EXCEEDED,
                f"Too many requests {which} at the same time. Retry later.",
                headers={"Retry-After": _RETRY_AFTER},
            )
        try:
            yield
        finally:
            semaphore.release()

    def _count(self, account_id: int, change: int) -> Semaphore:
        """The semaphore of an account, which is kept while it is used."""
        with self._lock:
            semaphore, users = self._accounts.pop(account_id, (None, 0))
            semaphore = semaphore or make_semaphore(self._at_once)
            if users + change:
                self._accounts[account_id] = (semaphore, users + change)
            return semaphore
