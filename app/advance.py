"""The way out: a run is carried from step to step until it ends or has to wait. The way in is `journey.py`.

`advance(account_id, run_id, job)`, called by a worker for each job of the queue:
1. Claim: read the run with all that its next step needs, if this job may move it.
2. Act: carry out the step, outside of any transaction.
3. Settle: one statement writes the step, the attempt, the outcome and the next place, if no other worker was faster. A
   wait and a pause before the next attempt enqueue the next job by that same statement, due when they end.
4. On to the next step with the same job, until the run ends or waits.

A worker that dies anywhere leaves its job to another one, which starts at 1: what was settled is never acted again, what
was not is repeated with the same idempotency key.

`wake(account_id, event_id)`, called for each event whose name some workflow waits for or ends by: the subject's runs that
wait for it go on, those that it ends are ended. An event is committed before its job is seen, and a run that begins to
wait is committed before it looks back for events: whichever comes second finds the other, so that none is missed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
import structlog

from app import act, outward, streaming
from app.act import outbound, retry, steps, worker
from app.act.destinations import Destinations
from app.durations import read_duration
from app.filters import RUN_NAMES, compile_filter
from app.journey import Journey
from app.match.rules import fits
from app.store import events, messages, partitions, progress, queue, runs
from app.store.integrations import WayOut
from app.store.runs import Settlement, StepRow
from app.words import Event, Outcome, Run, Unavailable

T = TypeVar("T")

# Seconds for which the copy of what an account sends with is good.
_FRESH = 2.0
# A step may be held back for so long without using up its attempts.
_LONGEST_HELD_BACK = timedelta(days=1)
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
_log = structlog.get_logger()


class Advancer:
    """What one worker process needs to move runs: the house, threads for Postgres, and a session to the outside."""

    def __init__(
        self, house: Journey, session: aiohttp.ClientSession, threads: ThreadPoolExecutor, concurrency: int = 50
    ) -> None:
        self._house = house
        self._session = session
        self._threads = threads
        self._random = random.SystemRandom()
        self._destinations = Destinations(concurrency, random=self._random)
        self._ways_out: dict[int, tuple[float, asyncio.Task[WayOut]]] = {}

    async def advance(self, account_id: int, run_id: UUID, job: int) -> None:
        """Move a run as far as this job may; returns when it ended, waits, or was moved on by another worker."""
        run = await self._database(partial(runs.claim_run, self._house.database, account_id, run_id, job))
        if run is not None and _may_have_missed_events(run) and "exit_on" in run.document:
            run = await self._still_wanted(run)
        while run is not None:
            settlement = await self._act(run)
            settled = await self._settle(run, settlement)
            if not settled:
                await self._database(partial(self._note, run, settlement))
            elif _entered_wait_for(run, settlement):
                await self._look_back(run.account_id, run.id)
            run = _next(run, settlement) if settled else None

    async def wake(self, account_id: int, event_id: UUID) -> None:
        """Let the runs go on that wait for this event, and end those that it ends."""
        database = self._house.database
        event = await self._database(partial(runs.find_event, database, account_id, event_id))
        if event is None:
            return
        last = UUID(int=0)
        while page := await self._database(partial(runs.find_running_runs_of_subject, database, event, last)):
            for found in page:
                await self._tell(found, event)
            last = page[-1].id

    async def _tell(self, found: Run, event: Event) -> None:
        """Do to a run what the event means to it."""
        run: Run | None = found
        while run is not None:
            settlement = await self._answer(run, event)
            if settlement is None or await self._settle(run, settlement):
                return
            # Somebody moved it meanwhile: what does the event mean to it now?
            run = await self._database(partial(runs.find_running_run, self._house.database, run.account_id, run.id))

    async def fire_deadline(self, account_id: int, workflow_id: UUID, subject: str) -> None:
        """Start the run of a deadline that the clock has reached, if nothing has disarmed or moved it."""
        await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(self._house.fire_deadline, account_id, workflow_id, subject)
        )

    async def sweep(self) -> None:
        """The housekeeping that any worker may do at any time."""
        for account_id, (asked_at, _) in list(self._ways_out.items()):
            if time.monotonic() - asked_at > _FRESH:
                del self._ways_out[account_id]
        await self._database(partial(sweep, self._house))

    # What events mean to runs

    async def _answer(self, run: Run, event: Event) -> Settlement | None:
        """What an event of its subject, later than its start, does to a run; None: nothing. An event that a `wait_for`
        waits for is its arrival, and does not end the run by `exit_on` as well."""
        step = steps.step_at(run.document, str(run.at))
        if steps.WAIT_FOR in step and run.step_started_at is not None and fits(step[steps.WAIT_FOR], event):
            taken = await self._database(partial(runs.find_awaited_events, self._house.database, run))
            return None if event.id in taken else _arrived(run, step, event, self._house.clock())
        return _exit(run, event, self._house.clock()) if await self._ends(run, [event]) else None

    async def _still_wanted(self, run: Run) -> Run | None:
        """The run, unless an event that ends it came before its first step."""
        event = await self._ends(run, await self._fitting_since(run, run.document["exit_on"]))
        if event is None:
            return run
        await self._settle(run, _exit(run, event, self._house.clock()))
        return None

    async def _ends(self, run: Run, events: Iterable[Event]) -> Event | None:
        """The first of the events that ends the run by `exit_on`."""
        found = [event for event in events if "exit_on" in run.document and fits(run.document["exit_on"], event)]
        if not found:
            return None
        taken = await self._database(partial(runs.find_awaited_events, self._house.database, run))
        return next((event for event in found if event.id not in taken), None)

    async def _look_back(self, account_id: int, run_id: UUID) -> None:
        """A run has begun to wait for an event: did it come already, after the run's start?"""
        run = await self._database(partial(runs.find_running_run, self._house.database, account_id, run_id))
        if run is not None and (found := await self._arrival(run)) is not None:
            await self._settle(run, found)

    async def _arrival(self, run: Run) -> Settlement | None:
        step = steps.step_at(run.document, str(run.at))
        if steps.WAIT_FOR not in step:
            return None
        found = await self._fitting_since(run, step[steps.WAIT_FOR])
        if not found:
            return None
        # An event that one wait_for of the run has taken is not there for another one.
        taken = await self._database(partial(runs.find_awaited_events, self._house.database, run))
        left = [event for event in found if event.id not in taken]
        return _arrived(run, step, left[0], self._house.clock()) if left else None

    async def _fitting_since(self, run: Run, leaf: Any) -> list[Event]:
        """The subject's events since the run's start that match a leaf, oldest first."""
        name = leaf if isinstance(leaf, str) else leaf["event"]
        since, found = run.event, list[Event]()
        while True:
            page = await self._database(partial(runs.find_events_of_subject_since, self._house.database, since, [name]))
            found += [event for event in page if fits(leaf, event)]
            if len(page) < events.PAGE:
                return found
            since = page[-1]

    # Steps

    async def _act(self, run: Run) -> Settlement:
        """Carry out the step at which `run` stands; what to write about it."""
        began = self._house.clock()
        step = steps.step_at(run.document, str(run.at))
        verb = steps.verb_of(step)
        if verb == steps.WAIT:
            return _wait(run, step, began)
        if verb == steps.WAIT_FOR:
            return await self._wait_for(run, step, began)
        if verb == steps.IF:
            return _decide(run, step, began)
        way_out = await self._way_out(run.account_id)
        situation = act.Situation(
            run=run,
            names=_names(run),
            idempotency_key=f"{run.id}-{run.ordinal}",
            signing_secret=self._house.secrets.decrypt(way_out.signing_secret),
            timeout=read_duration(step.get("timeout", steps.DEFAULT_TIMEOUT)).total_seconds(),
            now=began,
            session=self._session,
            destinations=self._destinations,
            settings=self._house.settings,
            integration=partial(outward.open_integration, self._house, way_out),
            disabled=way_out.disabled,
            keep_message=partial(self._keep_message, run),
        )
        outcome = await act.perform(step, situation)
        if outcome.gone is not None:
            await self._disable(run, outcome)
            told = f"{outcome.error}; {outcome.gone} is disabled until `flask target enable` lets it be called again"
            outcome = replace(outcome, error=told)
        return self._acted(run, step, outcome, began)

    async def _wait_for(self, run: Run, step: Mapping[str, Any], began: datetime) -> Settlement:
        """The first time it is entered; the second time its time is over, unless the event is there after all."""
        if run.step_started_at is None:
            return _enter(run, steps.WAIT_FOR, step, began, began + read_duration(step["timeout"]))
        arrived = await self._arrival(run)
        if arrived is not None:
            return arrived
        row = StepRow(str(run.at), step.get("id"), steps.WAIT_FOR, "done", run.step_started_at, {"arrived": False})
        return _on(run, row, steps.inside(run.document, str(run.at), "else"), began)

    def _acted(self, run: Run, step: Mapping[str, Any], outcome: Outcome, began: datetime) -> Settlement:
        action = steps.verb_of(step)
        started = run.step_started_at or began
        row = StepRow(str(run.at), step.get("id"), action, "done", started, outcome.output, outcome.error)
        if outcome.kind == "done":
            return _on(run, row, steps.following(run.document, str(run.at)), began, outcome)
        if outcome.kind == "later" and began - started > _LONGEST_HELD_BACK:
            outcome = replace(outcome, kind="retry")
        policy = step.get("retry", {})
        tries = run.attempt + 1
        here = Settlement(
            status="running",
            at=run.at,
            ordinal=run.ordinal,
            attempt=tries,
            job=run.job + 1,
            wake_at=None,
            step_started_at=started,
            error=None,
            step=replace(row, status="waiting", output=None),
            outcome=outcome,
            tried_at=began,
        )
        if outcome.kind == "later":
            return _held_back(here, run, outcome, self._house.clock())
        if outcome.kind == "retry" and tries - run.forgiven < retry.attempts(policy):
            pause = outcome.retry_after
            if pause is None:
                pause = retry.pause(policy, tries - run.forgiven, self._random)
            return replace(here, wake_at=self._house.clock() + timedelta(seconds=pause))
        return replace(
            here,
            status="failed",
            job=run.job,
            error=f"{run.at} ({action}): {outcome.error}" + (f" after {tries} attempts" if tries > 1 else ""),
            step=replace(row, status="failed"),
            outcome=replace(outcome, kind="failed"),
        )

    # Postgres

    async def _settle(self, run: Run, settlement: Settlement) -> bool:
        moment = self._house.clock()
        return await self._database(partial(runs.settle_run, self._house.database, run, settlement, moment))

    def _note(self, run: Run, settlement: Settlement) -> None:
        runs.note_attempt(self._house.database, run, settlement, self._house.clock())

    async def _way_out(self, account_id: int) -> WayOut:
        """What the account sends with and where not, as it was two seconds ago at most; still encrypted."""
        asked_at, asking = self._ways_out.get(account_id, (0.0, None))
        if asking is None or time.monotonic() - asked_at > _FRESH:
            asking = asyncio.create_task(self._database(partial(outward.find_way_out, self._house, account_id)))
            self._ways_out[account_id] = (time.monotonic(), asking)
        return await asyncio.shield(asking)

    async def _disable(self, run: Run, outcome: Outcome) -> None:
        """The target said that it is gone: nobody calls it any more, whatever becomes of this run."""
        target, reason = str(outcome.gone), str(outcome.error)
        await self._database(partial(outward.disable_target, self._house, run.account_id, target, reason, run.id))
        self._ways_out.pop(run.account_id, None)

    async def _keep_message(self, run: Run, text: str, data: Mapping[str, Any]) -> UUID:
        """Keep what a step of the run says; the message's id. Said again, it is the same message."""
        return await self._database(partial(streaming.keep_message, self._house, run, text, data))

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


