"""Bounds the work that one account takes of a process over time, while other accounts use the process, too.

Each account has a bucket of units of work. It fills at SHARE, and what is done for the account is taken out of it. An account
whose bucket is empty has used up its share: what it still wants is postponed. An account that is alone in the process is not
restricted. Accounts that have taken more than half of their buckets share SHARE_OF_ALL, so that many together take no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

# A unit of work is about a tenth of a microsecond of a core (docs/decisions/0029).
UNITS_PER_MILLISECOND = 10_000
# Units a second: a quarter of a core, and half a core. Units at once: 100 ms.
SHARE = 250 * UNITS_PER_MILLISECOND
SHARE_OF_ALL = 500 * UNITS_PER_MILLISECOND
BURST = 100 * UNITS_PER_MILLISECOND
# What an account may owe: one piece of work can be larger than a bucket.
_MAX_DEBT = 5 * BURST
# Seconds between two fillings of the buckets, and for which an account counts as active.
TICK = 0.05
ACTIVE_SECONDS = 1.0
# Seconds after which postponed work is tried again, even without units for it, since the account may be alone by then.
# Further pieces become due at this many a second, so that a long queue does not become due as a whole each time.
_MAX_DELAY, _TRIED_PER_SECOND = 30.0, 50


class WorkShares:
    """What each account has taken of one process. For greenlets, or the event loop of a worker; not for several threads."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        share_of_all: int = SHARE_OF_ALL,
        tick: float = TICK,
        other_work: WorkShares | None = None,
    ) -> None:
        """`other_work`: the shares of other work, whose accounts use the process, too."""
        self._monotonic = monotonic
        self._share_of_all, self._tick, self._other_work = share_of_all, tick, other_work
        # What is left in the buckets that are not full; negative for an account that has taken more than there was.
        self._left: dict[int, float] = {}
        self._rate: float = SHARE
        self._filled_at = monotonic()
        # The latest active account and when it was, and when any other was.
        self._latest, self._latest_at, self._others_at = 0, -inf, -inf
        self._next_at: dict[int, float] = {}

    def spend(self, account_id: int, units: float) -> None:
        """Take units that were used for an account, which is active now."""
        now = self._monotonic()
        if account_id != self._latest:
            self._latest, self._others_at = account_id, self._latest_at
        self._latest_at = now
        if units:
            self._fill_if_due(now)
            left = self._left.get(account_id, BURST) - units
            if left < 0:
                # Who is alone in the process owes nothing afterwards.
                left = max(left, -_MAX_DEBT if self._is_contended(account_id, now) else 0)
            self._left[account_id] = left

    @contextmanager
    def charged(self, account_id: int) -> Iterator[None]:
        """Take the CPU time of the block, in this thread, for work whose units are not counted."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.pay(account_id, time.thread_time() - began)

    def pay(self, account_id: int, seconds: float) -> float:
        """Take the CPU time of a piece of work, whose units are not counted; seconds until the next piece may begin."""
        self.spend(account_id, seconds * 1000 * UNITS_PER_MILLISECOND)
        return self.seconds_left(account_id)

    def is_used_up(self, account_id: int, units: int = 0) -> bool:
        """Whether the account has no more than so many units left, and other accounts are active."""
        if self._left.get(account_id, BURST) > units:
            return False
        now = self._monotonic()
        self._fill_if_due(now)
        return self._left.get(account_id, BURST) <= units and self._is_contended(account_id, now)

    def seconds_left(self, account_id: int) -> float:
        """Seconds until the account has units again; 0 when it may go on."""
        return max(self._tick, -self._left[account_id] / self._rate) if self.is_used_up(account_id) else 0.0

    def postpone(self, account_id: int, units: float) -> float:
        """Seconds after which work of about so many units should be tried again, when the account has used up its share: each
        call gives a later time, so that there are units for each. 0 when it may be done now."""
        seconds = self.seconds_left(account_id)
        if not seconds:
            return 0.0
        now = self._monotonic()
        self._next_at = {each: at for each, at in self._next_at.items() if at > now}
        at = max(now + seconds, self._next_at.get(account_id, 0.0))
        self._next_at[account_id] = max(min(at + units / self._rate, now + _MAX_DELAY), at + 1 / _TRIED_PER_SECOND)
        return at - now

    def _is_contended(self, account_id: int, now: float) -> bool:
        others_at = self._others_at if account_id == self._latest else self._latest_at
        is_alone = now - others_at >= ACTIVE_SECONDS
        return not is_alone or (self._other_work is not None and self._other_work._is_contended(account_id, now))

    def _fill_if_due(self, now: float) -> None:
        if now - self._filled_at < self._tick:
            return
        gained = (now - self._filled_at) * self._rate
        self._filled_at = now
        filled = {account_id: left + gained for account_id, left in self._left.items()}
        self._left = {account_id: left for account_id, left in filled.items() if left < BURST}
        heavy = sum(left < BURST / 2 for left in self._left.values())
        self._rate = min(SHARE, self._share_of_all / max(1, heavy))
