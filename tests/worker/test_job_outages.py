"""The job consumer while Postgres is killed, not there yet, or out of reach."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.core.errors import Unavailable
from app.db.migrate import upgrade
from tests.support.queues import Queue

# When Postgres goes away


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server of our own, to be killed. Not in pytest's own folder, which each session closes to other users."""
    with tempfile.TemporaryDirectory(prefix="signalbox-tests-") as folder:
        server = EmbeddedPostgres(Path(folder) / "data", say=lambda line: None)
        server.start()
        try:
            upgrade(server.url)
            yield server
        finally:
            server.stop(at_once=True)


def kill(server: EmbeddedPostgres) -> None:
    assert server._program is not None
    server._program.send_signal(signal.SIGKILL)
    server._program.wait(10)


def test_no_job_is_lost_when_postgres_is_killed_again_and_again(postgres: EmbeddedPostgres) -> None:
    queue = Queue(postgres.url)
    away = False

    async def advance(*_: Any) -> None:
        await asyncio.sleep(0.02)
        if away:
            raise Unavailable("Postgres is gone")

    async def scene() -> None:
        nonlocal away
        runs: list[UUID] = []
        async with queue.worked_on(advance, heartbeat_timeout=1.0) as working:
            for _ in range(4):
                runs += await queue.enqueue(40)
                await asyncio.sleep(0.05)
                away = True
                kill(postgres)
                await asyncio.sleep(0.3)
                postgres.start()
                away = False
            await queue.empty(60)
            assert not working.done()
        assert set(queue.advanced) == set(runs)

    asyncio.run(scene())


def test_jobs_that_run_through_an_outage_are_done_once(postgres: EmbeddedPostgres) -> None:
    queue = Queue(postgres.url)

    async def slowly(*_: Any) -> None:
        await asyncio.sleep(1.5)

    async def scene() -> None:
        runs = await queue.enqueue(5)
        async with queue.worked_on(slowly):
            while len(queue.advanced) < 5:
                await asyncio.sleep(0.01)
            kill(postgres)
            postgres.start()
            await queue.empty(30)
        assert sorted(queue.advanced) == sorted(runs)

    asyncio.run(scene())


def test_a_job_enqueued_during_an_outage_of_the_connection_starts_soon(postgres: EmbeddedPostgres) -> None:
    queue = Queue(postgres.url)

    async def scene() -> None:
        async with queue.worked_on():
            await queue.enqueue()
            await queue.empty()
            await queue.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'signalbox'"
            )
            began = time.monotonic()
            await queue.enqueue()
            await queue.empty()
            assert time.monotonic() - began < 3

    asyncio.run(scene())


def test_a_worker_waits_for_a_postgres_that_is_not_there_yet(postgres: EmbeddedPostgres) -> None:
    queue = Queue(postgres.url)

    async def scene() -> None:
        await queue.enqueue()
        kill(postgres)
        async with queue.worked_on() as working:
            await asyncio.sleep(0.5)
            assert not working.done()
            postgres.start()
            await queue.empty(30)

    asyncio.run(scene())


def test_a_worker_can_be_stopped_while_postgres_is_away(postgres: EmbeddedPostgres) -> None:
    queue = Queue(postgres.url)

    async def scene() -> None:
        async with queue.worked_on():
            await queue.enqueue()
            await queue.empty()
            kill(postgres)
            await asyncio.sleep(0.3)
            began = time.monotonic()
        assert time.monotonic() - began < 5

    asyncio.run(scene())
    postgres.start()


# How Postgres is found


def test_a_url_with_a_folder_of_sockets_works(postgres: EmbeddedPostgres) -> None:
    folder = Path(postgres.url.partition("host=")[2])
    assert folder.is_absolute()
    assert asyncio.run(Queue(postgres.url + "&connect_timeout=3").fetch("SELECT 1 AS one"))[0]["one"] == 1
