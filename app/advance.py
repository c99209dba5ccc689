"""The way out: a run is carried from step to step until it ends or has to wait. The way in is `journey.py`.

`advance(account_id, run_id, job)`, called by a worker for each job of the queue:
1. Claim: read the run with all that its next step needs, if this job may move it.
2. Act: carry out the step, outside of any transaction.
3. Settle: one statement writes the step, the attempt, the outcome and the next place, if no other worker was faster. A
   wait and a pause before the next attempt enqueue the next job by that same statement, due when they end.
4. On to the next step with the same job, until the run ends or waits.

A worker that dies anywhere leaves its job to another one, which starts at 1: what was settled is never acted again, what
was not is repeated with the same idempotency key.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
import structlog

from app import act
from app.act import outbound, retry, steps, worker
from app.durations import read_duration
from app.journey import Journey
from app.manage import signing_secret
from app.store import partitions, queue, runs
from app.store.runs import Settlement, StepRow
from app.words import Outcome, Run, Unavailable

T = TypeVar("T")

_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = structlog.get_logger()


class Advancer:
    """What one worker process needs to move runs: the house, threads for Postgres, and a session to the outside."""

    def __init__(self, house: Journey, session: aiohttp.ClientSession, threads: ThreadPoolExecutor) -> None:
        self._house = house
        self._session = session
        self._threads = threads
        self._random = random.SystemRandom()
        self._signing_secrets: dict[int, str] = {}

    async def advance(self, account_id: int, run_id: UUID, job: int) -> None:
        """Move a run as far as this job may; returns when it ended, waits, or was moved on by another worker."""
        run = await self._database(lambda: runs.claim_run(self._house.database, account_id, run_id, job))
        while run is not None:
            settlement = await self._act(run)
            settled = await self._database(partial(self._settle, run, settlement))
            run = _next(run, settlement) if settled else None

    def _settle(self, run: Run, settlement: Settlement) -> bool:
        return runs.settle_run(self._house.database, run, settlement, self._house.clock())

    async def sweep(self) -> None:
        """The housekeeping that any worker may do at any time."""
        await self._database(lambda: sweep(self._house))

    async def _act(self, run: Run) -> Settlement:
        """Carry out the step at which `run` stands; what to write about it."""
        began = self._house.clock()
        if run.at is None:
            raise AssertionError(f"run {run.id} is running but stands nowhere")
        step = steps.step_at(run.document, run.at)
        if "wait" in step:
            return _wait(run, step, began)
        situation = act.Situation(
            run=run,
            names=_names(run),
            idempotency_key=f"{run.id}-{run.ordinal}",
            signing_secret=await self._signing_secret(run.account_id),
            timeout=read_duration(step.get("timeout", steps.DEFAULT_TIMEOUT)).total_seconds(),
            now=began,
            session=self._session,
        )
        outcome = await act.perform(step, situation)
        return self._settlement(run, step, outcome, began)

    def _settlement(self, run: Run, step: dict[str, Any], outcome: Outcome, began: datetime) -> Settlement:
        action = steps.verb_of(step)
        started = run.step_started_at or began
        row = StepRow(str(run.at), step.get("id"), action, "done", started, outcome.output, outcome.error)
        if outcome.kind == "done":
            return _on(run, row, outcome, began)
        policy = step.get("retry", {})
        if outcome.kind == "retry" and run.attempt + 1 < retry.attempts(policy):
            pause = outcome.retry_after
            if pause is None:
                pause = retry.pause(policy, run.attempt + 1, self._random)
            return Settlement(
                status="running",
                at=run.at,
                ordinal=run.ordinal,
                attempt=run.attempt + 1,
                job=run.job + 1,
                wake_at=self._house.clock() + timedelta(seconds=pause),
                step_started_at=started,
                error=None,
                step=replace(row, status="waiting", output=None),
                outcome=outcome,
                tried_at=began,
            )
        tries = run.attempt + 1
        error = f"{run.at} ({action}): {outcome.error}" + (f" after {tries} attempts" if tries > 1 else "")
        return Settlement(
            status="failed",
            at=run.at,
            ordinal=run.ordinal,
            attempt=tries,
            job=run.job,
            wake_at=None,
            step_started_at=started,
            error=error,
            step=replace(row, status="failed"),
            outcome=replace(outcome, kind="failed"),
            tried_at=began,
        )

    async def _signing_secret(self, account_id: int) -> str:
        """The account's signing secret; read once a process."""
        known = self._signing_secrets.get(account_id)
        if known is None:

            known = await self._database(partial(signing_secret, self._house, account_id))
            self._signing_secrets[account_id] = known
        return known

    async def _database(self, question: Callable[[], T]) -> T:
        """Ask Postgres in a thread; while it does not answer, ask again: a job is never given up for that."""
        loop = asyncio.get_running_loop()
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                return await loop.run_in_executor(self._threads, question)
            except Unavailable as trouble:
                _log.warning("Postgres cannot be asked; trying again", error=str(trouble)[:200], pause=pause)
                await asyncio.sleep(pause * self._random.uniform(0.8, 1.2))
        raise AssertionError("unreachable")


