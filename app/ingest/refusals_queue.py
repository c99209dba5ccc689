"""The refusals that wait to be written: bounded in bytes, and fair to all accounts."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.db.refusals import NewRefusal

# Bytes of all refusals in the queue, and of those that are written together.
MAX_BYTES = 32 * 1024 * 1024
MAX_BATCH_BYTES = 4 * 1024 * 1024
MAX_BATCH = 100
# Bytes that a refusal takes besides its texts.
_OVERHEAD = 2_000


@dataclass(frozen=True, slots=True)
class Queued:
    """A refusal whose body may not be compressed yet."""

    refusal: NewRefusal
    is_compressed: bool = False

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        one = self.refusal
        return _OVERHEAD + sum(len(part) for part in (one.detail, one.errors, one.items, one.body) if part)


class RefusalQueue:
    """Refusals by account, oldest first, and how many of each account were dropped since they were last taken."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._queued: dict[int, deque[Queued]] = {}
        self._bytes: Counter[int] = Counter()
        self._total = 0
        self._not_kept: Counter[int] = Counter()

    def put(self, *new: Queued) -> int:
        """Add refusals; when the queue is full, the account with the most bytes loses its oldest. How many were dropped."""
        with self._lock:
            for one in new:
                self._queued.setdefault(one.refusal.account_id, deque()).append(one)
                self._add_size(one)
            return self._drop()

    def put_back(self, taken: Sequence[Queued], not_kept: Mapping[int, int]) -> int:
        """Add refusals that were taken in front of the others, with the numbers; how many were dropped."""
        with self._lock:
            self._not_kept.update(not_kept)
            for one in reversed(taken):
                self._queued.setdefault(one.refusal.account_id, deque()).appendleft(one)
                self._add_size(one)
            return self._drop()

    def count_not_kept(self, account_id: int, count: int = 1) -> None:
        """Count refusals of an account that were not put into the queue."""
        with self._lock:
            self._not_kept[account_id] += count

    def take(self) -> tuple[list[Queued], dict[int, int]]:
        """The next batch, taken round robin from the accounts, and the numbers of those that were not kept."""
        taken: list[Queued] = []
        size = 0
        with self._lock:
            while self._queued and len(taken) < MAX_BATCH and size < MAX_BATCH_BYTES:
                account_id = next(iter(self._queued))
                one = self._pop(account_id)
                if account_id in self._queued:
                    # The account goes to the end of the queue, behind the others.
                    self._queued[account_id] = self._queued.pop(account_id)
                size += one.size
                taken.append(one)
            not_kept, self._not_kept = dict(self._not_kept), Counter()
        return taken, not_kept

    def _add_size(self, one: Queued) -> None:
        self._bytes[one.refusal.account_id] += one.size
        self._total += one.size

    def _drop(self) -> int:
        dropped = 0
        while self._total > self._max_bytes:
            account_id, _ = self._bytes.most_common(1)[0]
            self._pop(account_id)
            self._not_kept[account_id] += 1
            dropped += 1
        return dropped

    def _pop(self, account_id: int) -> Queued:
        """Remove the oldest refusal of an account."""
        queued = self._queued[account_id]
        one = queued.popleft()
        self._bytes[account_id] -= one.size
        self._total -= one.size
        if not queued:
            del self._queued[account_id], self._bytes[account_id]
        return one
