"""What events mean to runs: whom an event wakes or ends, and whether one that a run waits for came already.

An event is committed before its job is seen, and a run that begins to wait is committed before it looks back for events:
whichever comes second finds the other, so that none is missed.

Whose events concern a run the key of its workflow says. Where that is another field than distinct_id, an event is kept by
what it has there (`keyed_events`) before it is looked for runs, and a run says whose it is before it looks back.

An event that a `wait_for` takes is its arrival, and does not end the run by `exit_on` as well. Each run takes an event once;
the blocks of a `par` are runs of their own, so that one event may arrive in several of them. `exit_on` ends a run with all
its blocks, unless one of them has taken the event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from app.core.models import Event, Run
from app.db import correlation_keys, event_queries, run_blocks, run_updates, runs
from app.db.run_updates import RunUpdate
from app.services.context import AppContext
from app.worker import transitions
from app.worker.db_retry import RetryUntilAvailable
from app.workflows import step_graph
from app.workflows.matching.rule import DISTINCT_ID, event_variables, find_subject, leaf_matches


class EventCorrelator:
    """What a worker needs to let events move runs."""

    def __init__(self, context: AppContext, patience: RetryUntilAvailable) -> None:
        self._context = context
        self._ask = patience.ask

    async def wake(self, account_id: int, event_id: UUID) -> None:
        """Let the runs go on that wait for this event, and end those that it ends."""
        database = self._context.database
        event = await self._ask(partial(runs.find_event, database, account_id, event_id))
        if event is None:
            return
        subjects = await self._note_by_key(event)
        last, families_to_end = UUID(int=0), dict[UUID, Run]()
        while page := await self._ask(partial(runs.find_running_runs_of_subject, database, event, subjects, last)):
            for found in page:
                if not _is_about(event, found):
                    continue
                await self._tell(found, event)
                if _fits_exit(found, event) and step_graph.has_blocks(found.document):
                    families_to_end.setdefault(found.root_id or found.id, found)
            last = page[-1].id
        # Only now, for one of the blocks may have waited for it.
        for found in families_to_end.values():
            await self._end_family(found, event)

    async def _note_by_key(self, event: Event) -> list[str]:
        """Keep what the event has under the keys by which runs of the account wait; the subjects that this gives."""
        keys = await self._ask(partial(correlation_keys.find_keys, self._context.database, event.account_id))
        found = {key: find_subject(key, event_variables(event)) for key in keys if key != DISTINCT_ID}
        subjects = {key: subject for key, subject in found.items() if subject is not None}
        if subjects:
            # Before it is looked for runs: one that begins to wait meanwhile finds it here.
            await self._ask(partial(correlation_keys.note_event, self._context.database, event, subjects))
        return list(subjects.values())

    async def known(self, run: Run) -> Run:
        """A run that was claimed; it says whose events it waits for from now on, before anybody looks for these."""
        key = _key_of(run)
        if key == DISTINCT_ID or run.subject is not None or not step_graph.leaves_awaited(run.document):
            return run
        subject = find_subject(key, event_variables(run.event))
        if subject is None:
            return run
        await self._ask(partial(correlation_keys.note_subject, self._context.database, run, subject))
        return replace(run, subject=subject)

    async def still_wanted(self, run: Run) -> Run | None:
        """The run, unless an event that ends it came before this."""
        event = await self._ends(run, await self._fitting_since(run, run.document["exit_on"]))
        if event is None:
            return run
        if step_graph.has_blocks(run.document):
            await self._end_family(run, event)
        else:
            await self._settle(run, transitions.exited(run, event, self._context.clock()))
        return None

    async def look_back(self, account_id: int, run_id: UUID) -> None:
        """If a run has begun to wait for an event: did it come already, after the run's start?"""
        run = await self._ask(partial(runs.find_running_run, self._context.database, account_id, run_id))
        if run is None or run.step_started_at is None:
            return
        found = await self.arrival(run)
        if found is not None:
            await self._settle(run, found)

    async def arrival(self, run: Run) -> RunUpdate | None:
        """What the awaited event does to a run that stands at a `wait_for`, if it has come since the run's start."""
        step = step_graph.step_at(run.document, str(run.at))
        if step_graph.WAIT_FOR not in step:
            return None
        found = await self._fitting_since(run, step[step_graph.WAIT_FOR])
        if not found:
            return None
        # An event that one wait_for of the run has taken is not there for another one.
        taken = await self._ask(partial(runs.find_awaited_events, self._context.database, run))
        left = [event for event in found if event.id not in taken]
        return transitions.arrived(run, left[0], self._context.clock()) if left else None

    async def _tell(self, found: Run, event: Event) -> None:
        """Do to a run what the event means to it."""
        run: Run | None = found
        while run is not None:
            update = await self._answer(run, event)
            if update is None or await self._settle(run, update):
                return
            # Somebody moved it meanwhile: what does the event mean to it now?
            run = await self._ask(partial(runs.find_running_run, self._context.database, run.account_id, run.id))

    async def _answer(self, run: Run, event: Event) -> RunUpdate | None:
        """What an event of its subject, later than its start, does to a run by itself; None: nothing."""
        step = step_graph.step_at(run.document, str(run.at))
        if (
            step_graph.WAIT_FOR in step
            and run.step_started_at is not None
            and leaf_matches(step[step_graph.WAIT_FOR], event)
        ):
            taken = await self._ask(partial(runs.find_awaited_events, self._context.database, run))
            return None if event.id in taken else transitions.arrived(run, event, self._context.clock())
        if step_graph.has_blocks(run.document) or not await self._ends(run, [event]):
            return None
        return transitions.exited(run, event, self._context.clock())

    async def _ends(self, run: Run, candidates: Iterable[Event]) -> Event | None:
        """The first of the events that ends the run by `exit_on`."""
        found = [event for event in candidates if _fits_exit(run, event)]
        if not found:
            return None
        taken = await self._ask(partial(run_blocks.find_awaited_events, self._context.database, run))
        return next((event for event in found if event.id not in taken), None)

    async def _end_family(self, run: Run, event: Event) -> None:
        await self._ask(partial(self._end_family_now, run, event))

    def _end_family_now(self, run: Run, event: Event) -> None:
        root, why, moment = run.root_id or run.id, transitions.exit_reason(event), self._context.clock()
        with self._context.database.transaction() as connection:
            run_blocks.end_run_tree(connection, run.account_id, root, "exited", why, moment, unless_taken=event.id)

    async def _fitting_since(self, run: Run, leaf: Any) -> list[Event]:
        """The subject's events since the run's start that match a leaf, oldest first."""
        name = leaf if isinstance(leaf, str) else leaf["event"]
        database, key = self._context.database, _key_of(run)
        found = await self._all(run, lambda since: runs.find_events_of_subject_since(database, since, [name]))
        if key != DISTINCT_ID and (subject := run.subject) is not None:
            found += await self._all(
                run,
                lambda since: correlation_keys.find_events_by_key(
                    database, run.account_id, key, subject, since, [name]
                ),
            )
        about = {event.id: event for event in found if leaf_matches(leaf, event) and _is_about(event, run)}
        return [about[event_id] for event_id in sorted(about)]

    async def _all(self, run: Run, page_since: Callable[[Event], list[Event]]) -> list[Event]:
        """All pages of what came since the run's start."""
        since, found = run.event, list[Event]()
        while True:
            page = await self._ask(partial(page_since, since))
            found += page
            if len(page) < event_queries.PAGE:
                return found
            since = page[-1]

    async def _settle(self, run: Run, update: RunUpdate) -> bool:
        moment = run_updates.moment_after(run, self._context.clock())
        return await self._ask(partial(run_updates.update_run, self._context.database, run, update, moment))


def _key_of(run: Run) -> str:
    return str(run.document.get("key", DISTINCT_ID))


def _is_about(event: Event, run: Run) -> bool:
    """Whether an event is of the run's subject, by the key of its workflow. Without a value under the key nothing is."""
    key = _key_of(run)
    if key == DISTINCT_ID:
        return event.distinct_id == run.event.distinct_id
    subject = find_subject(key, event_variables(run.event))
    return subject is not None and subject == find_subject(key, event_variables(event))


def _fits_exit(run: Run, event: Event) -> bool:
    return "exit_on" in run.document and leaf_matches(run.document["exit_on"], event)
