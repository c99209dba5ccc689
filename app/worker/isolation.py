"""Executes a job alone, in a process of its own, since workers died while they executed it, and the job may be the cause.

1. After ISOLATED_AFTER deaths of its worker a job is executed by a child process of the worker, which executes one job at a time.
   The same holds for all jobs of a workflow when that many workers died while they executed its runs, until one of these runs
   has been executed alone; and for an hour after a run of the workflow has killed its child process.
2. The death of the child ends no other job. After MAX_DEATHS_ALONE deaths of the child the run fails; jobs of other kinds pause.
3. If the worker dies together with its child (an out-of-memory killer may end whole containers), the cause is again unknown. The
   next worker finishes its other jobs before it executes this one, so that another death concerns this job only.

The child has at most one job of an account at a time; further ones go back to the queue. A job that was only executed at the
same time as the one that killed the worker ends in the child, and its counts are deleted with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from app.db.job_queue import Again, Job

MAX_DEATHS_ALONE = 3
# The command of the child process, `isolated_process.py`.
COMMAND = (sys.executable, "-m", "app.worker.isolated_process")

_MAX_ADMITTED = 8
# Seconds.
_IDLE_TIMEOUT = 30.0
_START_TIMEOUT = 60.0
_MAX_EXIT_TIME = 5.0
_ASSUMED_DURATION, _MAX_PAUSE = 1.0, 600.0
# Bytes of one answer of the child.
_MAX_ANSWER = 64 * 1024
_ROOT = Path(__file__).resolve().parents[2]
_log = structlog.get_logger()


class NeedsIsolation(Exception):
    """The run has to be executed alone. `is_proven`: a run of its workflow has killed its process, or its step needs much work,
    so that this will not change soon."""

    def __init__(self, *, is_proven: bool) -> None:
        super().__init__("the run has to be executed alone")
        self.is_proven = is_proven


class TimeSliceOver(Exception):
    """The run was executed alone for long enough; it continues when the next job of its account is executed."""


class NotDone(Exception):
    """The job is due again, as `again` says."""

    def __init__(self, message: str, again: Again) -> None:
        super().__init__(message)
        self.again = again


class Isolation:
    """The child process of one worker, which executes one job at a time. It starts with the first job and ends when idle.

    `on_death` is called when it has died while it executed a job, `give_up` for a job at which that has happened too often.
    """

    def __init__(
        self,
        on_death: Callable[[Job], Awaitable[None]],
        give_up: Callable[[Job], Awaitable[None]],
        *,
        command: Sequence[str] = COMMAND,
        rng: random.Random | None = None,
    ) -> None:
        self._on_death, self._give_up = on_death, give_up
        self._command = command
        self._rng = rng or random.Random()
        self._process: Process | None = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.Task[None] | None = None
        self._duration = _ASSUMED_DURATION
        self._next_at: dict[str, float] = {}
        # The accounts whose jobs are executed or wait to be.
        self.admitted: set[str] = set()

    async def execute(self, job: Job, *, is_suspected_only: bool = False) -> None:
        """Execute a job alone. Raises NotDone when its account already has one here, its handler has failed, or its process
        has died. `is_suspected_only`: the job's workflow may be cleared soon, so that a job that has to wait comes back soon."""
        if job.deaths_alone >= MAX_DEATHS_ALONE:
            await self._give_up(job)
            return
        if job.account in self.admitted or len(self.admitted) >= _MAX_ADMITTED:
            pause = self._rng.uniform(1.0, 3.0) if is_suspected_only else self._schedule(job.account)
            raise NotDone("other jobs are executed alone before", Again(pause, is_failure=False))
        self.admitted.add(job.account)
        try:
            async with self._lock:
                began = time.monotonic()
                try:
                    await self._execute(job)
                finally:
                    self._duration = 0.7 * self._duration + 0.3 * (time.monotonic() - began)
        finally:
            self.admitted.discard(job.account)

    def _schedule(self, account: str) -> float:
        """Seconds until the account's next job should come back: one after the other, as fast as jobs are executed."""
        now = time.monotonic()
        self._next_at = {each: at for each, at in self._next_at.items() if at > now}
        self._next_at[account] = self._next_at.get(account, now) + self._duration
        return min(_MAX_PAUSE, max(1.0, self._next_at[account] - now)) * self._rng.uniform(0.7, 1.0)

    async def _execute(self, job: Job) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        process = self._process or await self._start()
        is_answered = False
        try:
            answer = await self._exchange(process, job)
            is_answered = answer is not None
        finally:
            if not is_answered:
                self._process = None
                code = await _kill(process)
        self._idle = asyncio.create_task(self._close_when_idle())
        if answer is None:
            reason = _exit_reason(code)
            await self._on_death(job)
            _log.error("a process died while it executed one job alone", job=job.ids, kind=job.kind, reason=reason)
            raise NotDone(f"its process died ({reason})", Again(job.retry_delay, died=True))
        if answer.get("error") is not None:
            raise NotDone(str(answer["error"]), Again(job.retry_delay))
        if answer.get("is_over") is False:
            raise NotDone("its time slice is over", Again(0.0, is_failure=False))

    async def _start(self) -> Process:
        """Start a child; returns when it is ready. A child that does not start is no death of the job."""
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, limit=_MAX_ANSWER, env={**os.environ, "PYTHONPATH": path}
        )
        try:
            ready = await asyncio.wait_for(_read(process), _START_TIMEOUT)
        except BaseException:
            await _kill(process)
            raise
        if ready is None:
            reason = _exit_reason(await _kill(process))
            raise NotDone(f"the process for jobs that are executed alone did not start ({reason})", Again(10.0))
        self._process = process
        return process

    async def _exchange(self, process: Process, job: Job) -> dict[str, object] | None:
        """The child's answer; None when it has died."""
        assert process.stdin is not None
        with suppress(ConnectionError):
            process.stdin.write(json.dumps({"kind": job.kind, "payload": job.payload}).encode() + b"\n")
            await process.stdin.drain()
        return await _read(process)

    async def _close_when_idle(self) -> None:
        await asyncio.sleep(_IDLE_TIMEOUT)
        self._idle = None
        await self.close()

    async def close(self) -> None:
        """End the child."""
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is not None:
            await _kill(process)


async def _kill(process: Process) -> int:
    """End a process that has nothing to do, or has died; its exit code."""
    if process.stdout is not None and process.stdout.at_eof():
        # It is about to exit: its own exit code says why.
        with suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), _MAX_EXIT_TIME)
    with suppress(ProcessLookupError):
        process.kill()
    return await process.wait()


async def _read(process: Process) -> dict[str, object] | None:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        return None
    answer: dict[str, object] = json.loads(line)
    return answer


def _exit_reason(code: int) -> str:
    """`exit code 3` or `SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
