"""The plan's rate: how many events an account may send in a second, counted over all web processes together.

Comes in: an account's id and rate. Goes out: an `Allowance`. The engine is the `limits` library's storage: one atomic
increment with an expiry, in memory (one web process) or in Redis. When Redis does not answer, events are let through and
counted by a metric: to lose events is worse than to exceed a plan.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog
from limits.storage import MemoryStorage, Storage, storage_from_string

from app import meters
from app.settings import Settings, SettingsError

_WINDOW_SECONDS = 1
_PAUSE_AFTER_OUTAGE = 1.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whether a request is let in, and what is left of the window: `limit` and `remaining` events, `reset` seconds."""

    allowed: bool
    limit: int
    remaining: int
    reset: int = _WINDOW_SECONDS

    def headers(self) -> dict[str, str]:
        """The RateLimit fields of an answer."""
        fields = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset),
        }
        return fields if self.allowed else {**fields, "Retry-After": str(self.reset)}


class RateLimiter:
    """Counts events per account in windows of one second."""

    def __init__(self, settings: Settings) -> None:
        self._storage = _storage(settings)
        self._silent_until = 0.0

    def take(self, account_id: int, rate: int, events: int = 1) -> Allowance:
        """Count `events` against the account's `rate` (events a second)."""
        used = self._count(f"signalbox:rate:{account_id}", events)
        return Allowance(allowed=used <= rate, limit=rate, remaining=max(0, rate - used))

    def _count(self, name: str, events: int) -> int:
        if time.monotonic() < self._silent_until:
            meters.unlimited_by_outage.inc(events)
            return 0
        try:
            return self._storage.incr(name, _WINDOW_SECONDS, events)
        except self._storage.base_exceptions as trouble:
            self._silent_until = time.monotonic() + _PAUSE_AFTER_OUTAGE
            meters.unlimited_by_outage.inc(events)
            _log.warning("rate limit not counted: Redis does not answer", error=str(trouble)[:200])
            return 0


def _storage(settings: Settings) -> Storage:
    if settings.redis_url is None:
        return MemoryStorage()
    url = settings.redis_url
    if url.startswith("unix://"):
        url = f"redis+{url}"
    storage = storage_from_string(url, socket_timeout=0.25, socket_connect_timeout=0.25)
    if not isinstance(storage, Storage):
        raise SettingsError(f"REDIS_URL leads to {type(storage).__name__}, which cannot be asked from here")
    return storage
