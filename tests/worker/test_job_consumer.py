"""The job consumer against a real Postgres: a job leaves the queue only when its handler has returned."""

from __future__ import annotations

import asyncio
import select
import time
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core.errors import Unavailable
from app.db import job_queue
from app.db.connection import Database
from app.db.job_queue import MAX_FAILURES, Again, Job
from app.services.context import AppContext
from app.worker import job_consumer
from app.worker.executor import RunExecutor
from app.worker.handlers import make_handlers
from tests.support.action_contexts import the_settings
from tests.support.queues import ENQUEUE, Queue, until
from tests.support.run_execution import with_executor


@pytest.fixture
def queue(database_url: str) -> Queue:
    return Queue(database_url)


def test_each_kind_of_job_has_a_handler(context: AppContext) -> None:
    async def check(executor: RunExecutor) -> None:
        assert set(make_handlers(executor)) == set(job_queue.KINDS)

    with_executor(context, check)


def test_a_job_brings_account_run_and_number(queue: Queue) -> None:
    seen: list[tuple[int, UUID, int]] = []

    async def advance(*named: Any) -> None:
        seen.append(named)

    async def scene() -> None:
        (run,) = await queue.enqueue(job=17)
        async with queue.worked_on(advance):
            await queue.empty()
        assert seen == [(queue.account, run, 17)]

    asyncio.run(scene())


def test_a_claim_brings_few_jobs_and_the_next_one_follows_at_once(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_consumer, "_POLL_INTERVAL", 60.0)
    limits: list[int] = []
    exchange_jobs = job_queue.exchange_jobs

    def note(*args: Any, **options: Any) -> list[Job]:
        limits.append(options["limit"])
        return exchange_jobs(*args, **options)

    monkeypatch.setattr(job_queue, "exchange_jobs", note)
    all_run = asyncio.Event()

    async def advance(*_: Any) -> None:
        if len(queue.advanced) == 45:
            all_run.set()
        await all_run.wait()

    async def scene() -> None:
        await queue.enqueue(45)
        async with queue.worked_on(advance, concurrency=50):
            await queue.empty(30)

    asyncio.run(scene())
    assert max(limits) == 16


def test_each_of_many_jobs_arrives_once(queue: Queue) -> None:
    async def scene() -> None:
        runs = await queue.enqueue(500)
        async with queue.worked_on():
            await queue.empty(30)
        assert sorted(queue.advanced) == sorted(runs)

    asyncio.run(scene())


def test_two_workers_share_the_jobs(queue: Queue) -> None:
    async def slowly(*_: Any) -> None:
        await asyncio.sleep(0.01)

    async def scene() -> None:
        runs = await queue.enqueue(200)
        async with queue.worked_on(slowly), queue.worked_on(slowly):
            await queue.empty(30)
        assert sorted(queue.advanced) == sorted(runs)

    asyncio.run(scene())


def test_a_job_starts_soon_after_it_was_enqueued(queue: Queue) -> None:
    async def scene() -> None:
        async with queue.worked_on():
            await queue.enqueue()
            await queue.empty()
            began = time.monotonic()
            await queue.enqueue()
            while len(queue.advanced) < 2:
                await asyncio.sleep(0.001)
            assert time.monotonic() - began < 1

    asyncio.run(scene())


def test_a_job_that_is_due_later_starts_then(queue: Queue) -> None:
    async def scene() -> None:
        async with queue.worked_on():
            began = time.monotonic()
            await queue.enqueue(after=1.0)
            await queue.empty()
            assert 0.9 < time.monotonic() - began < 4

    asyncio.run(scene())


def test_no_more_jobs_run_at_once_than_allowed(queue: Queue) -> None:
    running = highest = 0

    async def advance(*_: Any) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.02)
        running -= 1

    async def scene() -> None:
        await queue.enqueue(60)
        async with queue.worked_on(advance, concurrency=6):
            await queue.empty(30)
        assert highest == 6

    asyncio.run(scene())


@pytest.mark.parametrize("exc", [Unavailable("Postgres is gone"), RuntimeError("a bug"), OSError("no network")])
def test_a_job_that_fails_is_put_back_and_done_later(queue: Queue, exc: Exception) -> None:
    async def fail_once(*_: Any) -> None:
        if len(queue.advanced) == 1:
            raise exc

    async def scene() -> None:
        (run,) = await queue.enqueue()
        async with queue.worked_on(fail_once):
            (row,) = await until(queue.rows, lambda rows: bool(rows) and rows[0]["attempts"] == 1)
            assert row["worker_id"] is None
            await queue.empty()
        assert queue.advanced == [run, run]

    asyncio.run(scene())


