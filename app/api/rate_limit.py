"""The plan's rate: how many events an account may send in a second, counted over all web processes together.

Comes in: an account's id and rate. Goes out: an `Allowance`. A window of one second begins with its first event; the
counter is one atomic increment with an expiry: in memory (one web process), or in Redis by the `limits` library's storage.
When Redis does not answer, events are let through and counted by a metric: to lose events is worse than to exceed a plan.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import structlog
from flask import Response
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter

from app.core import metrics
from app.core.config import Settings, SettingsError
from app.core.group_commit import GroupCommit

_WINDOW_SECONDS = 1
_PAUSE_AFTER_OUTAGE = 1.0
_MOST_TOGETHER = 200
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whether a request is let in, and what is left of the window: `limit` and `remaining` events, `reset` seconds."""

    allowed: bool
    limit: int
    remaining: int
    reset: int = _WINDOW_SECONDS

    def add_headers(self, response: Response) -> Response:
        """Add the RateLimit headers to a response."""
        response.headers.add("RateLimit-Limit", str(self.limit))
        response.headers.add("RateLimit-Remaining", str(self.remaining))
        response.headers.add("RateLimit-Reset", str(self.reset))
        if not self.allowed:
            response.headers.add("Retry-After", str(self.reset))
        return response


class RateLimiter:
    """Counts events per account in windows of one second."""

    def __init__(self, settings: Settings) -> None:
        self._redis = None if settings.redis_url is None else _redis(settings.redis_url)
        # The counts of concurrent requests go to Redis together.
        self._counting = GroupCommit(self._count_together, max_batch=_MOST_TOGETHER)
        self._url = settings.redis_url
        self._counter: Storage | None = None
        self._windows = Windows()
        self._silent_until = 0.0

    def take(self, account_id: int, rate: int, events: int = 1) -> Allowance:
        """Count `events` against the account's `rate` (events a second).

        More at once than the rate are let in where they open a window, which then lasts as many seconds as they take.
        """
        name, seconds = f"signalbox:rate:{account_id}", -(-events // rate)
        if seconds <= _WINDOW_SECONDS:
            used = self._count(name, events)
            allowed, reset = used <= rate, _WINDOW_SECONDS
        else:
            used = self._count_long(name, events, seconds)
            allowed, reset = used in (0, events), seconds
        if not allowed:
            reset = self._seconds_left(name)
        return Allowance(allowed, limit=rate, remaining=max(0, rate - used), reset=reset)

    def _count(self, name: str, events: int) -> int:
        if self._redis is None:
            return self._windows.count(name, events)
        if time.monotonic() < self._silent_until:
            metrics.unlimited_by_outage.inc(events)
            return 0
        return self._counting.submit((name, events))

    def _count_together(self, counts: Sequence[tuple[str, int]]) -> list[int]:
        """Count for several requests: one increment for each name, and what each of them would have been told alone."""
        assert self._redis is not None
        assert self._url is not None
        sums: dict[str, int] = {}
        for name, events in counts:
            sums[name] = sums.get(name, 0) + events
        try:
            # A connection of its own, since one portion at a time is counted: to take one from a pool costs half as much
            # again. It is made here, not where a process that is going to be forked would make it.
            self._counter = counter = self._counter or _redis(self._url, single_connection_client=True)
            used = {name: counter.incr(name, _WINDOW_SECONDS, events) - events for name, events in sums.items()}
        except self._redis.base_exceptions as trouble:
            self._note_outage(trouble, sum(sums.values()))
            return [0] * len(counts)
        told = []
        for name, events in counts:
            used[name] += events
            told.append(used[name])
        return told

    def _count_long(self, name: str, events: int, seconds: int) -> int:
        """The same for a window of so many seconds, should these events open one."""
        if self._redis is None:
            return self._windows.count(name, events, seconds)
        if time.monotonic() < self._silent_until:
            metrics.unlimited_by_outage.inc(events)
            return 0
        try:
            return self._redis.incr(name, seconds, events)
        except self._redis.base_exceptions as trouble:
            self._note_outage(trouble, events)
            return 0

    def _note_outage(self, trouble: Exception, events: int) -> None:
        self._silent_until = time.monotonic() + _PAUSE_AFTER_OUTAGE
        metrics.unlimited_by_outage.inc(events)
        _log.warning("rate limit not counted: Redis does not answer", error=str(trouble)[:200])

    def _seconds_left(self, name: str) -> int:
        """Whole seconds until the current window is over, one at least."""
        if self._redis is None:
            return self._windows.seconds_left(name)
        try:
            left = self._redis.get_expiry(name) - time.time()
        except self._redis.base_exceptions:
            return _WINDOW_SECONDS
        return max(_WINDOW_SECONDS, math.ceil(left))


class PerMinute:
    """Counts what is done by minutes, over all web processes together; lets all through while Redis does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _limiter(self) -> FixedWindowRateLimiter:
        # Made by the first request: the memory of `limits` starts a thread, which a process that is forked would inherit
        # broken.
        return FixedWindowRateLimiter(_storage_of(self._settings))

    def lets_in(self, rate: int, *names: str) -> bool:
        """Count one request under `names`; whether there were `rate` at most in this minute."""
        limiter = self._limiter
        try:
            return limiter.hit(RateLimitItemPerMinute(rate), *names)
        except limiter.storage.base_exceptions as trouble:
            metrics.unlimited_by_outage.inc()
            _log.warning("requests not counted: Redis does not answer", error=str(trouble)[:200])
            return True


class Windows:
    """Counters in this process's memory, exact over its threads, which the memory storage of `limits` is not: it reads
    a counter after others have counted on, and clears away windows without their lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, name: str, events: int, seconds: int = _WINDOW_SECONDS) -> int:
        """Count `events` in the current window of `name`, or in a new one that lasts `seconds`; how many there are in it
        now."""
        with self._lock:
            now = self._clock()
            end, used = self._windows.get(name, (now, 0))
            if now >= end:
                end, used = now + seconds, 0
            self._windows[name] = (end, used + events)
            return used + events

    def seconds_left(self, name: str) -> int:
        """Whole seconds until the current window of `name` is over, one at least."""
        with self._lock:
            end, _ = self._windows.get(name, (0.0, 0))
        return max(_WINDOW_SECONDS, math.ceil(end - self._clock()))


def _storage_of(settings: Settings) -> Storage:
    """Where limits are counted that need not be exact: Redis, or this process's memory."""
    return MemoryStorage() if settings.redis_url is None else _redis(settings.redis_url)


def _redis(url: str, **more: Any) -> Storage:
    # Imported here: a house without Redis need not wait for its library.
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    if url.startswith("unix://"):
        url = f"redis+{url}"
    # One second try, for a connection that Redis closed meanwhile; its library's own ten would hold up the event.
    options: dict[str, Any] = {
        "socket_timeout": 0.25,
        "socket_connect_timeout": 0.25,
        "retry": Retry(NoBackoff(), 1),
        **more,
    }
    try:
        storage = storage_from_string(url, **options)
    except ValueError as wrong:
        raise SettingsError(f"REDIS_URL cannot be used: {str(wrong).splitlines()[0]}") from None
    if not isinstance(storage, Storage):
        raise SettingsError(f"REDIS_URL leads to {type(storage).__name__}, which cannot be asked from here")
    return storage
