"""The job queue of one test, and a worker whose handler the test gives."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg2
from psycopg2.extras import RealDictCursor

from app.db.connection import Database
from app.worker import job_consumer
from tests.support.action_contexts import the_settings

ENQUEUE = (
    "INSERT INTO jobs (kind, dedupe_key, payload, due_at) "
    "SELECT 'run', key, key, now() + %(after)s * interval '1 second' FROM unnest(%(keys)s::text[]) AS key"
)
_accounts = itertools.count(1_000_000)

Advance = Callable[[int, UUID, int], Awaitable[None]]


class Queue:
    """The queue of one test: jobs of an account that no other test has. `advanced` are the runs whose jobs arrived."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.account = next(_accounts)
        self.advanced: list[UUID] = []

    async def fetch(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """The rows of a query, in which `%(like)s` is all jobs of the account."""

        def run() -> list[dict[str, Any]]:
            with closing(psycopg2.connect(self.url, cursor_factory=RealDictCursor)) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(query, {"like": f"{self.account}:%", **values})
                    return [dict(row) for row in cursor] if cursor.description else []

        return await asyncio.to_thread(run)

    async def enqueue(self, count: int = 1, after: float = 0.0, job: int = 1) -> list[UUID]:
        """Enqueue a job for each of `count` new runs, due in `after` seconds."""
        runs = [uuid4() for _ in range(count)]
        await self.fetch(ENQUEUE, keys=[f"{self.account}:{run}:{job}" for run in runs], after=after)
        return runs

    async def rows(self) -> list[dict[str, Any]]:
        """The jobs that are there."""
        return await self.fetch("SELECT * FROM jobs WHERE dedupe_key LIKE %(like)s")

    async def empty(self, timeout: float = 10.0) -> None:
        """Wait until no job is there any more."""
        await until(self.rows, lambda rows: not rows, timeout)

    @asynccontextmanager
    async def worked_on(
        self, advance: Advance | None = None, *, stop: asyncio.Event | None = None, **options: Any
    ) -> AsyncIterator[asyncio.Task[None]]:
        """A worker; it ignores the jobs that other tests have left."""
        chosen = replace(
            the_settings(),
            database_url=self.url,
            worker_concurrency=options.pop("concurrency", 10),
            heartbeat_timeout=options.pop("heartbeat_timeout", 15.0),
        )

        async def mine_only(account_id: int, run_id: UUID, job: int) -> None:
            if account_id == self.account:
                self.advanced.append(run_id)
                if advance is not None:
                    await advance(account_id, run_id, job)

        database = options.pop("database", None) or Database(chosen)
        halt = stop or asyncio.Event()
        task = asyncio.create_task(
            job_consumer.work(database, chosen, {"run": (mine_only, (int, UUID, int))}, stop=halt, **options)
        )
        try:
            yield task
        finally:
            halt.set()
            await task


async def until(look: Callable[[], Awaitable[Any]], good: Callable[[Any], bool], timeout: float = 10.0) -> Any:
    """What `look` sees, once it is `good`."""
    deadline = time.monotonic() + timeout
    while not good(seen := await look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {timeout} s"
        await asyncio.sleep(0.02)
    return seen
