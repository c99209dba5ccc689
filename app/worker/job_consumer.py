"""Consumes the job queue: claims jobs that are due, runs their handlers, and deletes or reschedules the jobs.

Only a handler that returns deletes its job. When it raises or is cancelled, the job is due again after a pause. A claim is a
lease of HEARTBEAT_TIMEOUT seconds, extended while the job runs: when a worker dies, its leases expire and other workers claim
its jobs.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from typing import TypeVar

import structlog

import app
from app.core.config import Settings, SettingsError
from app.core.errors import Unavailable
from app.core.log_config import describe_exception
from app.db import job_queue, workers
from app.db.connection import Database
from app.db.job_queue import ISOLATED_AFTER, MAX_FAILURES, RUN, Again, Job
from app.worker.fair_queueing import FairQueue
from app.worker.handlers import Handlers, call_handler
from app.worker.isolation import Isolation, NeedsIsolation, NotDone

T = TypeVar("T")

# Seconds.
_POLL_INTERVAL = 5.0
_MIN_POLL_INTERVAL = 0.1
# Between two claims, so that one statement claims and deletes several jobs when there are many.
_MIN_CLAIM_INTERVAL = 0.005
# Jobs that one claim brings. They begin together, and the jobs that run wait meanwhile.
_MAX_CLAIM = 16
_SWEEP_INTERVAL = 10.0
_FINISH_TIMEOUT = 25.0
_LEAVE_TIMEOUT = 5.0
_MAX_EXTEND_RETRY_DELAY = 1.0
# A worker that was not seen for 20 seconds (`workers.ALIVE_WITHIN`) does not count as alive.
_MAX_HEARTBEAT_PAUSE = 5.0
# Between two jobs that are executed while the worker has no other, and how long it waits for its other jobs to end.
_EXCLUSIVE_PAUSE, _MAX_EXCLUSIVE_WAIT = 60.0, 30.0
_MAX_PRESENCE_WAIT = 2.0
_MIN_RECONNECT_DELAY, _MAX_RECONNECT_DELAY = 0.1, 2.0
_log = structlog.get_logger()


async def work(
    database: Database,
    settings: Settings,
    handlers: Handlers,
    *,
    stop: asyncio.Event,
    sweep: Callable[[], Awaitable[None]] | None = None,
    isolation: Isolation | None = None,
    give_up: Callable[[Job], Awaitable[None]] | None = None,
    rng: random.Random | None = None,
) -> None:
    """Run `settings.worker_concurrency` jobs at a time until `stop` is set; then let them finish for at most 25 s.

    `handlers` has a function for each kind of job, and the parsers of its arguments. When the function raises, the job is
    due again after a second, doubled with each attempt, at most a minute. `give_up` ends the job of a run that has failed
    MAX_FAILURES times. `sweep` is called about every ten seconds. `isolation` executes the jobs that may have killed workers.
    Retries until Postgres is available.
    """
    rng = rng or random.Random()
    consumer = _Consumer(database, settings, handlers, isolation, give_up, rng)
    background = [asyncio.create_task(consumer.listen()), asyncio.create_task(consumer.extend_leases())]
    sweeping = asyncio.create_task(_sweep_periodically(sweep, stop, rng)) if sweep else None
    try:
        await consumer.claim_until(stop)
        await consumer.finish()
    finally:
        for task in background:
            task.cancel()
        await asyncio.wait([*background, *([sweeping] if sweeping else [])], timeout=_LEAVE_TIMEOUT)
        if isolation is not None:
            await isolation.close()
        consumer.close()


class _Consumer:
    """One worker's jobs: those that run, and those that have ended but are not yet deleted or rescheduled."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        handlers: Handlers,
        isolation: Isolation | None,
        give_up: Callable[[Job], Awaitable[None]] | None,
        rng: random.Random,
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._isolation = isolation
        self._give_up = give_up
        self._rng = rng
        self._concurrency = settings.worker_concurrency
        self._worker = job_queue.Worker(list(handlers), lease=settings.heartbeat_timeout)
        _log.info(
            "worker started",
            worker=str(self._worker.id),
            host=workers.HOST,
            pid=os.getpid(),
            version=app.__version__,
            concurrency=self._concurrency,
        )
        self._fair_queue = FairQueue(database)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._done: set[int] = set()
        self._again: dict[int, Again] = {}
        self._wakeup = asyncio.Event()
        self._is_present = asyncio.Event()
        # A job that is executed while the worker has no other.
        self._has_exclusive = False
        self._next_exclusive = time.monotonic() + _EXCLUSIVE_PAUSE
        # One each to claim, to listen and to extend leases, so that none waits for another.
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="queue")

    async def claim_until(self, stop: asyncio.Event) -> None:
        """Claim and start jobs until `stop` is set."""
        stopping = asyncio.create_task(self._wake_on(stop))
        # Other workers take a worker for dead that has jobs and is not announced.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_present.wait(), _MAX_PRESENCE_WAIT)
        delay, available = _MIN_RECONNECT_DELAY, True
        while not stop.is_set():
            self._wakeup.clear()
            try:
                timeout = await self._exchange(self._free_slots())
            except Exception as exc:
                if available:
                    _log.warning("the job queue is unavailable; retrying until it is", error=describe_exception(exc))
                available = False
                await _sleep(stop, delay * self._rng.uniform(0.5, 1.0))
                delay = min(delay * 2, _MAX_RECONNECT_DELAY)
                continue
            if not available:
                _log.info("the job queue is available again")
            delay, available = _MIN_RECONNECT_DELAY, True
            await asyncio.sleep(_MIN_CLAIM_INTERVAL)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wakeup.wait(), timeout)
        stopping.cancel()

    async def finish(self) -> None:
        """Let the running jobs end, at most 25 s, and give back those that do not."""
        # They may end while the stop is announced.
        if running := list(self._running.values()):
            await self._announce_stop()
            await asyncio.wait(running, timeout=_FINISH_TIMEOUT)
        if self._running:
            _log.warning("jobs did not finish in time and go back to the queue", jobs=len(self._running))
            for task in self._running.values():
                task.cancel()
            await asyncio.wait(self._running.values(), timeout=_LEAVE_TIMEOUT)
        try:
            await asyncio.wait_for(self._exchange(0), _LEAVE_TIMEOUT)
        except Exception as exc:
            _log.warning("ended jobs stay in the queue until their leases expire", error=describe_exception(exc))
        await self._record_stop()

    async def _record_stop(self) -> None:
        try:
            await asyncio.wait_for(
                self._call(partial(workers.record_stop, self._database, self._worker.id)), _LEAVE_TIMEOUT
            )
        except Exception as exc:
            _log.warning("the table of workers does not know that this one has stopped", error=describe_exception(exc))
        _log.info("worker stopped", worker=str(self._worker.id), host=workers.HOST, pid=os.getpid())

    async def _announce_stop(self) -> None:
        """Mark the jobs: if this worker is killed before they have ended, they are not the cause."""
        mark = partial(job_queue.mark_claims, self._database, self._worker, self._held(), "stopping")
        try:
            await asyncio.wait_for(self._call(mark), _LEAVE_TIMEOUT)
        except Exception as exc:
            _log.warning("the queue does not know that this worker stops", error=describe_exception(exc))

    async def listen(self) -> None:
        """Claim at once when jobs are added, and when the connection that says so was lost."""
        while True:
            try:
                connect = partial(job_queue.JobListener, self._database, self._worker)
                with closing(await self._call(connect)) as listener:
                    self._wakeup.set()
                    await self._receive(listener)
            except Exception as exc:
                _log.debug("the connection that is notified of jobs was lost", error=describe_exception(exc))
            await asyncio.sleep(_MIN_RECONNECT_DELAY * self._rng.uniform(1.0, 5.0))

    async def extend_leases(self) -> None:
        """The heartbeat: extend the leases of all held jobs three times within HEARTBEAT_TIMEOUT, sooner after a failure, and
        record that this worker is alive.

        The connection is dedicated: the pooled ones may all be in use by handlers.
        """
        while True:
            connection = None
            try:
                connection = await self._call(self._database.dedicated_connection)
                await self._call(partial(job_queue.announce_worker, connection, self._worker))
                while True:
                    await self._call(partial(job_queue.extend_leases, connection, self._worker, self._held()))
                    await self._call(partial(workers.record_heartbeat, connection, self._worker.id))
                    self._is_present.set()
                    await asyncio.sleep(min(self._worker.lease / 3, _MAX_HEARTBEAT_PAUSE))
            except Exception as exc:
                _log.warning("the leases of running jobs were not extended", error=describe_exception(exc))
            finally:
                if connection is not None:
                    # In a thread, because closing waits for a statement that still runs.
                    self._threads.submit(connection.close)
            await asyncio.sleep(min(_MAX_EXTEND_RETRY_DELAY, self._worker.lease / 10))

    def close(self) -> None:
        """End the threads once their queries have ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _exchange(self, free: int) -> float:
        """Report the jobs that have ended and claim others for `free` slots; seconds until the next ones can be due."""
        limit = min(free, _MAX_CLAIM)
        done, again = list(self._done), dict(self._again)
        if limit or done or again:
            preferred = await self._call(partial(self._fair_queue.next_accounts, limit))
            exchange = partial(
                job_queue.exchange_jobs,
                self._database,
                self._worker,
                done=done,
                again=again,
                held=self._held(),
                limit=limit,
                preferred=preferred,
            )
            claimed = await self._call(exchange)
            self._fair_queue.note_claim(claimed, limit)
            self._done.difference_update(done)
            for job_id in again:
                del self._again[job_id]
            for job in claimed:
                self._running[job.id] = asyncio.create_task(self._run(job))
            if len(claimed) < limit:
                due_in = await self._call(partial(job_queue.due_in, self._database, self._worker, self._held()))
                return min(max(due_in, _MIN_POLL_INTERVAL), _POLL_INTERVAL)
        return 0.0 if limit < free else _POLL_INTERVAL

    def _free_slots(self) -> int:
        """How many jobs may be claimed. Those in the other process, or that wait for it, take no slots."""
        if self._has_exclusive:
            return 0
        return self._concurrency - len(self._running) + (len(self._isolation.admitted) if self._isolation else 0)

    async def _run(self, job: Job) -> None:
        try:
            await self._handle(job)
        except NotDone as exc:
            self._again[job.id] = exc.again
            log = _log.warning if exc.again.is_failure else _log.debug
            log("a job is due again", kind=job.kind, payload=job.ids, error=str(exc)[:200])
        except asyncio.CancelledError:
            self._again[job.id] = Again(0.0, is_failure=False)
        except Exception as exc:
            self._again[job.id] = Again(self._retry_delay(job, exc))
        else:
            self._done.add(job.id)
        finally:
            del self._running[job.id]
            self._wakeup.set()

    async def _handle(self, job: Job) -> None:
        if self._give_up is not None and job.kind == RUN and job.attempts >= MAX_FAILURES:
            await self._give_up(job)
        elif self._isolation is None:
            await call_handler(self._handlers, job.kind, job.payload)
        elif job.deaths > ISOLATED_AFTER:
            await self._execute_exclusively(self._isolation, job)
        elif job.deaths == ISOLATED_AFTER or job.deaths_alone:
            await self._isolation.execute(job)
        else:
            try:
                await call_handler(self._handlers, job.kind, job.payload)
            except NeedsIsolation as exc:
                await self._isolation.execute(job, is_suspected_only=not exc.is_proven)

    async def _execute_exclusively(self, isolation: Isolation, job: Job) -> None:
        """Execute a job alone and without any other job in this worker. Takes at most a tenth of the worker's time."""
        remaining = self._next_exclusive - time.monotonic()
        if self._has_exclusive or remaining > 0:
            pause = max(_EXCLUSIVE_PAUSE, remaining) * self._rng.uniform(1.0, 1.5)
            raise NotDone("it is executed without other jobs later", Again(pause, is_failure=False))
        self._has_exclusive, began = True, time.monotonic()
        try:
            await self._wait_for_others(job)
            await self._call(partial(job_queue.mark_claims, self._database, self._worker, [job.id], "alone"))
            await isolation.execute(job)
        finally:
            self._has_exclusive = False
            ended = time.monotonic()
            self._next_exclusive = ended + max(_EXCLUSIVE_PAUSE, 10 * (ended - began))

    async def _wait_for_others(self, job: Job) -> None:
        others = [task for job_id, task in self._running.items() if job_id != job.id]
        if others and (await asyncio.wait(others, timeout=_MAX_EXCLUSIVE_WAIT))[1]:
            raise NotDone("the worker's other jobs take too long", Again(_EXCLUSIVE_PAUSE, is_failure=False))

    def _retry_delay(self, job: Job, exc: Exception) -> float:
        delay = job.retry_delay * self._rng.uniform(0.5, 1.0)
        expected = isinstance(exc, Unavailable | SettingsError)
        log = _log.warning if expected else partial(_log.error, exc_info=exc)
        error, payload = describe_exception(exc), job.ids
        log("a job failed", kind=job.kind, payload=payload, error=error, retry_in=round(delay, 1))
        return delay

    def _held(self) -> list[int]:
        return [*self._running, *self._done, *self._again]

    async def _receive(self, listener: job_queue.JobListener) -> None:
        """Wake up at each notification; raises Unavailable when the connection is lost."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(listener.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                if listener.receive():
                    self._wakeup.set()
        finally:
            loop.remove_reader(listener.fileno())

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wakeup.set()

    async def _call(self, query: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, query)


async def _sweep_periodically(sweep: Callable[[], Awaitable[None]], stop: asyncio.Event, rng: random.Random) -> None:
    while True:
        await _sleep(stop, _SWEEP_INTERVAL * rng.uniform(0.8, 1.2))
        if stop.is_set():
            return
        try:
            await sweep()
        except Exception as exc:
            _log.warning("the sweep failed; the next one tries again", error=describe_exception(exc))


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
