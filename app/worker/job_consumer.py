"""The worker: takes jobs from the queue in Postgres and lets the caller carry them out.

Comes in: a kind and a payload for each job, such as `run` and `ACCOUNT:RUN:JOB`. A job leaves the queue when what carries
it out has returned, and in no other way. PgQueuer by itself deletes a job that failed, was cancelled, or could not be put
back; `_Queue` stands between, so that all of these put the job back, due again after a pause. A worker that dies leaves
its jobs picked; once their heartbeats are older than HEARTBEAT_TIMEOUT any other worker takes them.
"""

from __future__ import annotations

import asyncio
import random as chance
from collections.abc import Awaitable, Callable, Sized
from contextlib import suppress
from datetime import timedelta
from functools import partial

import structlog
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job, TracebackRecord
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import JOB_STATUS, Channel, QueueEntrypoint, QueueManagerId
from pgqueuer.ports.repository import EntrypointExecutionParameter

from app.core.config import Settings
from app.core.errors import Unavailable
from app.worker.queue_connection import LastingConnection, something_changed

# How to read the parts of a payload, which colons separate.
Parts = tuple[Callable[[str], object], ...]
Carriers = dict[str, tuple[Callable[..., Awaitable[None]], Parts]]

# Named here one by one: PgQueuer would take them from variables as common as CHANNEL or FUNCTION.
QUEUE = DBSettings(
    prefix="",
    db_schema=None,
    channel=Channel("ch_pgqueuer"),
    function="fn_pgqueuer_changed",
    statistics_table="pgqueuer_statistics",
    queue_status_type="pgqueuer_status",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    trigger="tg_pgqueuer_changed",
    schedules_table="pgqueuer_schedules",
)

_LARGEST_BATCH = 25
_LOOK_EVERY = timedelta(seconds=5)
_SWEEP_EVERY = 10.0
_TIME_TO_FINISH = 25.0
_TIME_TO_LEAVE = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_log = structlog.get_logger()


