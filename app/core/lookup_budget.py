"""Bounds the queries for secrets that nobody has: unknown API keys, clients and tickets.

Anybody can send any number of them, and each costs a query. A process does at most RATE failed look-ups a second, after a burst
of BURST. Beyond that a name is refused for now and noted. Once a second one query finds out which of the noted names exist; these
are let through when they come again. So a key that was just created works at the first retry, however many unknown ones come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from app.core.errors import LookupLimit

RATE, BURST = 20.0, 20.0
_INTERVAL = 1.0
_MAX_NAMES = 5_000


class LookupBudget:
    """The budget of one process for one kind of name. `find_existing` gives those of some names that exist."""

    def __init__(
        self,
        find_existing: Callable[[Collection[str]], Collection[str]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_existing = find_existing
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._left, self._counted_at, self._queried_at = BURST, monotonic(), float("-inf")
        self._noted: set[str] = set()
        self._existing: set[str] = set()

    def spend(self, name: str) -> None:
        """Take one look-up of a name that the process does not know. Raises LookupLimit, Unavailable."""
        with self._lock:
            now = self._monotonic()
            if self._take(name, now):
                return
            if len(self._noted) < _MAX_NAMES:
                self._noted.add(name)
            is_due = now >= self._queried_at + _INTERVAL
            if is_due:
                self._queried_at = now
                noted, self._noted = self._noted, set()
        if is_due:
            existing = self._find_existing(noted)
            with self._lock:
                if len(self._existing) > _MAX_NAMES:
                    self._existing.clear()
                self._existing.update(existing)
                if self._take(name, now):
                    return
        # Imported here: commands have a budget, too, and start without metrics.
        from app.core import metrics

        metrics.lookups_refused.inc()
        raise LookupLimit("too many unknown keys are looked up")

    def refund(self) -> None:
        """Give a look-up back: it found what was sent to be right."""
        with self._lock:
            self._left = min(BURST, self._left + 1)

    def _take(self, name: str, now: float) -> bool:
        if name in self._existing:
            # Once only: who knows a name does not know its secret.
            self._existing.discard(name)
            return True
        self._left = min(BURST, self._left + (now - self._counted_at) * RATE)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