def _held_back(here: Settlement, run: Run, outcome: Outcome, moment: datetime) -> Settlement:
    """No attempt was made and none is counted; the run comes back later, and its step says why."""
    wake_at = moment + timedelta(seconds=outcome.retry_after or 1.0)
    return replace(here, attempt=run.attempt, wake_at=wake_at, outcome=None, tried_at=None)


def _may_have_missed_events(run: Run) -> bool:
    """Whether it has not been running until now: it is new, or it had failed and a person has it retried."""
    return run.turn == 0 or 0 < run.forgiven == run.attempt


def _wait(run: Run, step: Mapping[str, Any], began: datetime) -> Settlement:
    """A wait: the first time it is entered and its end enqueued, the second time it is over."""
    if run.step_started_at is None:
        return _enter(run, steps.WAIT, step, began, began + read_duration(step["wait"]))
    row = StepRow(str(run.at), step.get("id"), steps.WAIT, "done", run.step_started_at)
    return _on(run, row, steps.following(run.document, str(run.at)), began)


def _enter(run: Run, verb: str, step: Mapping[str, Any], began: datetime, until: datetime) -> Settlement:
    """The run stands at a step that takes time; its next job is due `until`."""
    return Settlement(
        status="running",
        at=run.at,
        ordinal=run.ordinal,
        attempt=0,
        job=run.job + 1,
        wake_at=until,
        step_started_at=began,
        error=None,
        step=StepRow(str(run.at), step.get("id"), verb, "waiting", began),
    )


