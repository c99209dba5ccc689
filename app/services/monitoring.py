"""Keeps the gauges of /metrics up to date, and logs when a check begins or ceases to fail.

No scrape queries the database: a thread of each web process and worker does, every INTERVAL seconds.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

import app
from app.core import metrics
from app.core.errors import Unavailable
from app.core.log_config import describe_exception
from app.db import job_queue, partitions, workers
from app.services import accounts, targets
from app.services.context import AppContext
from app.services.readiness import NAMES, Readiness, Report

# Seconds between two rounds, and between two readings of what changes slowly.
INTERVAL, SLOW_INTERVAL = 5.0, 15.0
_log = structlog.get_logger()


class Monitor:
    """The gauges of one process, and the checks that `/readyz` shows."""

    def __init__(self, context: AppContext, check_redis: Callable[[], str] | None = None) -> None:
        self.readiness = Readiness(context, check_redis)
        self._context = context
        self._lock = threading.Lock()
        self._failing: dict[str, str] = {}
        self._read_at = self._refreshed_at = float("-inf")
        self._is_running = False
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            is_running, self._is_running = self._is_running, True
        if not is_running:
            threading.Thread(target=self._run, name="monitor", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self.readiness.database.close()

    def refresh_without_thread(self) -> None:
        """Refresh if the process has no thread for it (under other servers than gunicorn) and did so INTERVAL seconds ago."""
        with self._lock:
            now = time.monotonic()
            if self._is_running or now - self._refreshed_at < INTERVAL:
                return
            self._refreshed_at = now
        self.refresh()

    def _run(self) -> None:
        # The first round is not at once: under `make run` a web process starts before its database is migrated.
        while not self._stop.wait(INTERVAL):
            try:
                self.refresh()
            except Exception as exc:
                _log.error("the gauges of /metrics were not updated", error=describe_exception(exc))

    def refresh(self, *, slow_interval: float = SLOW_INTERVAL) -> None:
        """Make the checks, log what has changed and set the gauges; those that change slowly every `slow_interval` seconds."""
        report = self.readiness.check(max_age=INTERVAL / 2)
        self._log_changes(report)
        failing = {check.name for check in report.failing}
        metrics.can_store.set(report.can_store)
        for name in NAMES:
            metrics.check_failing.labels(name).set(name in failing)
        for pool, (used, size) in self._context.database.pool_use().items():
            metrics.connections_in_use.labels(pool).set(used)
            metrics.connections_max.labels(pool).set(size)
        metrics.build.labels(app.__version__, platform.python_version()).set(1)
        if failing.isdisjoint(("postgres", "migrations")):
            # Without the database these gauges keep their values.
            with suppress(Unavailable):
                self._read_queue()
                if time.monotonic() - self._read_at >= slow_interval:
                    self._read_slow()
                    self._read_at = time.monotonic()

    def _log_changes(self, report: Report) -> None:
        """One entry when a check begins or ceases to fail."""
        failing = {check.name: check.detail for check in report.failing}
        if failing.keys() == self._failing.keys():
            return
        recovered = sorted(self._failing.keys() - failing.keys())
        self._failing = failing
        if not failing:
            _log.info("all checks of /readyz pass again", recovered=recovered)
        elif report.can_store:
            _log.warning("degraded: checks of /readyz fail", failing=failing)
        else:
            _log.error("events cannot be stored: checks of /readyz fail", failing=failing)

    def _read_queue(self) -> None:
        with self.readiness.database.transaction() as connection:
            metrics.workers_alive.set(workers.count_alive(connection))
            due = job_queue.count_due_jobs(connection)
        for kind in job_queue.KINDS:
            number, lateness = due.get(kind, (0, 0.0))
            metrics.jobs_due.labels(kind).set(number)
            metrics.job_lateness.labels(kind).set(lateness)

    def _read_slow(self) -> None:
        with self._context.database.transaction() as connection:
            ahead = partitions.count_months_ahead(connection, self._context.clock())
        metrics.partitions_ahead.set(ahead)
        open_circuits, runs_held = targets.count_open_circuits(self._context)
        metrics.open_circuits.set(open_circuits)
        metrics.runs_held.set(runs_held)
        plans_ending, plans_ended = accounts.count_ending_plans(self._context)
        metrics.plans_ending.set(plans_ending)
        metrics.plans_ended.set(plans_ended)
