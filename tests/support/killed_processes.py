"""A worker that kills itself (SIGKILL) at a chosen point of a chosen step.

Run as `python -m tests.support.killed_processes`, with orders on standard input.

Each order is a JSON line `{"account", "run", "job", "point", "ordinal"}`. It is executed in a fork of this process, which
then prints the number of the signal that ended the fork, or 0. With `point` null the fork is not killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from app.actions import http_session
from app.core import config
from app.core.models import Run
from app.db.run_updates import RunUpdate
from app.services.context import AppContext
from app.worker.executor import RunExecutor

POINTS = ("before step", "after step", "before write", "after write")


class DyingExecutor(RunExecutor):
    """Kills the whole process at its point."""

    order: dict[str, Any]

    def _maybe_die(self, point: str, run: Run) -> None:
        if self.order["point"] == point and self.order["ordinal"] == run.ordinal:
            os.kill(os.getpid(), signal.SIGKILL)

    async def _execute_step(self, run: Run) -> RunUpdate:
        self._maybe_die("before step", run)
        update = await super()._execute_step(run)
        self._maybe_die("after step", run)
        return update

    async def _write(self, run: Run, update: RunUpdate) -> bool:
        self._maybe_die("before write", run)
        written_at = await super()._write(run, update)
        self._maybe_die("after write", run)
        return written_at


async def _execute(order: dict[str, Any]) -> None:
    context = AppContext(config.from_environment())
    with ThreadPoolExecutor(1) as threads:
        async with http_session.open_session(context.settings) as session:
            executor = DyingExecutor(context, session, threads)
            executor.order = order
            await executor.advance(order["account"], UUID(order["run"]), order["job"])


def main() -> None:
    """Execute orders until there are no more."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(_execute(json.loads(line)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status) * -1, flush=True)


if __name__ == "__main__":
    main()
