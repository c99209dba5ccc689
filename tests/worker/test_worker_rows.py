"""The table `workers`: each worker has a row, which says whether it is alive."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet
from structlog.testing import CapturingLogger

import app
from app.db import job_queue, workers
from app.db.connection import run_sql
from app.db.job_queue import Worker
from app.db.migrate import upgrade
from app.services.context import AppContext
from app.worker import job_consumer
from tests.support.action_contexts import the_settings
from tests.support.queues import Queue, until
from tests.support.server import clean_environment

MINE = "SELECT * FROM workers WHERE pid = %(pid)s ORDER BY started_at DESC LIMIT 1"


@pytest.fixture
def queue(database_url: str) -> Queue:
    return Queue(database_url)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """What the worker logs."""
    capturing = CapturingLogger()
    monkeypatch.setattr(job_consumer, "_log", capturing)
    return capturing


def _entries(log: CapturingLogger, message: str) -> list[dict[str, Any]]:
    return [call.kwargs for call in log.calls if call.args == (message,)]


async def _started(log: CapturingLogger) -> dict[str, Any]:
    async def look() -> list[dict[str, Any]]:
        return _entries(log, "worker started")

    (entry,) = await until(look, bool)
    return dict(entry)


def test_a_worker_has_a_row_until_it_has_stopped_and_logs_both(queue: Queue, log: CapturingLogger) -> None:
    async def last() -> dict[str, Any]:
        rows = await queue.fetch(MINE, pid=os.getpid())
        return rows[0] if rows else {}

    async def scene() -> None:
        async with queue.worked_on():
            started = await _started(log)
            row = await until(last, lambda row: str(row.get("id")) == started["worker"])
            assert (row["host"], row["version"], row["stopped_at"]) == (workers.HOST, app.__version__, None)
            assert (started["host"], started["pid"]) == (workers.HOST, os.getpid())
        assert (await last())["stopped_at"] is not None
        assert [entry["worker"] for entry in _entries(log, "worker stopped")] == [str(row["id"])]

    asyncio.run(scene())


def test_heartbeats_move_seen_at_and_keep_started_at(queue: Queue, log: CapturingLogger) -> None:
    async def scene() -> None:
        async with queue.worked_on(heartbeat_timeout=0.3):
            started = await _started(log)

            async def row() -> dict[str, Any]:
                rows = await queue.fetch("SELECT * FROM workers WHERE id = %(id)s", id=started["worker"])
                return rows[0] if rows else {}

            first = await until(row, bool)
            later = await until(row, lambda seen: seen["seen_at"] > first["seen_at"])
            assert later["started_at"] == first["started_at"]

    asyncio.run(scene())


def test_a_long_heartbeat_timeout_does_not_make_a_worker_look_dead() -> None:
    assert workers.ALIVE_WITHIN.total_seconds() > 3 * job_consumer._MAX_HEARTBEAT_PAUSE


def _alive(context: AppContext) -> int:
    with context.database.transaction() as connection:
        return workers.count_alive(connection)


def _state(context: AppContext, worker: Worker) -> str:
    """What people see."""
    ((state,),) = context.database.fetch_all("SELECT state FROM ops.workers WHERE id = %s", (str(worker.id),))
    return str(state)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("seen_at = now() - interval '15 seconds'", "running"),
        ("seen_at = now() - interval '21 seconds'", "lost"),
        ("stopped_at = now()", "stopped"),
    ],
    ids=["seen 15 s ago", "seen 21 s ago", "stopped"],
)
def test_a_worker_is_alive_if_it_has_not_stopped_and_was_seen_within_20_seconds(
    context: AppContext, change: str, state: str
) -> None:
    worker, before = Worker(["run"], lease=15.0), _alive(context)
    with context.database.autocommit_connection() as connection:
        job_queue.announce_worker(connection, worker)
        workers.record_heartbeat(connection, worker.id)
        context.database.execute(f"UPDATE workers SET {change} WHERE id = %s", (str(worker.id),))
        assert _alive(context) - before == (state == "running")
        assert _state(context, worker) == state
        connection.close()
    context.database.execute("DELETE FROM workers WHERE id = %s", (str(worker.id),))


def test_a_worker_that_is_killed_is_not_alive_although_it_was_just_seen(empty_database: str) -> None:
    upgrade(empty_database)
    context = AppContext(replace(the_settings(), database_url=empty_database))
    command = [sys.executable, "-m", "app.cli", "worker"]
    environment = clean_environment(DATABASE_URL=empty_database, ENCRYPTION_KEY=Fernet.generate_key().decode())

    async def alive() -> int:
        return _alive(context)

    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            asyncio.run(until(alive, lambda count: count == 1, timeout=60))
        finally:
            process.kill()
    context.database.execute("UPDATE workers SET seen_at = now() + interval '1 hour'", ())
    asyncio.run(until(alive, lambda count: count == 0, timeout=30))
    with context.database.transaction() as connection:
        assert [row.state for row in workers.list_workers(connection, 2)] == ["lost"]
        assert run_sql(connection, "SELECT state FROM ops.workers").scalars().all() == ["lost"]
    context.database.close()


def test_postgres_is_told_to_end_the_session_of_a_host_that_is_gone_before_its_worker_was_not_seen(
    context: AppContext,
) -> None:
    # Over the Unix socket of the tests, the settings show 0 although they are set.
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    with context.database.transaction() as connection:
        query = "SELECT name, reset_val::int FROM pg_settings WHERE name = ANY (:names)"
        found = dict(run_sql(connection, query, {"names": list(names)}).all())
    idle, interval, count, user_timeout = (found[name] for name in names)
    assert 0 < idle + interval * count < workers.ALIVE_WITHIN.total_seconds()
    assert 0 < user_timeout / 1000 < workers.ALIVE_WITHIN.total_seconds()


def test_workers_of_long_ago_are_forgotten(context: AppContext) -> None:
    with context.database.transaction() as connection:
        run_sql(
            connection,
            "INSERT INTO workers (id, host, pid, version, started_at, seen_at) VALUES "
            "(gen_random_uuid(), 'old', 1, '1', now(), now() - interval '31 days'), "
            "(gen_random_uuid(), 'young', 1, '1', now(), now() - interval '29 days')",
        )
        workers.forget_old_workers(connection, datetime.now(UTC))
        hosts = run_sql(connection, "SELECT host FROM workers WHERE host IN ('old', 'young')").scalars().all()
        run_sql(connection, "DELETE FROM workers WHERE host = 'young'")
    assert hosts == ["young"]
