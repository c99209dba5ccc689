"""The table `workers`: each worker has a row, which says whether it is alive."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import CapturingLogger

import app
from app.db import workers
from app.db.connection import run_sql
from app.services.context import AppContext
from app.worker import job_consumer
from tests.support.queues import Queue, until

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
        rows = await queue.ask(MINE, pid=os.getpid())
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
                rows = await queue.ask("SELECT * FROM workers WHERE id = %(id)s", id=started["worker"])
                return rows[0] if rows else {}

            first = await until(row, bool)
            later = await until(row, lambda seen: seen["seen_at"] > first["seen_at"])
            assert later["started_at"] == first["started_at"]

    asyncio.run(scene())


def test_a_long_heartbeat_timeout_does_not_make_a_worker_look_dead() -> None:
    assert workers.ALIVE_WITHIN.total_seconds() > 3 * job_consumer._MAX_HEARTBEAT_PAUSE


def test_workers_that_have_stopped_or_were_not_seen_for_a_minute_are_not_alive(context: AppContext) -> None:
    with context.database.transaction() as connection:
        run_sql(connection, "DELETE FROM workers")
        run_sql(
            connection,
            "INSERT INTO workers (id, host, pid, version, started_at, seen_at, stopped_at) VALUES "
            "(gen_random_uuid(), 'h', 1, '1', now(), now() - interval '50 seconds', NULL), "
            "(gen_random_uuid(), 'h', 1, '1', now(), now(), now()), "
            "(gen_random_uuid(), 'h', 1, '1', now(), now() - interval '61 seconds', NULL)",
        )
        assert workers.count_alive(connection) == 1
        run_sql(connection, "DELETE FROM workers")


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
