"""Executes runs, from step to step, until they end or wait. `app/ingest/accept.py` is the other half, from a request to a run.

`app/services/transitions.py` says what a step does to a run and `event_correlation.py` what an event does to it; here both are
carried out and written.

`RunExecutor.advance(account_id, run_id, job)`, called by a worker for each job of the queue:

1. Claim: read the run with everything that its next step needs, if this job may advance it.
2. Execute the step, outside any transaction.
3. Write the update by one statement: the step, the attempt, the outcome and the next step, unless another worker was faster.
   A wait and the pause before the next attempt enqueue the next job by the same statement, due when they end. A `par`
   starts its blocks by it, and the last block that ends enqueues the job of its parent.
4. Continue with the next step under the same job, until the run ends or waits.

When a worker dies, another one takes its job and begins at 1. A recorded step is never repeated; a step that was not
recorded is repeated with the same idempotency key.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Concatenate, ParamSpec
from uuid import UUID

import aiohttp
import sqlalchemy as sa

from app import actions
from app.actions.circuit_breaker import CircuitBreakers
from app.actions.http import disabled_error
from app.actions.renderer import Renderer
from app.core.config import SettingsError
from app.core.durations import read_duration
from app.core.models import Outcome, Run
from app.core.work_shares import UNITS_PER_MILLISECOND
from app.db import run_deaths, run_trees, run_updates, runs
from app.db.integrations import OutboundConfig
from app.db.job_queue import CORRELATE, FAILED_JOB_PAUSE, MATCH, RUN, Again, Job
from app.db.run_updates import RunUpdate
from app.ingest.account_cache import AccountCache
from app.ingest.deadlines import fire_deadline
from app.ingest.late_matching import finish_matching
from app.ingest.sources.delivery_replay import map_late
from app.services import integrations, message_stream, targets, transitions
from app.services.context import AppContext
from app.services.erasure_jobs import TakenOver, continue_erasure
from app.worker import run_metrics
from app.worker.account_jobs import AccountJobs
from app.worker.db_retry import RetryUntilAvailable
from app.worker.event_correlation import EventCorrelator
from app.worker.housekeeping import sweep
from app.worker.isolation import MAX_DEATHS_ALONE, NeedsIsolation, NotDone, TimeSliceOver
from app.workflows import step_graph
from app.workflows.expressions.work_budget import EVENT_UNITS, EXPRESSION_UNITS, SHARED_EXPRESSION_UNITS, Budget

P = ParamSpec("P")

# Seconds for which an account's outbound configuration is cached.
_OUTBOUND_CONFIG_TTL = 2.0

# Seconds: for how long a run is executed alone before the next one follows.
_TIME_SLICE = 10.0
# Units of work that a step is assumed to take of its account's share.
_STEP_UNITS = UNITS_PER_MILLISECOND
# An error and its class.
# Seconds of an erasure before the worker looks into the queue again.
_ERASURE_SECONDS = 5.0
_EVENT_MISSING = ("its event is no longer stored", "event_missing")

# What steps with expressions do to a run.
_TRANSITIONS: Mapping[str, Callable[[Run, datetime, Budget], RunUpdate]] = {
    step_graph.IF: transitions.choose_branch,
    step_graph.SET: transitions.set_variables,
    step_graph.REPEAT: transitions.repeat,
}


class RunExecutor:
    """Advances the runs of one process: database access in threads, HTTP calls by one session. `alone`: the process executes one
    run at a time, since the run may kill it."""

    def __init__(
        self,
        context: AppContext,
        session: aiohttp.ClientSession,
        threads: ThreadPoolExecutor,
        concurrency: int = 50,
        *,
        alone: bool = False,
    ) -> None:
        self._context = context
        self._alone = alone
        self._session = session
        self._rng = random.SystemRandom()
        self._retry = RetryUntilAvailable(threads, self._rng)
        self._query = self._retry.run
        self._shares = context.limits.shares
        # Accounts are loaded in threads.
        loop = asyncio.get_running_loop()
        self._accounts = AccountCache(context, lambda *spent: loop.call_soon_threadsafe(self._shares.spend, *spent))
        self._account_jobs = AccountJobs(self._shares, concurrency)
        self._correlator = EventCorrelator(context, self._retry, alone=alone)
        # One at a time: each keeps a thread and a connection.
        self._erasing = asyncio.Lock()
        self._circuit_breakers = CircuitBreakers(concurrency, rng=self._rng)
        self._renderer = Renderer()
        self._outbound_configs: dict[int, tuple[float, asyncio.Task[OutboundConfig]]] = {}

    async def advance(self, account_id: int, run_id: UUID, job: int) -> None:
        """Advance a run as far as this job may; returns when it has ended, waits, or another worker has advanced it. Raises
        NeedsIsolation, NotDone while the account has used up its share, or TimeSliceOver in a process that executes it alone."""
        self._shares.spend(account_id, 0)
        self._check_share(account_id)
        run: Run | None = await self._query(runs.claim_run, self._context.database, account_id, run_id, job)
        if run is None:
            await self._advance_nothing(account_id, run_id, job)
            return
        if run.isolation is not None and not self._alone:
            raise NeedsIsolation(is_proven=run.isolation == "killed")
        has_ended = await self._advance(run)
        if self._alone:
            await self._query(self._transact, run_deaths.clear_dead_workers, account_id, run_id)
            if not has_ended:
                raise TimeSliceOver

    async def _advance(self, claimed: Run) -> bool:
        """Execute steps until the job has nothing more to do (True), or its time slice, where it is executed alone, is over
        (False)."""
        began = time.monotonic()
        run: Run | None = await self._correlator.save_subject(claimed)
        if run is not None and _may_have_missed_events(run) and "exit_on" in run.document:
            run = await self._correlator.check_exit(run)
        run = await self._load_names(run) if run is not None else None
        while run is not None and (update := await self._execute_step(run)) is not None:
            updated_at = await self._write(run, update)
            if updated_at is None:
                # The run was ended meanwhile. The attempt is kept, since it was sent.
                await self._query(
                    run_updates.record_attempt, self._context.database, run, update, self._context.clock()
                )
                return True
            if _began_wait_for(run, update):
                await self._correlator.deliver_missed_event(run.account_id, run.id)
            run = transitions.apply_update(run, update, updated_at)
            if run is not None and self._alone and time.monotonic() - began > _TIME_SLICE:
                return False
            if run is not None:
                self._check_share(run.account_id)
            if run is not None and run.parent_id is not None:
                # Other blocks may have recorded steps meanwhile.
                run = await self._load_names(run)
        return True

    def _check_share(self, account_id: int) -> None:
        """Raises NotDone while the account has used up its share of the worker, whose other runs are advanced before."""
        # In a process of its own, nobody waits for the job.
        seconds = 0.0 if self._alone else self._shares.postpone(account_id, _STEP_UNITS)
        if seconds:
            raise NotDone("its account has used up its share", Again(seconds, is_failure=False))

    async def _advance_nothing(self, account_id: int, run_id: UUID, job: int) -> None:
        """There is no run that this job may advance, or its event is missing."""
        run = await self._query(runs.find_run_without_event, self._context.database, account_id, run_id, job)
        if run is not None:
            await self._write(run, transitions.fail_run(run, *_EVENT_MISSING, self._context.clock()))
            return
        # A worker may have died after it recorded the beginning of a wait and before it looked for earlier events.
        await self._correlator.deliver_missed_event(account_id, run_id)

    async def give_up(self, job: Job) -> None:
        """End a job that has killed too many processes, or failed too often: its run fails. A job of another kind is tried again
        in an hour."""
        if job.kind != RUN:
            raise NotDone("it has killed its processes", Again(FAILED_JOB_PAUSE))
        account_id, run_id, number = _parse_run_job(job)
        run = await self._query(runs.find_bare_run, self._context.database, account_id, run_id, number)
        if run is not None:
            await self._write(run, transitions.fail_run(run, *_reason_to_give_up(job), self._context.clock()))

    async def record_death(self, job: Job) -> None:
        """A job has killed a process that executed nothing else: the runs of its workflow are executed alone for a while."""
        now = self._context.clock()
        if job.kind == RUN:
            account_id, run_id, _ = _parse_run_job(job)
            await self._query(self._transact, run_deaths.isolate_workflow, account_id, run_id, now)
        elif job.kind in (CORRELATE, MATCH):
            await self._query(self._transact, run_deaths.isolate_awaiting_workflows, int(job.account), now)

    async def find_dead_workers(self) -> None:
        """Note which workflows were executed by workers that have died. Raises Unavailable."""
        await self._retry.run_once(self._transact, run_deaths.add_dead_workers, self._context.clock())

    async def match(self, account_id: int, event_id: UUID) -> None:
        """Finish the matching of this event, which was postponed, and wake its runs. Raises NeedsIsolation, and NotDone when the
        account has no free slot."""
        # In a process of its own, nobody waits for the job.
        async with self._account_jobs.slot(account_id, 0 if self._alone else EVENT_UNITS):
            used = await self._wake(account_id, event_id)
        self._shares.spend(account_id, used - EVENT_UNITS)

    async def map(self, account_id: int, delivery_id: UUID) -> None:
        """Map this delivery, which was postponed. Raises NotDone when the account has no free slot."""
        async with self._account_jobs.slot(account_id, 0 if self._alone else EVENT_UNITS):
            used = await self._retry.run_once(map_late, self._context, self._accounts, account_id, delivery_id)
        self._shares.spend(account_id, used - EVENT_UNITS)

    async def erase(self, account_id: int, erasure_id: UUID, text: str) -> None:
        """Continue the erasure of a data subject. Raises NotDone when it has not ended."""
        if self._erasing.locked():
            raise NotDone("another erasure is before it", Again(_ERASURE_SECONDS, is_failure=False))
        async with self._erasing:
            try:
                has_ended = await self._retry.run_once(
                    continue_erasure, self._context, account_id, erasure_id, text, _ERASURE_SECONDS
                )
            except TakenOver as exc:
                raise NotDone("another worker does it", Again(_ERASURE_SECONDS, is_failure=False)) from exc
        if not has_ended:
            raise NotDone("it goes on", Again(0.0, is_failure=False))

    async def wake(self, account_id: int, event_id: UUID) -> None:
        """Advance the runs that wait for this event, and end those that exit on it. Raises NeedsIsolation, and NotDone when the
        account has no free slot."""
        async with self._account_jobs.slot(account_id):
            self._shares.spend(account_id, await self._wake(account_id, event_id))

    async def _wake(self, account_id: int, event_id: UUID) -> int:
        """Finish the matching if it was postponed, and wake the event's runs; the units of work that the matching took."""
        # Also for jobs of this kind: a process of an earlier release enqueued it for a postponed event.
        units = await self._retry.run_once(finish_matching, self._context, self._accounts, account_id, event_id)
        for run_id in await self._correlator.deliver(account_id, event_id):
            await self._query(self._transact, run_deaths.clear_dead_workers, account_id, run_id)
        return units

    async def fire_deadline(self, account_id: int, workflow_id: UUID, subject: str) -> None:
        """Start the run of a deadline that has passed, unless the deadline was cancelled or moved. Raises NotDone when the
        account has no free slot."""
        async with self._account_jobs.slot(account_id):
            await self._retry.run_once(fire_deadline, self._context, self._accounts, account_id, workflow_id, subject)

    async def sweep(self) -> None:
        """Do the housekeeping that any worker may do at any time."""
        for account_id, (loaded_at, _) in list(self._outbound_configs.items()):
            if time.monotonic() - loaded_at > _OUTBOUND_CONFIG_TTL:
                del self._outbound_configs[account_id]
        await self._query(sweep, self._context)

    # Steps

    async def _execute_step(self, run: Run) -> RunUpdate | None:
        """Execute the run's current step; the update to write, or None while the run waits for its blocks."""
        now = self._context.clock()
        step = step_graph.find_step(run.document, str(run.at))
        verb = step_graph.find_verb(step)
        if verb == step_graph.WAIT:
            return transitions.wait(run, now)
        if verb in _TRANSITIONS:
            return self._evaluate_step(run, verb, now)
        if verb == step_graph.WAIT_FOR:
            return await self._wait_for(run, step, now)
        if verb == step_graph.PAR:
            return await self._par(run, now)
        try:
            return await self._perform_action(run, step, now)
        except SettingsError as exc:
            outcome = Outcome("retry", error=str(exc), error_class="encryption_key")
            return transitions.apply_outcome(run, outcome, now, self._context.clock, self._rng)

    def _evaluate_step(self, run: Run, verb: str, now: datetime) -> RunUpdate:
        """Execute a step whose expressions decide what follows. Nothing else happens in this process meanwhile: raises
        NeedsIsolation for a step that needs much work, unless the process has no other jobs."""
        budget = Budget(EXPRESSION_UNITS if self._alone else SHARED_EXPRESSION_UNITS)
        with self._shares.charged(run.account_id):
            update = _TRANSITIONS[verb](run, now, budget)
        if budget.was_exceeded and not self._alone:
            raise NeedsIsolation(is_proven=True)
        return update

    async def _perform_action(self, run: Run, step: Mapping[str, Any], started_at: datetime) -> RunUpdate:
        config = await self._outbound_config(run.account_id)
        action_context = actions.ActionContext(
            run=run,
            names=transitions.template_names(run, started_at),
            idempotency_key=f"{run.id}-{run.ordinal}",
            signing_secret=self._context.secrets.decrypt(config.signing_secret),
            timeout=read_duration(step.get("timeout", step_graph.DEFAULT_TIMEOUT)).total_seconds(),
            now=started_at,
            session=self._session,
            circuit_breakers=self._circuit_breakers,
            renderer=self._renderer,
            settings=self._context.settings,
            integration=partial(integrations.open_integration, self._context, config),
            find_secret=partial(integrations.open_secret, self._context, config),
            disabled=config.disabled,
            save_message=lambda text, data: self._query(message_stream.keep_message, self._context, run, text, data),
        )
        began = time.monotonic()
        outcome = await actions.perform(step, action_context)
        run_metrics.observe_attempt(step, outcome, time.monotonic() - began)
        if changes := self._circuit_breakers.take_changes():
            await self._query(targets.save_circuits, self._context, changes)
        if outcome.error_class == actions.OUT_OF_MEMORY and self._alone:
            raise MemoryError(outcome.error)
        if outcome.gone is not None:
            await self._disable_target(run, outcome)
            error = disabled_error(action_context.secrets.mask(outcome.gone), outcome.error)
            outcome = replace(outcome, error=error)
        return transitions.apply_outcome(run, outcome, started_at, self._context.clock, self._rng)

    async def _wait_for(self, run: Run, step: Mapping[str, Any], now: datetime) -> RunUpdate:
        """Entered for the first time it begins to wait; the second time the wait has timed out, unless the event has come."""
        if run.step_started_at is None:
            return transitions.begin_wait(run, now, now + read_duration(step["timeout"]))
        update = await self._correlator.find_awaited_event(run)
        if update is None:
            update = transitions.wait_timed_out(run, now, await self._correlator.explain_timeout(run))
        return update

    async def _par(self, run: Run, now: datetime) -> RunUpdate | None:
        """Entered for the first time it starts its blocks; the second time they have ended."""
        if run.step_started_at is None:
            return transitions.fork(run, now)
        if run.blocks_left:
            return None
        failed = await self._query(run_trees.find_failed_blocks, self._context.database, run)
        return transitions.join(run, failed, now)

    async def _load_names(self, run: Run) -> Run:
        """The run with everything that its templates and expressions read."""
        names_read = step_graph.find_referenced_names(run.document)
        if names_read & {"matched", "latest"}:
            run = replace(run, matched=await self._query(runs.find_matched, self._context.database, run))
        if names_read & {"vars", "last"} or ("steps" in names_read and step_graph.has_parallel_blocks(run.document)):
            results = await self._query(run_trees.find_results, self._context.database, run, transitions.CONTROL_STEPS)
            last = transitions.last_result(**results.last) if results.last else {}
            run = replace(run, outputs=results.outputs, variables=results.variables, last=last)
        return run

    # Database

    def _transact(
        self, function: Callable[Concatenate[sa.Connection, P], object], *args: P.args, **kw: P.kwargs
    ) -> None:
        with self._context.database.transaction() as connection:
            function(connection, *args, **kw)

    async def _write(self, run: Run, update: RunUpdate) -> datetime | None:
        """The timestamp with which the update was written; None when another worker was faster."""
        now = run_updates.update_time(run, self._context.clock())
        if not await self._query(run_updates.update_run, self._context.database, run, update, now):
            return None
        run_metrics.count_update(run, update)
        return now

    async def _outbound_config(self, account_id: int) -> OutboundConfig:
        """The account's integrations, secrets and disabled targets, still encrypted, at most `_OUTBOUND_CONFIG_TTL` seconds
        old."""
        loaded_at, loading = self._outbound_configs.get(account_id, (0.0, None))
        if loading is None or time.monotonic() - loaded_at > _OUTBOUND_CONFIG_TTL:
            loading = asyncio.create_task(self._query(integrations.find_outbound_config, self._context, account_id))
            self._outbound_configs[account_id] = (time.monotonic(), loading)
        return await asyncio.shield(loading)

    async def _disable_target(self, run: Run, outcome: Outcome) -> None:
        """Disable a target that answered that it is gone, for all runs of the account."""
        target, reason = str(outcome.gone), str(outcome.error)
        await self._query(integrations.disable_target, self._context, run.account_id, target, reason, run.id)
        self._outbound_configs.pop(run.account_id, None)


def _parse_run_job(job: Job) -> tuple[int, UUID, int]:
    account_id, run_id, number = job.payload.split(":")
    return int(account_id), UUID(run_id), int(number)


def _reason_to_give_up(job: Job) -> tuple[str, str]:
    """An error and its class."""
    if job.deaths_alone < MAX_DEATHS_ALONE:
        return f"its job failed {job.attempts} times; the log of the workers has the errors", "job_failed"
    times = f"{job.deaths_alone} times while it was executed alone"
    others = f"{job.deaths} times while it was executed with other runs, and " if job.deaths else ""
    return f"its worker died {others}{times}", "worker_died"


def _may_have_missed_events(run: Run) -> bool:
    """Whether the run was not running until now: it is new, or it had failed and is retried."""
    return run.turn == 0 or 0 < run.forgiven == run.attempt


def _began_wait_for(run: Run, update: RunUpdate) -> bool:
    step = update.step
    return step.action == step_graph.WAIT_FOR and step.status == "waiting" and run.step_started_at is None
