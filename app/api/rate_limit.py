"""The rate limit of an account's plan: exact counts per second, over all web processes together.

A window of one second begins with its first event. The counter is in Redis, by the storage of the `limits` library, or in the
memory of the only web process (`Windows`). While Redis does not respond, events are accepted and counted by a metric: losing
events is worse than exceeding a plan.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from limits.storage import Storage, storage_from_string
from msgspec import Struct

from app.core import metrics
from app.core.config import Settings, SettingsError
from app.core.errors import Problem, ProblemType
from app.core.group_commit import GroupCommit

_WINDOW_SECONDS = 1
# Seconds after a failure of Redis during which it is not used.
_OUTAGE_PAUSE = 1.0
_MAX_BATCH = 200
_MAX_ACCOUNTS = 10_000
_log = structlog.get_logger()


class Allowance(Struct, frozen=True):
    """Whether a request is within the limit, and the rest of the window: `limit` and `remaining` in events, `reset` in
    seconds."""

    allowed: bool
    limit: int
    remaining: int
    reset: int = _WINDOW_SECONDS

    def headers(self) -> list[tuple[str, str]]:
        """The RateLimit fields of a response, and Retry-After beyond the limit."""
        fields = [
            ("RateLimit-Limit", str(self.limit)),
            ("RateLimit-Remaining", str(self.remaining)),
            ("RateLimit-Reset", str(self.reset)),
        ]
        return fields if self.allowed else [*fields, ("Retry-After", str(self.reset))]

    def check(self) -> None:
        """Raises Problem 429 beyond the limit."""
        if not self.allowed:
            raise self.problem()

    def problem(self) -> Problem:
        """The 429 for what is beyond the limit."""
        return Problem(
            ProblemType.RATE_LIMIT_EXCEEDED,
            f"The account's limit is {self.limit} events a second. "
            f"Retry after {self.reset} second{'' if self.reset == 1 else 's'}.",
        )


class RateLimiter:
    """Counts events per account in windows of one second."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url
        self._redis = None if self._url is None else _redis_storage(self._url)
        # The counts of concurrent requests go to Redis together.
        self._counts = GroupCommit(self._count_batch, max_batch=_MAX_BATCH)
        self._batch_storage: Storage | None = None
        self._windows = Windows()
        self._paused_until = 0.0
        # Until when the last refusal of an account counts as recent.
        self._exceeded: dict[int, float] = {}

    def check(self) -> None:
        """Raises SettingsError when Redis refuses the password or the database of REDIS_URL. It may be unavailable."""
        if self._url is None:
            return
        from redis import Redis
        from redis.exceptions import AuthenticationError, RedisError, ResponseError

        try:
            with Redis.from_url(self._url, socket_timeout=1.0, socket_connect_timeout=1.0) as client:
                client.ping()
        except (AuthenticationError, ResponseError) as exc:
            raise SettingsError(f"REDIS_URL cannot be used: {str(exc).splitlines()[0]}") from None
        except RedisError as exc:
            _log.warning("Redis is unavailable", error=str(exc)[:200])

    def answers(self) -> bool:
        """Whether Redis answers now; takes at most about half a second."""
        return self._redis is None or self._redis.check()

    def take(self, account_id: int, rate: int, events: int = 1) -> Allowance:
        """Count `events` against the account's `rate` (events a second).

        More events at once than the rate are allowed if they open a window, which then lasts as many seconds as they take.
        """
        name, seconds = _window_of(account_id), -(-events // rate)
        used = self._count(name, events, seconds)
        allowed = used <= rate if seconds <= _WINDOW_SECONDS else used in (0, events)
        return self._allowance(account_id, rate, used, max(_WINDOW_SECONDS, seconds), allowed=allowed)

    def look(self, account_id: int, rate: int) -> Allowance:
        """The rest of the account's window without counting anything; allowed is one more event."""
        used = self._used(_window_of(account_id))
        return self._allowance(account_id, rate, used, _WINDOW_SECONDS, allowed=used < rate)

    def _used(self, name: str) -> int:
        """The events of the current window; 0 while Redis is down."""
        if self._redis is None:
            return self._windows.used(name)
        if self._is_paused:
            return 0
        try:
            return self._redis.get(name)
        except self._redis.base_exceptions:
            return 0

    def was_exceeded(self, account_id: int) -> bool:
        """Whether this process has refused events of the account within the last second."""
        until = self._exceeded.get(account_id)
        return until is not None and time.monotonic() < until

    def _allowance(self, account_id: int, rate: int, used: int, seconds: int, *, allowed: bool) -> Allowance:
        if not allowed:
            seconds = self._seconds_left(_window_of(account_id))
            if len(self._exceeded) >= _MAX_ACCOUNTS:
                self._exceeded.clear()
            self._exceeded[account_id] = time.monotonic() + _WINDOW_SECONDS
        return Allowance(allowed, limit=rate, remaining=max(0, rate - used), reset=seconds)

    def count_shared(self, name: str, seconds: int) -> int:
        """Count one of something other than events, in a window over all web processes; its total, or 0 without Redis."""
        if self._redis is None or self._is_paused:
            return 0
        try:
            return self._redis.incr(name, seconds, 1)
        except self._redis.base_exceptions:
            return 0

    def _count(self, name: str, events: int, seconds: int) -> int:
        """Count events in the current window, or in a new one of that many seconds; the total, or 0 while Redis is down."""
        if self._redis is None:
            return self._windows.count(name, events, max(_WINDOW_SECONDS, seconds))
        if self._is_paused:
            metrics.unlimited_by_outage.inc(events)
            return 0
        if seconds <= _WINDOW_SECONDS:
            return self._counts.submit((name, events))
        try:
            return self._redis.incr(name, seconds, events)
        except self._redis.base_exceptions as exc:
            self._pause(exc, events)
            return 0

    def _count_batch(self, counts: Sequence[tuple[str, int]]) -> list[int]:
        """Count for several requests: one increment per name; each request gets the total that it would have got alone."""
        assert self._redis is not None
        assert self._url is not None
        sums: dict[str, int] = {}
        for name, events in counts:
            sums[name] = sums.get(name, 0) + events
        try:
            # One batch at a time is counted, so that one connection is enough: taking one from a pool costs half as much
            # again. It is created here, after the fork.
            self._batch_storage = storage = self._batch_storage or _redis_storage(
                self._url, single_connection_client=True
            )
            used = {name: storage.incr(name, _WINDOW_SECONDS, events) - events for name, events in sums.items()}
        except self._redis.base_exceptions as exc:
            self._pause(exc, sum(sums.values()))
            return [0] * len(counts)
        totals = []
        for name, events in counts:
            used[name] += events
            totals.append(used[name])
        return totals

    @property
    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _pause(self, exc: Exception, events: int) -> None:
        self._paused_until = time.monotonic() + _OUTAGE_PAUSE
        metrics.unlimited_by_outage.inc(events)
        _log.warning("rate limit not counted: Redis is unavailable", error=str(exc)[:200])

    def _seconds_left(self, name: str) -> int:
        """Whole seconds until the current window ends, at least one."""
        if self._redis is None:
            return self._windows.seconds_left(name)
        try:
            left = self._redis.get_expiry(name) - time.time()
        except self._redis.base_exceptions:
            return _WINDOW_SECONDS
        return max(_WINDOW_SECONDS, math.ceil(left))


def _window_of(account_id: int) -> str:
    return f"signalbox:rate:{account_id}"


class Windows:
    """Counters in this process's memory, exact over its threads. The memory storage of `limits` is not: it reads a counter
    after other threads have counted, and removes windows without their lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, name: str, events: int, seconds: int = _WINDOW_SECONDS) -> int:
        """Count `events` in the current window of `name`, or in a new one of that many seconds; returns the window's total."""
        with self._lock:
            now = self._clock()
            end, used = self._windows.get(name, (now, 0))
            if now >= end:
                end, used = now + seconds, 0
            self._windows[name] = (end, used + events)
            return used + events

    def used(self, name: str) -> int:
        """The total of the current window of `name`."""
        with self._lock:
            end, used = self._windows.get(name, (0.0, 0))
            return used if self._clock() < end else 0

    def seconds_left(self, name: str) -> int:
        """Whole seconds until the current window of `name` ends, at least one."""
        with self._lock:
            end, _ = self._windows.get(name, (0.0, 0))
        return max(_WINDOW_SECONDS, math.ceil(end - self._clock()))


def storage_options(redis_url: str | None) -> tuple[str, dict[str, Any]]:
    """The URI of a storage of `limits`, and its options."""
    if redis_url is None:
        return "memory://", {}
    # Imported here: without REDIS_URL its library need not be loaded.
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    uri = f"redis+{redis_url}" if redis_url.startswith("unix://") else redis_url
    # One retry, for a connection that Redis has closed; the library's default of ten would delay the request.
    return uri, {"socket_timeout": 0.25, "socket_connect_timeout": 0.25, "retry": Retry(NoBackoff(), 1)}


def _redis_storage(url: str, **more: Any) -> Storage:
    uri, options = storage_options(url)
    try:
        storage = storage_from_string(uri, **options, **more)
    except ValueError as exc:
        raise SettingsError(f"REDIS_URL cannot be used: {str(exc).splitlines()[0]}") from None
    if not isinstance(storage, Storage):
        raise SettingsError(f"REDIS_URL leads to {type(storage).__name__}, which is not supported")
    return storage
