"""Fair queueing: while more jobs are due than a worker can claim, it claims those of all accounts round robin.

An account with thousands of due jobs delays the jobs of others by one claim, and not by all of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from app.db.connection import Database
from app.db.due_accounts import find_due_accounts
from app.db.job_queue import NOT_PREFERRED, Job, Preferred

# Seconds between two look-ups of the accounts with due jobs, and the part of the time that these may take.
_INTERVAL, _PART = 0.05, 0.05
# Seconds for which an account is preferred after one of its jobs was claimed, also if a look-up finds no due job of it: the next
# one may come before the next look-up.
_REMEMBERED_SECONDS = 10.0


class FairQueue:
    """The order of the accounts in one worker."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._is_behind = False
        self._due: list[str] = []
        self._claimed_at: dict[str, float] = {}
        self._latest_due = self._latest_other = ""
        self._next_look = 0.0

    def note_claim(self, claimed: Sequence[Job], limit: int) -> None:
        """Note the jobs that the last claim brought. It brings `limit` while more are due."""
        self._is_behind = len(claimed) >= limit > 0
        now = self._monotonic()
        self._claimed_at.update((job.account, now) for job in claimed)

    def next_accounts(self, limit: int) -> Preferred:
        """The accounts whose jobs a claim of `limit` jobs takes first. Raises Unavailable."""
        if not self._is_behind or not limit:
            return NOT_PREFERRED
        if (now := self._monotonic()) >= self._next_look:
            self._look(now)
        if len(self._claimed_at.keys() | self._due) < 2:
            return NOT_PREFERRED
        others = _round_robin(self._claimed_at.keys() - self._due, self._latest_other, limit)
        due = _round_robin(self._due, self._latest_due, limit)
        self._latest_other, self._latest_due = others[-1] if others else "", due[-1] if due else ""
        # The others first: they have a few jobs, or none, and a part of the slots of their own.
        return Preferred([*others, *due], max(1, limit // (len(due) + bool(others))))

    def _look(self, now: float) -> None:
        self._due = find_due_accounts(self._database)
        after = self._monotonic()
        self._next_look = after + max(_INTERVAL, (after - now) / _PART)
        self._claimed_at = {each: at for each, at in self._claimed_at.items() if after - at < _REMEMBERED_SECONDS}


def _round_robin(accounts: Iterable[str], latest: str, limit: int) -> list[str]:
    """At most `limit` of the accounts: in the order of their texts, those after `latest` first."""
    ordered = sorted(accounts)
    return sorted(ordered, key=lambda account: account <= latest)[:limit]