def _entered_wait_for(run: Run, settlement: Settlement) -> bool:
    return (
        settlement.step.action == steps.WAIT_FOR and settlement.step.status == "waiting" and run.step_started_at is None
    )


def _arrived(run: Run, step: Mapping[str, Any], event: Event, moment: datetime) -> Settlement:
    """The awaited event is there: on into `then`, by a job of its own that is due now."""
    output = {"arrived": True, **_seen(event), "id": str(event.id)}
    row = StepRow(str(run.at), step.get("id"), steps.WAIT_FOR, "done", run.step_started_at or moment, output)
    on = _on(run, row, steps.inside(run.document, str(run.at), "then"), moment)
    return on if on.at is None else replace(on, job=run.job + 1)


def _exit(run: Run, event: Event, moment: datetime) -> Settlement:
    """`exit_on`: the run ends where it stands."""
    step = steps.step_at(run.document, str(run.at))
    why = f"exit_on: {event.event} (event {event.id})"
    row = StepRow(str(run.at), step.get("id"), steps.verb_of(step), "skipped", run.step_started_at or moment, error=why)
    return Settlement(
        status="exited",
        at=run.at,
        ordinal=run.ordinal,
        attempt=run.attempt,
        job=run.job,
        wake_at=None,
        step_started_at=run.step_started_at,
        error=why,
        step=row,
    )