def test_the_job_of_a_run_that_failed_too_often_is_given_up(queue: Queue) -> None:
    given_up: list[Job] = []

    async def give_up(job: Job) -> None:
        given_up.append(job)

    async def scene() -> None:
        await queue.enqueue(after=3600)
        await queue.fetch(f"UPDATE jobs SET attempts = {MAX_FAILURES}, due_at = now() WHERE dedupe_key LIKE %(like)s")
        async with queue.worked_on(give_up=give_up):
            await queue.empty()

    asyncio.run(scene())
    assert queue.advanced == []
    assert [job.attempts for job in given_up] == [MAX_FAILURES]


def test_a_job_of_another_kind_that_failed_too_often_is_retried_each_hour() -> None:
    assert [Job(1, "event", "1:x", attempts).retry_delay for attempts in (0, 1, 49, 50, 1_000)] == [
        1,
        2,
        60,
        3_600,
        3_600,
    ]


def test_a_job_that_is_cancelled_is_put_back_and_done_later(queue: Queue) -> None:
    async def cancel_once(*_: Any) -> None:
        if len(queue.advanced) == 1:
            raise asyncio.CancelledError

    async def scene() -> None:
        (run,) = await queue.enqueue()
        async with queue.worked_on(cancel_once):
            await queue.empty()
        assert queue.advanced == [run, run]

    asyncio.run(scene())


def test_a_job_that_names_nothing_is_dropped(queue: Queue) -> None:
    async def scene() -> None:
        await queue.fetch(ENQUEUE, keys=[f"{queue.account}:nonsense", f"{queue.account}:{uuid4()}:x"], after=0.0)
        async with queue.worked_on():
            await queue.empty()
        assert queue.advanced == []

    asyncio.run(scene())


