"""Keeps refused requests without delaying a response: a bounded queue, and one background writer in each process."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog
from cachetools import LRUCache

from app.core import metrics
from app.core.errors import Unavailable
from app.core.log_config import describe_exception
from app.core.pacing import pause_if_due
from app.db import refusals
from app.db.refusals import NewRefusal
from app.ingest.background import BackgroundWriter
from app.ingest.refusals_queue import Queued, RefusalQueue
from app.services.context import AppContext

# Bytes of bodies that are kept a second and account, after a burst; a body that begins within the burst is kept whole.
BODY_RATE, BODY_BURST = 2 * 1024 * 1024, 8 * 1024 * 1024
_PIECE = 64 * 1024
_MAX_ACCOUNTS = 10_000
_log = structlog.get_logger()


class RefusalKeeper:
    """Takes refusals from requests and writes them in the background."""

    def __init__(self, context: AppContext, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._monotonic = monotonic
        self._queue = RefusalQueue()
        self._lock = threading.Lock()
        self._writer = BackgroundWriter("refusals", self._write_all)
        self._uncounted: dict[int, int] = {}
        # For each account, the bytes of bodies that count against its burst, and when that was.
        self._spent: LRUCache[int, tuple[float, float]] = LRUCache(_MAX_ACCOUNTS)

    def keep(self, refusal: NewRefusal) -> None:
        """Have a refusal written soon; its `body` is not compressed. Waits for nothing."""
        if refusal.body is not None and not self._spend(refusal.account_id, len(refusal.body)):
            refusal = replace(refusal, body=None, body_bytes=0, replayable=False)
        self._count("queue", self._queue.put(Queued(refusal)))
        self._writer.wake()

    def count_not_kept(self, account_id: int) -> None:
        """Count a refusal that is not kept, since too many of the account come."""
        self._queue.count_not_kept(account_id)
        self._count("limit", 1)
        self._writer.wake()

    def flush(self) -> bool:
        """Write all that is queued; False when it has to be called again, such as while Postgres is unavailable."""
        return self._writer.flush()

    def close(self) -> None:
        """Write what is left, before the process ends. Tries once."""
        self._writer.close()

    def _spend(self, account_id: int, size: int) -> bool:
        """Whether a body of this size is kept."""
        with self._lock:
            now = self._monotonic()
            spent, since = self._spent.get(account_id, (0.0, now))
            spent = max(0.0, spent - (now - since) * BODY_RATE)
            is_kept = spent < BODY_BURST
            self._spent[account_id] = (spent + size * is_kept, now)
        return is_kept

    def _write_all(self) -> bool:
        # Counts that no stored refusal could carry. Another web process may have stored one of the account meanwhile.
        again, self._uncounted = self._uncounted, {}
        try:
            self._write_queued()
            self._record([], again)
        except Unavailable:
            return False
        return not self._uncounted

    def _write_queued(self) -> None:
        while True:
            taken, not_kept = self._queue.take()
            if not taken and not not_kept:
                return
            batch = [_compressed(one) for one in taken]
            try:
                counted = self._record(batch, not_kept)
            except Unavailable:
                self._count("queue", self._queue.put_back(batch, not_kept))
                raise
            except Exception as exc:
                _log.error("refusals were not written together", error=describe_exception(exc))
                self._write_alone(batch)
            else:
                self._uncounted |= {account_id: not_kept[account_id] for account_id in not_kept.keys() - counted}

    def _write_alone(self, batch: Sequence[Queued]) -> None:
        """Write each refusal of a batch of which one cannot be stored; that one is counted. Raises nothing."""
        for one in batch:
            try:
                self._record([one], {})
            except Exception:
                self._count("error", 1)

    def _record(self, batch: Sequence[Queued], not_kept: Mapping[int, int]) -> set[int]:
        """Write refusals and numbers in one transaction; the accounts whose numbers are recorded."""
        if not batch and not not_kept:
            return set()
        with self._context.database.transaction() as connection:
            if batch:
                refusals.insert_refusals(connection, [one.refusal for one in batch])
            counted = refusals.count_not_kept(connection, not_kept) if not_kept else set()
        metrics.refusals_kept.inc(len(batch))
        return counted

    @staticmethod
    def _count(reason: str, count: int) -> None:
        if count:
            metrics.refusals_not_kept.labels(reason).inc(count)


def _compressed(queued: Queued) -> Queued:
    """The refusal with its body compressed, in pieces between which other requests run."""
    body = queued.refusal.body
    if body is None or queued.is_compressed:
        return queued
    packer, parts = zlib.compressobj(level=1), []
    for start in range(0, len(body), _PIECE):
        parts.append(packer.compress(body[start : start + _PIECE]))
        pause_if_due()
    return Queued(replace(queued.refusal, body=b"".join([*parts, packer.flush()])), is_compressed=True)
