"""The worker process: consume jobs from the queue until told to stop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

from app.actions import http_session
from app.db import match_state
from app.services.context import AppContext
from app.worker import job_consumer
from app.worker.executor import RunExecutor


async def work(context: AppContext, concurrency: int, stop: asyncio.Event) -> None:
    """Work on the queue's jobs until `stop` is set; survives Postgres going away."""
    threads = ThreadPoolExecutor(max_workers=min(context.settings.database_pool, 8), thread_name_prefix="postgres")
    async with http_session.open_session(context.settings) as session:
        executor = RunExecutor(context, session, threads, concurrency)
        settings = replace(context.settings, worker_concurrency=concurrency)
        handlers: job_consumer.Handlers = {
            "run": (executor.advance, (int, UUID, int)),
            "event": (executor.wake, (int, UUID)),
            "deadline": (executor.fire_deadline, (int, UUID, match_state.subject_of_payload)),
        }
        await job_consumer.work(context.database, settings, handlers, stop=stop, sweep=executor.sweep)
    threads.shutdown()