def _wait(run: Run, step: dict[str, Any], began: datetime) -> Settlement:
    """A wait: the first time it is entered and its end enqueued, the second time it is over."""
    row = StepRow(str(run.at), step.get("id"), "wait", "done", run.step_started_at or began)
    if run.step_started_at is not None:
        return _on(run, row, None, began)
    return Settlement(
        status="running",
        at=run.at,
        ordinal=run.ordinal,
        attempt=0,
        job=run.job + 1,
        wake_at=began + read_duration(step["wait"]),
        step_started_at=began,
        error=None,
        step=replace(row, status="waiting"),
    )


def _on(run: Run, row: StepRow, outcome: Outcome | None, began: datetime) -> Settlement:
    """The step is done: on to the one that follows, or to the end."""
    following = steps.following(run.document, str(run.at))
    return Settlement(
        status="done" if following is None else "running",
        at=following,
        ordinal=run.ordinal + 1,
        attempt=0,
        job=run.job,
        wake_at=None if following is None else began,
        step_started_at=None,
        error=None,
        step=row,
        outcome=outcome,
        tried_at=began if outcome else None,
    )


def _next(run: Run, settlement: Settlement) -> Run | None:
    """The run as it stands after `settlement`; None when this job has nothing more to do for it."""
    if settlement.status != "running" or settlement.job != run.job:
        return None
    outputs = dict(run.outputs)
    if settlement.step.name is not None:
        outputs[settlement.step.name] = settlement.step.output
    return replace(
        run, at=settlement.at, ordinal=settlement.ordinal, attempt=0, turn=run.turn + 1, outputs=outputs,
        step_started_at=None,
    )  # fmt: skip


def _names(run: Run) -> dict[str, Any]:
    """What templates see."""
    event = run.event
    seen = {
        "event": event.event,
        "distinct_id": event.distinct_id,
        "phone": event.phone,
        "data": event.data,
        "received_at": event.received_at.isoformat().replace("+00:00", "Z"),
    }
    return {
        **seen,
        "run": {"id": str(run.id), "workflow": run.workflow, "version": run.version},
        "steps": run.outputs,
        "matched": [seen],
    }


def sweep(house: Journey) -> None:
    """Jobs for orphaned runs, partitions for the coming months, and out with what is too old to be of use."""
    moment = house.clock()
    with house.database.transaction() as connection:
        orphans = queue.enqueue_orphans(connection, moment)
    if orphans:
        _log.warning("runs without a job were given one", runs=orphans)
    with house.database.transaction() as connection:
        partitions.ensure_partitions(connection, moment)
    with house.database.transaction() as connection:
        queue.prune_queue_log(connection, moment)
        queue.forget_old_idempotency_keys(connection, moment)


async def work(house: Journey, concurrency: int, stop: asyncio.Event) -> None:
    """Work on the queue's jobs until `stop` is set; survives Postgres going away."""
    threads = ThreadPoolExecutor(max_workers=min(house.settings.database_pool, 8), thread_name_prefix="postgres")
    async with outbound.open_session(house.settings) as session:
        advancer = Advancer(house, session, threads)
        settings = replace(house.settings, worker_concurrency=concurrency)
        await worker.work(house.settings.database_url, settings, advancer.advance, stop=stop, sweep=advancer.sweep)
    threads.shutdown()
