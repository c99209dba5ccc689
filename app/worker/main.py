"""The worker process: consume jobs from the queue until told to stop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from app.actions import http_session
from app.core.errors import Unavailable
from app.services.context import AppContext
from app.worker import job_consumer
from app.worker.executor import RunExecutor
from app.worker.handlers import make_handlers
from app.worker.isolation import Isolation


async def work(context: AppContext, concurrency: int, stop: asyncio.Event) -> None:
    """Work on the queue's jobs until `stop` is set; survives Postgres going away."""
    threads = ThreadPoolExecutor(max_workers=min(context.settings.database_pool, 8), thread_name_prefix="postgres")
    async with http_session.open_session(context.settings) as session:
        executor = RunExecutor(context, session, threads, concurrency)
        settings = replace(context.settings, worker_concurrency=concurrency)
        handlers, isolation = make_handlers(executor), Isolation(executor.record_death, executor.give_up)
        # Workers that die one after the other may not live until the first sweep.
        with suppress(Unavailable):
            await executor.find_dead_workers()
        await job_consumer.work(
            context.database, settings, handlers, stop=stop, sweep=executor.sweep, isolation=isolation
        )
    threads.shutdown()
