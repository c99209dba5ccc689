"""Keeps a sample of the deliveries that are refused as unverified, without delaying a response."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from uuid import UUID

import structlog
from cachetools import LRUCache

from app.core.errors import Unavailable
from app.core.log_config import describe_exception
from app.db import deliveries
from app.db.deliveries import NewDelivery
from app.ingest.background import BackgroundWriter
from app.services.context import AppContext

# Seconds between two deliveries of a source that are kept.
INTERVAL = 1.0
# Bytes of the bodies that wait to be written, at most.
MAX_BYTES = 16 * 1024 * 1024
_MAX_SOURCES = 10_000
_log = structlog.get_logger()


class UnverifiedKeeper:
    """Takes deliveries from requests and writes at most one a second and source. Those that cannot be written are dropped."""

    def __init__(self, context: AppContext, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept_at: LRUCache[UUID, float] = LRUCache(_MAX_SOURCES)
        self._queue: deque[NewDelivery] = deque()
        self._bytes = 0
        self._writer = BackgroundWriter("unverified deliveries", self._write_all)

    def keep(self, source_id: UUID, make_row: Callable[[], NewDelivery]) -> bool:
        """Have a delivery to a source written soon, unless one was kept in the last second; `make_row` gives its row. Whether it
        is kept. Waits for nothing."""
        with self._lock:
            now = self._monotonic()
            if now - self._kept_at.get(source_id, -INTERVAL) < INTERVAL or self._bytes > MAX_BYTES:
                return False
            self._kept_at[source_id] = now
            row = make_row()
            self._queue.append(row)
            self._bytes += len(row.body)
        self._writer.wake()
        return True

    def flush(self) -> None:
        """Write what waits now."""
        self._writer.flush()

    def _write_all(self) -> bool:
        while (row := self._take()) is not None:
            try:
                with self._context.database.transaction() as connection:
                    deliveries.insert_sample(connection, row)
            except Unavailable:
                continue
            except Exception as exc:
                _log.error("an unverified delivery was not kept", error=describe_exception(exc))
        return True

    def _take(self) -> NewDelivery | None:
        with self._lock:
            if not self._queue:
                return None
            row = self._queue.popleft()
            self._bytes -= len(row.body)
            return row