async def work(
    database_url: str,
    settings: Settings,
    carriers: Carriers,
    *,
    stop: asyncio.Event,
    sweep: Callable[[], Awaitable[None]] | None = None,
    random: chance.Random | None = None,
) -> None:
    """Work on jobs, `settings.worker_concurrency` at a time, until `stop` is set; then finish what runs, at most 25 s.

    `carriers` says for each kind of job how to read the parts of its payload, and what to call with them: it has to
    return once the job has no more to do, and may raise anything: the job is then due again after a second, doubled each
    time, a minute at most. `sweep` is called about every ten seconds. Never raises for trouble with Postgres.
    """
    jitter = random or chance.Random()
    sweeping = asyncio.create_task(_sweep_now_and_then(sweep, stop, jitter)) if sweep else None
    pause = _FIRST_PAUSE
    while not stop.is_set():
        began = asyncio.get_running_loop().time()
        try:
            await _run_queue(database_url, settings, carriers, stop, jitter)
        except Exception as wrong:
            if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            told = "its tables are missing: migrate the database" if "pgq " in str(wrong) else _line(wrong)
            _log.error("the queue's loop broke off; starting it again", error=told, pause=pause)
            await _rest(stop, pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
    if sweeping is not None:
        with suppress(TimeoutError):
            await asyncio.wait_for(sweeping, _TIME_TO_LEAVE)


async def _run_queue(
    database_url: str, settings: Settings, carriers: Carriers, stop: asyncio.Event, jitter: chance.Random
) -> None:
    """One life of the queue's loop; returns when it was stopped, raises what broke it."""
    connection = LastingConnection(database_url, settings.connect_timeout, jitter)
    statements = _Queue(connection, settings.worker_concurrency)
    queue = QueueManager(statements, channel=QUEUE.channel)
    statements.running = queue.job_context

    for kind, (carry, parts) in carriers.items():
        queue.entrypoint(kind, accepts_context=False)(partial(_carry_out, carry=carry, parts=parts, jitter=jitter))
    running = asyncio.create_task(
        queue.run(
            dequeue_timeout=_LOOK_EVERY,
            batch_size=max(1, min(_LARGEST_BATCH, settings.worker_concurrency // 2)),
            heartbeat_timeout=timedelta(seconds=settings.heartbeat_timeout),
            # Nobody reads these statistics, and making them rewrites the whole log of the queue.
            log_aggregation_interval=timedelta(0),
        )
    )
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await _leave(queue, connection, running)
        else:
            running.result()
    finally:
        stopped.cancel()
        running.cancel()
        await asyncio.wait((running,), timeout=_TIME_TO_LEAVE)
        if running.done() and not running.cancelled():
            running.exception()
        await connection.close()


async def _leave(queue: QueueManager, connection: LastingConnection, running: asyncio.Task[None]) -> None:
    """Take no more jobs, let the running ones finish, and put back those that do not in time."""
    queue.shutdown.set()
    connection.give_up()
    await asyncio.wait((running,), timeout=_TIME_TO_FINISH)
    if not running.done():
        _log.warning("jobs are not finished in time and go back to the queue", jobs=len(queue.job_context))
        running.cancel()
        await asyncio.wait((running,), timeout=_TIME_TO_LEAVE)


async def _carry_out(job: Job, *, carry: Callable[..., Awaitable[None]], parts: Parts, jitter: chance.Random) -> None:
    payload = (job.payload or b"").decode("utf-8", "replace")
    try:
        named = [read(part) for read, part in zip(parts, payload.split(":"), strict=True)]
    except ValueError:
        _log.error("a job that names nothing is dropped", kind=job.entrypoint, payload=payload[:200])
        return
    try:
        await carry(*named)
    except Exception as wrong:
        pause = min(_FIRST_PAUSE * 2 ** min(job.attempts, 10), _LONGEST_PAUSE) * jitter.uniform(0.5, 1.0)
        log = _log.warning if isinstance(wrong, Unavailable) else _log.exception
        log("a job was not done", kind=job.entrypoint, payload=payload, error=_line(wrong), again_in=round(pause, 1))
        raise RetryRequested(timedelta(seconds=pause), _line(wrong)) from wrong


class _Queue(Queries):
    """PgQueuer's statements, but for the beginning and the end of a job: no more are taken than may run at once, only
    success deletes one, and only its holder puts it back."""

    def __init__(self, connection: LastingConnection, concurrency: int) -> None:
        super().__init__(connection, qbe=QueryBuilderEnvironment(QUEUE), qbq=QueryQueueBuilder(QUEUE))
        self._concurrency = concurrency
        self.running: Sized = ()

    async def dequeue(
        self,
        batch_size: int,
        entrypoints: dict[QueueEntrypoint, EntrypointExecutionParameter],
        queue_manager_id: QueueManagerId,
        global_concurrency_limit: int | None,
        heartbeat_timeout: timedelta,
    ) -> list[Job]:
        """Take as many jobs as there are places free."""
        # PgQueuer's own limit counts rows: those of an answer that got lost with the connection would take up places
        # for good, and with them the right to take them over again.
        free = self._concurrency - len(self.running)
        if free < 1:
            return []
        return await super().dequeue(min(batch_size, free), entrypoints, queue_manager_id, None, heartbeat_timeout)

    async def log_jobs(self, job_status: list[tuple[Job, JOB_STATUS, TracebackRecord | None]]) -> None:
        """Delete the jobs that ended well, put back the others."""
        done = [ending for ending in job_status if ending[1] == "successful"]
        if done:
            await super().log_jobs(done)
        for job, status, traceback in job_status:
            if status != "successful":
                await self.retry_job(job, timedelta(0), traceback)

    async def retry_job(self, job: Job, delay: timedelta, traceback_record: TracebackRecord | None) -> None:
        """Put a job back, due after `delay`."""
        # Only what this worker still holds: after an outage another one may have taken it, and is at work on it.
        rows = await self.driver.fetch(self.qbq.build_queue_job_by_id_query(), job.id)
        if [str(row["queue_manager_id"]) for row in rows] == [str(job.queue_manager_id)]:
            await super().retry_job(job, delay, traceback_record)
            # Changed jobs are not announced by themselves; the loops have to see when it is due.
            await self.driver.notify(QUEUE.channel, something_changed(QUEUE.channel))


async def _sweep_now_and_then(sweep: Callable[[], Awaitable[None]], stop: asyncio.Event, jitter: chance.Random) -> None:
    while True:
        await _rest(stop, _SWEEP_EVERY * jitter.uniform(0.8, 1.2))
        if stop.is_set():
            return
        try:
            await sweep()
        except Exception as wrong:
            _log.warning("the sweep broke off; the next one tries again", error=_line(wrong))


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _line(wrong: BaseException) -> str:
    return (str(wrong).split("\n")[0] or type(wrong).__name__)[:200]
