"""The worker process: consume jobs from the queue until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

import prometheus_client
from prometheus_client import multiprocess

from app.actions import http_session
from app.core.config import Settings, SettingsError
from app.core.errors import NotMigrated, Unavailable
from app.services import startup_checks
from app.services.context import AppContext
from app.services.monitoring import Monitor
from app.worker import job_consumer
from app.worker.db_retry import RetryUntilAvailable
from app.worker.executor import RunExecutor
from app.worker.handlers import make_handlers
from app.worker.housekeeping import retention_at_work
from app.worker.isolation import Isolation

# Seconds after which a thread that renders gives the interpreter lock to one that waits for it. With Python's 5 ms, a long
# rendering delays every query and every call of the worker by as much.
_SWITCH_INTERVAL = 0.000_5


async def _settings_fit(context: AppContext, threads: ThreadPoolExecutor, stop: asyncio.Event) -> bool:
    """Check the settings as soon as Postgres is available; False when it was stopped before. Raises SettingsError."""

    def check() -> None:
        context.secrets.check_key()
        try:
            startup_checks.check_settings(context)
        except NotMigrated as exc:
            raise SettingsError(f"the database is not up to date, run `signalbox migrate` ({exc})") from None

    checking = asyncio.create_task(RetryUntilAvailable(threads, random.Random()).run(check))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((checking, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not checking.done():
        checking.cancel()
        return False
    checking.result()
    return True


async def work(context: AppContext, concurrency: int, stop: asyncio.Event) -> None:
    """Work on the queue's jobs until `stop` is set; survives Postgres going away. Raises SettingsError at the start."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    threads = ThreadPoolExecutor(max_workers=min(context.settings.database_pool, 8), thread_name_prefix="postgres")
    async with http_session.open_session(context.settings) as session:
        executor = RunExecutor(context, session, threads, concurrency)
        settings = replace(context.settings, worker_concurrency=concurrency)
        handlers, isolation = make_handlers(executor), Isolation(executor.record_death, executor.give_up)
        with _serve_metrics(context.settings):
            if not await _settings_fit(context, threads, stop):
                return
            # Workers that die one after the other may not live until the first sweep.
            with suppress(Unavailable):
                await executor.find_dead_workers()
            with _monitored(context), retention_at_work(context):
                await job_consumer.work(
                    context.database,
                    settings,
                    handlers,
                    stop=stop,
                    sweep=executor.sweep,
                    isolation=isolation,
                    give_up=executor.give_up,
                )
    threads.shutdown()


@contextmanager
def _serve_metrics(settings: Settings) -> Iterator[None]:
    """Serve /metrics of this process at WORKER_METRICS_PORT, if it is set, in threads of their own. Raises SettingsError."""
    if settings.worker_metrics_port is None:
        yield
        return
    host, port = settings.worker_metrics_host, settings.worker_metrics_port
    try:
        server, _ = prometheus_client.start_http_server(port, host)
    except OSError as exc:
        raise SettingsError(f"WORKER_METRICS_PORT={port} cannot be used on {host}: {exc.strerror}") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _monitored(context: AppContext) -> Iterator[None]:
    monitor = Monitor(context)
    monitor.start()
    try:
        yield
    finally:
        monitor.stop()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