def _decide(run: Run, step: Mapping[str, Any], began: datetime) -> Settlement:
    """An `if`: on into one of its branches."""
    holds, why = compile_filter(step["if"], also=RUN_NAMES).holds(_names(run))
    branch = "then" if holds else "else"
    output = {"taken": branch, **({"why": why} if why else {})}
    row = StepRow(str(run.at), step.get("id"), steps.IF, "done", began, output)
    return _on(run, row, steps.inside(run.document, str(run.at), branch), began)


def _on(run: Run, row: StepRow, at: str | None, began: datetime, outcome: Outcome | None = None) -> Settlement:
    """The step is done: on to the one at `at`, or to the end."""
    return Settlement(
        status="done" if at is None else "running",
        at=at,
        ordinal=run.ordinal + 1,
        attempt=0,
        job=run.job,
        wake_at=None if at is None else began,
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
        run, at=settlement.at, ordinal=settlement.ordinal, attempt=0, forgiven=0, turn=run.turn + 1, outputs=outputs,
        step_started_at=None,
    )  # fmt: skip


def _names(run: Run) -> dict[str, Any]:
    """What templates and conditions see."""
    seen = _seen(run.event)
    return {
        **seen,
        "run": {"id": str(run.id), "workflow": run.workflow, "version": run.version},
        "steps": run.outputs,
        "matched": [_seen(event) for event in run.matched],
    }


def _seen(event: Event) -> dict[str, Any]:
    return {
        "event": event.event,
        "distinct_id": event.distinct_id,
        "phone": event.phone,
        "data": event.data,
        "received_at": event.received_at.isoformat().replace("+00:00", "Z"),
    }


def sweep(house: Journey) -> None:
    """Jobs for orphaned runs, partitions for the coming months, and out with what is too old to be of use."""
    moment = house.clock()
    for chore in (
        queue.cancel_runs_without_workflow,
        queue.enqueue_orphans,
        queue.enqueue_overdue_deadlines,
        partitions.ensure_partitions,
        queue.prune_queue_log,
        queue.forget_old_idempotency_keys,
        progress.forget_stale_progress,
        messages.forget_old_messages,
        messages.forget_old_tickets,
    ):
        # Each by itself: what stops one of them must not stop the others.
        try:
            with house.database.transaction() as connection:
                chore(connection, moment)
        except Unavailable:
            raise
        except Exception:
            _log.exception("a chore of the sweep broke off", chore=chore.__name__)


async def work(house: Journey, concurrency: int, stop: asyncio.Event) -> None:
    """Work on the queue's jobs until `stop` is set; survives Postgres going away."""
    threads = ThreadPoolExecutor(max_workers=min(house.settings.database_pool, 8), thread_name_prefix="postgres")
    async with outbound.open_session(house.settings) as session:
        advancer = Advancer(house, session, threads, concurrency)
        settings = replace(house.settings, worker_concurrency=concurrency)
        carriers: worker.Carriers = {
            "run": (advancer.advance, (int, UUID, int)),
            "event": (advancer.wake, (int, UUID)),
            "deadline": (advancer.fire_deadline, (int, UUID, progress.subject_of_payload)),
        }
        await worker.work(house.settings.database_url, settings, carriers, stop=stop, sweep=advancer.sweep)
    threads.shutdown()