def test_one_statement_claims_jobs_and_notifies_of_those_that_failed(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(queue.enqueue(2))
    database = Database(replace(the_settings(), database_url=queue.url))
    worker = job_queue.Worker(["run"], lease=15.0)

    def fail(*_: Any) -> None:
        raise Unavailable("the connection was lost")

    monkeypatch.setattr(database, "execute", fail)
    with closing(database), closing(job_queue.JobListener(database, worker)) as listener:
        claimed = job_queue.exchange_jobs(database, worker, done=(), again={}, held=(), limit=1000)
        assert sum(job.payload.startswith(f"{queue.account}:") for job in claimed) == 2
        assert not listener.receive()
        failed = {job.id: Again(0.0) for job in claimed}
        assert job_queue.exchange_jobs(database, worker, done=(), again=failed, held=(), limit=0) == []
        assert select.select([listener], [], [], 5)[0]
        assert listener.receive()
    asyncio.run(queue.fetch("DELETE FROM jobs WHERE dedupe_key LIKE %(like)s"))


def test_stopping_waits_for_what_runs(queue: Queue) -> None:
    finished: list[bool] = []

    async def slowly(*_: Any) -> None:
        await asyncio.sleep(0.5)
        finished.append(True)

    async def scene() -> None:
        await queue.enqueue()
        async with queue.worked_on(slowly):
            while not queue.advanced:
                await asyncio.sleep(0.01)
        assert finished == [True]
        assert await queue.rows() == []

    asyncio.run(scene())


def test_stopping_takes_no_more_jobs(queue: Queue) -> None:
    stop = asyncio.Event()

    async def stop_at_once(*_: Any) -> None:
        stop.set()
        await asyncio.sleep(0.1)

    async def scene() -> None:
        await queue.enqueue(30)
        async with queue.worked_on(stop_at_once, stop=stop, concurrency=4) as working:
            await working
        assert 1 <= len(queue.advanced) <= 4
        rows = await queue.rows()
        assert len(rows) == 30 - len(queue.advanced)
        assert {row["worker_id"] for row in rows} == {None}
        await queue.fetch("DELETE FROM jobs WHERE dedupe_key LIKE %(like)s")

    asyncio.run(scene())


def test_stopping_puts_back_what_does_not_finish(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_consumer, "_FINISH_TIMEOUT", 0.3)

    async def forever(*_: Any) -> None:
        await asyncio.sleep(600)

    async def scene() -> None:
        await queue.enqueue(3)
        began = time.monotonic()
        async with queue.worked_on(forever):
            while len(queue.advanced) < 3:
                await asyncio.sleep(0.01)
        assert time.monotonic() - began < 10
        rows = await queue.rows()
        assert [row["worker_id"] for row in rows] == [None] * 3
        async with queue.worked_on():
            await queue.empty()

    asyncio.run(scene())


def test_the_job_of_a_dead_worker_is_taken_over(queue: Queue) -> None:
    async def scene() -> None:
        (run,) = await queue.enqueue(after=3600)
        await queue.fetch(
            "UPDATE jobs SET worker_id = gen_random_uuid(), due_at = now() - interval '1 minute' "
            "WHERE dedupe_key LIKE %(like)s"
        )
        async with queue.worked_on():
            await queue.empty()
        assert queue.advanced == [run]

    asyncio.run(scene())


def test_the_job_of_a_living_worker_is_left_alone(queue: Queue) -> None:
    """A job that takes much longer than its lease is not claimed by another worker."""

    async def slowly(*_: Any) -> None:
        await asyncio.sleep(3)

    async def scene() -> None:
        await queue.enqueue()
        async with queue.worked_on(slowly, heartbeat_timeout=1.0), queue.worked_on(slowly, heartbeat_timeout=1.0):
            await queue.empty()
        assert len(queue.advanced) == 1

    asyncio.run(scene())


def test_leases_are_extended_while_all_pooled_connections_are_in_use(queue: Queue) -> None:
    async def slowly(*_: Any) -> None:
        await asyncio.sleep(3)

    async def scene() -> None:
        await queue.enqueue()
        settings = replace(the_settings(), database_url=queue.url, database_pool=1)
        database = Database(settings)
        async with queue.worked_on(slowly, heartbeat_timeout=1.0, database=database):
            while not queue.advanced:
                await asyncio.sleep(0.01)
            with database.autocommit_connection():
                await asyncio.sleep(0.5)
                async with queue.worked_on(slowly, heartbeat_timeout=1.0):
                    await asyncio.sleep(1.5)
        assert len(queue.advanced) == 1

    asyncio.run(scene())


def test_leases_are_extended_again_soon_after_a_failure(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[float] = []
    extend = job_queue.extend_leases

    def fail_once(*arguments: Any) -> None:
        called.append(time.monotonic())
        if len(called) == 2:
            raise Unavailable("the connection was lost")
        extend(*arguments)

    monkeypatch.setattr(job_queue, "extend_leases", fail_once)

    async def scene() -> None:
        async with queue.worked_on(heartbeat_timeout=3.0):
            while len(called) < 3:
                await asyncio.sleep(0.01)
        assert called[2] - called[1] < 0.8

    asyncio.run(scene())


def test_a_job_that_another_worker_took_over_is_not_put_back_under_it(queue: Queue) -> None:
    async def lose_it(*_: Any) -> None:
        await queue.fetch("UPDATE jobs SET worker_id = gen_random_uuid() WHERE dedupe_key LIKE %(like)s")
        raise RuntimeError("too late")

    async def scene() -> None:
        await queue.enqueue()
        async with queue.worked_on(lose_it):
            while not queue.advanced:
                await asyncio.sleep(0.01)
        (row,) = await queue.rows()
        assert row["worker_id"] is not None
        assert row["attempts"] == 0
        await queue.fetch("DELETE FROM jobs WHERE dedupe_key LIKE %(like)s")

    asyncio.run(scene())


def test_the_sweep_is_called_again_and_again_even_when_it_fails(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_consumer, "_SWEEP_INTERVAL", 0.05)
    swept: list[float] = []

    async def sweep() -> None:
        swept.append(time.monotonic())
        raise RuntimeError("dust everywhere")

    async def scene() -> None:
        async with queue.worked_on(sweep=sweep):
            while len(swept) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(scene())


def test_a_job_that_is_done_leaves_nothing_behind(queue: Queue) -> None:
    async def scene() -> None:
        await queue.enqueue(20)
        async with queue.worked_on():
            await queue.empty()
        tables = await queue.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        )
        account = f"%{queue.account}:%"
        for table in (row["relname"] for row in tables):
            assert (
                await queue.fetch(f"SELECT 1 FROM {table} AS row WHERE row::text LIKE %(account)s", account=account)
                == []
            )

    asyncio.run(scene())
