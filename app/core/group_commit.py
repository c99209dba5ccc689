"""Group commit: concurrent callers submit one item each, and one of them processes the items of all.

A caller that finds nobody processing becomes the leader of a batch. Callers that come meanwhile wait as followers; the first
of them leads the next batch. A leader that was no follower waits shortly for as many callers as the last batch had: senders
that got their answers together post again together. Batches grow with the load, and a single caller waits for nobody. Works
with threads and with gevent's greenlets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app.core.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
# Seconds for which a leader waits for as many callers as the last batch had. gevent's timers have whole milliseconds.
_MAX_WAIT = 0.002


class _Caller(Generic[Item, Result]):
    """A caller. A follower waits for `wakeup`, which is set when it has its result or becomes the leader."""

    __slots__ = ("error", "item", "results", "wakeup")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.results: list[Result] = []
        self.error: BaseException | None = None
        self.wakeup = threading.Event()

    @property
    def is_done(self) -> bool:
        return bool(self.results) or self.error is not None


class GroupCommit(Generic[Item, Result]):
    """`process` takes up to `max_batch` items and returns their results in the same order. An exception that it raises is
    raised to every caller of the batch."""

    def __init__(self, process: Callable[[Sequence[Item]], Sequence[Result]], *, max_batch: int) -> None:
        self._process = process
        self._max_batch = max_batch
        self._lock = threading.Lock()
        self._followers: list[_Caller[Item, Result]] = []
        self._busy = False
        # The leader that waits for more callers, and the size of the last batch.
        self._waiting_leader: _Caller[Item, Result] | None = None
        self._last_size = 1

    def submit(self, item: Item) -> Result:
        """Process `item` together with those of concurrent callers; its result. Raises what `process` raises."""
        caller: _Caller[Item, Result] = _Caller(item)
        with self._lock:
            follows, self._busy = self._busy, True
            if follows:
                self._followers.append(caller)
                self._wake_waiting_leader()
        try:
            if follows:
                caller.wakeup.wait()
            elif self._last_size > 1:
                self._wait_for_callers(caller)
        except BaseException:
            # Killed while it waited: the callers behind it must not wait for ever.
            self._leave(caller, leads=not follows)
            raise
        if not caller.is_done:
            self._lead(caller)
        if caller.error is not None:
            raise caller.error
        return caller.results[0]

    def _wait_for_callers(self, leader: _Caller[Item, Result]) -> None:
        """Wait until as many callers have come as the last batch had, for _MAX_WAIT at most."""
        with self._lock:
            self._waiting_leader = leader
            self._wake_waiting_leader()
        try:
            leader.wakeup.wait(_MAX_WAIT)
        finally:
            with self._lock:
                self._waiting_leader = None

    def _wake_waiting_leader(self) -> None:
        """With the lock held: let the leader that waits go on, if as many callers have come as the last batch had."""
        leader = self._waiting_leader
        if leader is not None and len(self._followers) + 1 >= self._last_size:
            self._waiting_leader = None
            leader.wakeup.set()

    def _leave(self, caller: _Caller[Item, Result], *, leads: bool) -> None:
        """Remove a killed caller; if it leads, the next one does."""
        with self._lock:
            if caller in self._followers:
                self._followers.remove(caller)
                return
        is_done = caller.is_done
        if leads or (caller.wakeup.is_set() and not is_done):
            self._wake_next_leader()

    def _wake_next_leader(self) -> None:
        with self._lock:
            leader = self._followers.pop(0) if self._followers else None
            self._busy = leader is not None
        if leader is not None:
            leader.wakeup.set()

    def _lead(self, leader: _Caller[Item, Result]) -> None:
        with self._lock:
            batch = [leader, *self._followers[: self._max_batch - 1]]
            del self._followers[: self._max_batch - 1]
            self._last_size = len(batch)
        try:
            results = self._process([caller.item for caller in batch])
            for caller, result in zip(batch, results, strict=True):
                caller.results.append(result)
        except BaseException as exc:
            # What kills the leader (a signal) is not raised to its followers.
            error = exc if isinstance(exc, Exception) else Unavailable("the request that led the batch was stopped")
            for caller in batch:
                caller.results.clear()
                caller.error = error
            leader.error = exc
        finally:
            self._wake_next_leader()
            for caller in batch[1:]:
                caller.wakeup.set()
