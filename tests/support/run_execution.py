"""Executes runs without a queue: tests call what a worker would do, in the order that they need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

from app.actions import http_session
from app.db.job_queue import ERASE
from app.services import workflows
from app.services.context import AppContext
from app.worker.executor import RunExecutor
from app.worker.handlers import call_handler, make_handlers
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import HttpTarget


def start_run(context: AppContext, sender: Sender, *steps: object, **changes: object) -> str:
    """A run of a new workflow with these steps; `changes` are those of `a_workflow`."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps), **changes))
    run: str = sender.post(an_event(event=changes.get("on", "product_view"))).get_json()["runs"][0]
    return run


def fail_run(context: AppContext, sender: Sender, server: HttpTarget, **changes: object) -> str:
    """A run that has failed with its first and only attempt."""
    run = start_run(context, sender, {"http": {"url": server.url}, "retry": {"attempts": 1}}, **changes)
    assert execute_run(context, sender.account_id, run)["status"] == "failed"
    return run


def execute_run(context: AppContext, account_id: int, run_id: str, job: int = 1) -> dict[str, Any]:
    """Advance a run by one job; returns the run's row afterwards."""
    with_executor(context, lambda executor: executor.advance(account_id, UUID(run_id), job))
    return the_run(context, account_id, run_id)


def wake(context: AppContext, account_id: int, event_id: str) -> None:
    """Do an event's job: advance and end the runs that it concerns."""
    with_executor(context, lambda executor: executor.wake(account_id, UUID(event_id)))


def with_executor(
    context: AppContext, job: Callable[[RunExecutor], Coroutine[Any, Any, None]], *, alone: bool = False
) -> None:
    """Run `job` with one executor, whose circuit breakers last until it ends."""

    async def once() -> None:
        with ThreadPoolExecutor(1) as threads:
            async with http_session.open_session(context.settings) as session:
                await job(RunExecutor(context, session, threads, alone=alone))

    asyncio.run(once())


def the_run(context: AppContext, account_id: int, run_id: str) -> dict[str, Any]:
    """The row of a run."""
    with context.database.transaction() as connection:
        row = connection.exec_driver_sql(
            "SELECT * FROM runs WHERE account_id = %(account)s AND id = %(run)s", {"account": account_id, "run": run_id}
        )
        return dict(row.mappings().one())


def rows_of(context: AppContext, table: str, account_id: int, run_id: str) -> list[dict[str, Any]]:
    """The run's rows in `steps` or `attempts`, in order."""
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            f"SELECT * FROM {table} WHERE account_id = %(account)s AND run_id = %(run)s ORDER BY ordinal, finished_at",
            {"account": account_id, "run": run_id},
        )
        return [dict(row) for row in found.mappings()]


def jobs_of(context: AppContext, run_id: str) -> list[str]:
    """The names of the queue's jobs for a run."""
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT dedupe_key FROM jobs WHERE dedupe_key LIKE %(like)s ORDER BY id", {"like": f"%{run_id}%"}
        )
        return [row[0] for row in found]


def erase_requested(context: AppContext, account_id: int) -> None:
    """Do all erasures of an account that were requested, as a worker does."""
    while jobs := _erasures(context, account_id):
        for job_id, payload in jobs:
            with_executor(context, partial(_erase, payload))
            with context.database.transaction() as connection:
                connection.exec_driver_sql("DELETE FROM jobs WHERE id = %(id)s", {"id": job_id})


async def _erase(payload: str, executor: RunExecutor) -> None:
    await call_handler(make_handlers(executor), ERASE, payload)


def _erasures(context: AppContext, account_id: int) -> list[Any]:
    with context.database.transaction() as connection:
        query = "SELECT id, payload FROM jobs WHERE kind = 'erase' AND payload LIKE %(like)s"
        return connection.exec_driver_sql(query, {"like": f"{account_id}:%"}).all()
