"""The way out: a run is carried from step to step until it ends or has to wait. The way in is `journey.py`.

`moves.py` tells what steps mean to a run, `arrivals.py` what events mean to it; here they are carried out and written.

`advance(account_id, run_id, job)`, called by a worker for each job of the queue:
1. Claim: read the run with all that its next step needs, if this job may move it.
2. Act: carry out the step, outside of any transaction.
3. Settle: one statement writes the step, the attempt, the outcome and the next place, if no other worker was faster. A
   wait and a pause before the next attempt enqueue the next job by that same statement, due when they end. The blocks of
   a `par` start by it, and the last one that ends enqueues the job of their parent.
4. On to the next step with the same job, until the run ends or waits.

A worker that dies anywhere leaves its job to another one, which starts at 1: what was settled is never acted again, what
was not is repeated with the same idempotency key.
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
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
import structlog

from app import actions
from app.actions.circuit_breaker import CircuitBreakers
from app.core.durations import read_duration
from app.core.models import Outcome, Run
from app.db import run_blocks, run_updates, runs
from app.db.integrations import OutboundConfig
from app.db.run_updates import RunUpdate
from app.ingest.account_cache import AccountCache
from app.ingest.deadlines import fire_deadline
from app.services import integrations, message_stream
from app.services.context import AppContext
from app.worker import transitions
from app.worker.db_retry import RetryUntilAvailable
from app.worker.event_correlation import EventCorrelator
from app.worker.housekeeping import sweep
from app.workflows import step_graph

T = TypeVar("T")

# Seconds for which the copy of what an account sends with is good.
_FRESH = 2.0
_log = structlog.get_logger()

_MOVES: Mapping[str, Callable[[Run, datetime], RunUpdate]] = {
    step_graph.WAIT: transitions.wait,
    step_graph.IF: transitions.decide,
    step_graph.SET: transitions.set_variables,
    step_graph.REPEAT: transitions.go_round,
}


class RunExecutor:
    """What one worker process needs to move runs: the house, threads for Postgres, and a session to the outside."""

    def __init__(
        self, context: AppContext, session: aiohttp.ClientSession, threads: ThreadPoolExecutor, concurrency: int = 50
    ) -> None:
        self._context = context
        self._accounts = AccountCache(context)
        self._session = session
        self._random = random.SystemRandom()
        self._patience = RetryUntilAvailable(threads, self._random)
        self._arrivals = EventCorrelator(context, self._patience)
        self._circuit_breakers = CircuitBreakers(concurrency, rng=self._random)
        self._outbound_configs: dict[int, tuple[float, asyncio.Task[OutboundConfig]]] = {}

    async def advance(self, account_id: int, run_id: UUID, job: int) -> None:
        """Move a run as far as this job may; returns when it ended, waits, or was moved on by another worker."""
        run: Run | None = await self._database(partial(runs.claim_run, self._context.database, account_id, run_id, job))
        if run is None:
            # A worker that died may have settled the beginning of a wait and not have looked back.
            await self._arrivals.look_back(account_id, run_id)
            return
        run = await self._arrivals.known(run)
        if _may_have_missed_events(run) and "exit_on" in run.document:
            run = await self._arrivals.still_wanted(run)
        run = await self._with_names(run) if run is not None else None
        while run is not None and (update := await self._act(run)) is not None:
            settled_at = await self._settle(run, update)
            if settled_at is None:
                await self._database(partial(self._note, run, update))
                return
            if _entered_wait_for(run, update):
                await self._arrivals.look_back(run.account_id, run.id)
            run = transitions.after(run, update, settled_at)
            if run is not None and run.parent_id is not None:
                # What other blocks have settled meanwhile.
                run = await self._with_names(run)

    async def wake(self, account_id: int, event_id: UUID) -> None:
        """Let the runs go on that wait for this event, and end those that it ends."""
        await self._arrivals.wake(account_id, event_id)

    async def fire_deadline(self, account_id: int, workflow_id: UUID, subject: str) -> None:
        """Start the run of a deadline that the clock has reached, if nothing has disarmed or moved it."""
        await self._patience.ask_once(
            partial(fire_deadline, self._context, self._accounts, account_id, workflow_id, subject)
        )

    async def sweep(self) -> None:
        """The housekeeping that any worker may do at any time."""
        for account_id, (asked_at, _) in list(self._outbound_configs.items()):
            if time.monotonic() - asked_at > _FRESH:
                del self._outbound_configs[account_id]
        await self._database(partial(sweep, self._context))

    # Steps

    async def _act(self, run: Run) -> RunUpdate | None:
        """Carry out the step at which `run` stands; what to write about it (None: nothing, it waits for its blocks)."""
        began = self._context.clock()
        step = step_graph.step_at(run.document, str(run.at))
        verb = step_graph.verb_of(step)
        if verb in _MOVES:
            return _MOVES[verb](run, began)
        if verb == step_graph.WAIT_FOR:
            return await self._wait_for(run, step, began)
        if verb == step_graph.PAR:
            return await self._par(run, began)
        outbound = await self._outbound_config(run.account_id)
        action_context = actions.ActionContext(
            run=run,
            names=transitions.names_of(run),
            idempotency_key=f"{run.id}-{run.ordinal}",
            signing_secret=self._context.secrets.decrypt(outbound.signing_secret),
            timeout=read_duration(step.get("timeout", step_graph.DEFAULT_TIMEOUT)).total_seconds(),
            now=began,
            session=self._session,
            circuit_breakers=self._circuit_breakers,
            settings=self._context.settings,
            integration=partial(integrations.open_integration, self._context, outbound),
            disabled=outbound.disabled,
            keep_message=partial(self._keep_message, run),
        )
        outcome = await actions.perform(step, action_context)
        if outcome.gone is not None:
            await self._disable(run, outcome)
            told = f"{outcome.error}; {outcome.gone} is disabled until `flask target enable` lets it be called again"
            outcome = replace(outcome, error=told)
        return transitions.acted(run, outcome, began, self._context.clock, self._random)

    async def _wait_for(self, run: Run, step: Mapping[str, Any], began: datetime) -> RunUpdate:
        """The first time it is entered; the second time its time is over, unless the event is there after all."""
        if run.step_started_at is None:
            return transitions.enter(run, began, began + read_duration(step["timeout"]))
        arrived = await self._arrivals.arrival(run)
        return arrived if arrived is not None else transitions.not_arrived(run, began)

    async def _par(self, run: Run, began: datetime) -> RunUpdate | None:
        """The first time its blocks start; the second time they have ended."""
        if run.step_started_at is None:
            return transitions.part(run, began)
        if run.blocks_left:
            return None
        failed = await self._database(partial(run_blocks.find_failed_blocks, self._context.database, run))
        return transitions.joined(run, failed, began)

    async def _with_names(self, run: Run) -> Run:
        """The run with all that its texts and expressions may speak of."""
        spoken_of = step_graph.spoken_of(run.document)
        if spoken_of & {"matched", "latest"}:
            run = replace(run, matched=await self._database(partial(runs.find_matched, self._context.database, run)))
        if spoken_of & {"vars", "last"} or ("steps" in spoken_of and step_graph.has_blocks(run.document)):
            question = partial(run_blocks.find_results, self._context.database, run, transitions.NO_ACTIONS)
            settled = await self._database(question)
            last = transitions.given_by(**settled.last) if settled.last else {}
            run = replace(run, outputs=settled.outputs, variables=settled.variables, last=last)
        return run

    # Postgres

    async def _settle(self, run: Run, update: RunUpdate) -> datetime | None:
        """The moment at which the settlement was written; None when another worker was faster."""
        moment = run_updates.moment_after(run, self._context.clock())
        settled = await self._database(partial(run_updates.update_run, self._context.database, run, update, moment))
        return moment if settled else None

    def _note(self, run: Run, update: RunUpdate) -> None:
        run_updates.record_attempt(self._context.database, run, update, self._context.clock())

    async def _outbound_config(self, account_id: int) -> OutboundConfig:
        """What the account sends with and where not, as it was two seconds ago at most; still encrypted."""
        asked_at, asking = self._outbound_configs.get(account_id, (0.0, None))
        if asking is None or time.monotonic() - asked_at > _FRESH:
            asking = asyncio.create_task(
                self._database(partial(integrations.find_outbound_config, self._context, account_id))
            )
            self._outbound_configs[account_id] = (time.monotonic(), asking)
        return await asyncio.shield(asking)

    async def _disable(self, run: Run, outcome: Outcome) -> None:
        """The target said that it is gone: nobody calls it any more, whatever becomes of this run."""
        target, reason = str(outcome.gone), str(outcome.error)
        await self._database(
            partial(integrations.disable_target, self._context, run.account_id, target, reason, run.id)
        )
        self._outbound_configs.pop(run.account_id, None)

    async def _keep_message(self, run: Run, text: str, data: Mapping[str, Any]) -> UUID:
        """Keep what a step of the run says; the message's id. Said again, it is the same message."""
        return await self._database(partial(message_stream.keep_message, self._context, run, text, data))

    async def _database(self, question: Callable[[], T]) -> T:
        return await self._patience.ask(question)


def _may_have_missed_events(run: Run) -> bool:
    """Whether it has not been running until now: it is new, or it had failed and a person has it retried."""
    return run.turn == 0 or 0 < run.forgiven == run.attempt


def _entered_wait_for(run: Run, update: RunUpdate) -> bool:
    return update.step.action == step_graph.WAIT_FOR and update.step.status == "waiting" and run.step_started_at is None
