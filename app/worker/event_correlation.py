"""Finds the runs that an event concerns, and the events that a run has missed.

An event is committed before its job is visible, and a run that begins to wait is committed before it looks for earlier
events. Whichever comes second finds the other, so no event is missed.

The key of a workflow says whose events concern its runs. When it is a field other than distinct_id, the event's value under
it is saved (`keyed_events`) before runs are looked for, and the run's value is saved before events are looked for.

An event that a `wait_for` takes does not also end the run by `exit_on`. Each run takes an event once. The blocks of a `par`
are runs of their own, so one event may be taken by several of them. `exit_on` ends a run with all its blocks, unless one of
them has taken the event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from app.core.models import Event, Run
from app.db import event_keys, event_queries, run_trees, run_updates, runs
from app.db.run_updates import RunUpdate
from app.services import transitions
from app.services.context import AppContext
from app.worker import run_metrics
from app.worker.db_retry import RetryUntilAvailable
from app.worker.isolation import NeedsIsolation
from app.workflows import step_graph
from app.workflows.matching.rule import DISTINCT_ID, evaluate_leaf, event_variables, find_subject, leaf_matches


class EventCorrelator:
    """Advances and ends runs by events."""

    def __init__(self, context: AppContext, retry: RetryUntilAvailable, *, alone: bool = False) -> None:
        self._context = context
        self._alone = alone
        self._database = context.database
        self._shares = context.limits.shares
        self._query = retry.run

    async def deliver(self, account_id: int, event_id: UUID) -> list[UUID]:
        """Advance the runs that wait for this event, and end those that exit on it. Returns a run of each workflow that is
        executed alone. Raises NeedsIsolation for such a run in a process that executes others."""
        event = await self._query(runs.find_event, self._database, account_id, event_id)
        isolated = dict[UUID, UUID]()
        if event is None:
            return []
        subjects = await self._save_keys(event)
        after, exiting = UUID(int=0), dict[UUID, Run]()
        while page := await self._query(runs.find_running_runs_of_subject, self._database, event, subjects, after):
            for run in page:
                # A filter may take 20 ms: the jobs of others go on between two, for longer when the share is used up.
                await asyncio.sleep(self._shares.seconds_left(account_id))
                if not _is_about(event, run):
                    continue
                if run.isolation is not None:
                    if not self._alone:
                        raise NeedsIsolation(is_proven=run.isolation == "killed")
                    isolated[run.workflow_id] = run.id
                await self._deliver_to(run, event)
                if self._exits_on(run, event) and step_graph.has_parallel_blocks(run.document):
                    exiting.setdefault(run.root_id or run.id, run)
            after = page[-1].id
        # Last, since one of the blocks may have waited for the event.
        for run in exiting.values():
            await self._query(self._exit_run_tree, run, event)
        return list(isolated.values())

    async def _save_keys(self, event: Event) -> list[str]:
        """Save the event's values under the keys by which runs of the account wait; these values."""
        keys = await self._query(event_keys.find_correlation_keys, self._database, event.account_id)
        found = {key: find_subject(key, event_variables(event)) for key in keys if key != DISTINCT_ID}
        subjects = {key: subject for key, subject in found.items() if subject is not None}
        if subjects:
            # Before runs are looked for: a run that begins to wait meanwhile finds the event.
            await self._query(event_keys.save_event_keys, self._database, event, subjects)
        return list(subjects.values())

    async def save_subject(self, run: Run) -> Run:
        """The claimed run; its subject under the workflow's key is saved before any events are looked for."""
        key = _key_of(run)
        if key == DISTINCT_ID or run.subject is not None or not step_graph.find_awaited_leaves(run.document):
            return run
        subject = find_subject(key, event_variables(run.event))
        if subject is None:
            return run
        await self._query(event_keys.save_run_subject, self._database, run, subject)
        return replace(run, subject=subject)

    async def check_exit(self, run: Run) -> Run | None:
        """The run; None when an earlier event has ended it by `exit_on`."""
        event = await self._find_exit_event(run, await self._find_events_since_start(run, run.document["exit_on"]))
        if event is None:
            return run
        if step_graph.has_parallel_blocks(run.document):
            await self._query(self._exit_run_tree, run, event)
        else:
            await self._write(run, transitions.exit_run(run, event, self._context.clock()))
        return None

    async def deliver_missed_event(self, account_id: int, run_id: UUID) -> None:
        """Deliver the event that a run waits for, if it came after the run's start and before the wait."""
        run = await self._query(runs.find_running_run, self._database, account_id, run_id)
        if run is None or run.step_started_at is None:
            return
        update = await self.find_awaited_event(run)
        if update is not None:
            await self._write(run, update)

    async def find_awaited_event(self, run: Run) -> RunUpdate | None:
        """The update of a run at a `wait_for` by the event that it waits for, if that has come since the run's start."""
        step = step_graph.find_step(run.document, str(run.at))
        if step_graph.WAIT_FOR not in step:
            return None
        found = await self._find_events_since_start(run, step[step_graph.WAIT_FOR])
        if not found:
            return None
        # Another wait_for of the run may have taken the event.
        taken = await self._query(runs.find_awaited_events, self._database, run)
        remaining = [event for event in found if event.id not in taken]
        return transitions.event_received(run, remaining[0], self._context.clock()) if remaining else None

    async def explain_timeout(self, run: Run) -> str | None:
        """Why the filter of a `wait_for` could not be evaluated for the last event that it could not be evaluated for."""
        leaf = step_graph.find_step(run.document, str(run.at))[step_graph.WAIT_FOR]
        if isinstance(leaf, str) or "where" not in leaf:
            return None
        events = await self._find_named_events_since_start(run, leaf)
        for event in reversed(events):
            await asyncio.sleep(0)
            if reason := evaluate_leaf(leaf, event)[1]:
                return f"{event.event} (event {event.id}): {reason}"
        return None

    async def _deliver_to(self, found: Run, event: Event) -> None:
        run: Run | None = found
        while run is not None:
            update = await self._find_update(run, event)
            if update is None or await self._write(run, update):
                return
            # Another worker has advanced the run: the event may mean something else to it now.
            run = await self._query(runs.find_running_run, self._database, run.account_id, run.id)

    async def _find_update(self, run: Run, event: Event) -> RunUpdate | None:
        """What a later event of its subject does to a run, not counting its blocks; None for nothing."""
        step = step_graph.find_step(run.document, str(run.at))
        if (
            step_graph.WAIT_FOR in step
            and run.step_started_at is not None
            and self._matches(step[step_graph.WAIT_FOR], event)
        ):
            taken = await self._query(runs.find_awaited_events, self._database, run)
            return None if event.id in taken else transitions.event_received(run, event, self._context.clock())
        if step_graph.has_parallel_blocks(run.document) or not await self._find_exit_event(run, [event]):
            return None
        return transitions.exit_run(run, event, self._context.clock())

    async def _find_exit_event(self, run: Run, candidates: Iterable[Event]) -> Event | None:
        """The first of the events that ends the run by `exit_on`."""
        found = await _select(candidates, lambda event: self._exits_on(run, event))
        if not found:
            return None
        taken = await self._query(run_trees.find_awaited_events_of_tree, self._database, run)
        return next((event for event in found if event.id not in taken), None)

    def _exit_run_tree(self, run: Run, event: Event) -> None:
        root, reason, now = run.root_id or run.id, transitions.exit_reason(event), self._context.clock()
        with self._database.transaction() as connection:
            run_trees.end_run_trees(connection, run.account_id, [root], "exited", reason, now, unless_taken=event.id)

    async def _find_events_since_start(self, run: Run, leaf: Any) -> list[Event]:
        """The subject's events since the run's start that match a leaf of a pattern, oldest first."""
        return await _select(
            await self._find_named_events_since_start(run, leaf), lambda event: self._matches(leaf, event)
        )

    async def _find_named_events_since_start(self, run: Run, leaf: Any) -> list[Event]:
        """The subject's events since the run's start with the name of a leaf, oldest first."""
        name = leaf if isinstance(leaf, str) else leaf["event"]
        database, key = self._database, _key_of(run)
        found = await self._all_pages(run, lambda since: runs.find_events_of_subject_since(database, since, [name]))
        if key != DISTINCT_ID and (subject := run.subject) is not None:
            found += await self._all_pages(
                run,
                lambda since: event_keys.find_events_by_key(database, run.account_id, key, subject, since, [name]),
            )
        named = {event.id: event for event in found if _is_about(event, run)}
        return [named[event_id] for event_id in sorted(named)]

    async def _all_pages(self, run: Run, find_page: Callable[[Event], list[Event]]) -> list[Event]:
        since, found = run.event, list[Event]()
        while True:
            page = await self._query(find_page, since)
            found += page
            if len(page) < event_queries.PAGE:
                return found
            since = page[-1]

    def _matches(self, leaf: Any, event: Event) -> bool:
        with self._shares.charged(event.account_id):
            return leaf_matches(leaf, event)

    def _exits_on(self, run: Run, event: Event) -> bool:
        return "exit_on" in run.document and self._matches(run.document["exit_on"], event)

    async def _write(self, run: Run, update: RunUpdate) -> bool:
        now = run_updates.update_time(run, self._context.clock())
        is_written: bool = await self._query(run_updates.update_run, self._database, run, update, now)
        if is_written:
            run_metrics.count_update(run, update)
        return is_written


async def _select(events: Iterable[Event], matches: Callable[[Event], bool]) -> list[Event]:
    """The events that match; the jobs of others go on between two."""
    found = []
    for event in events:
        await asyncio.sleep(0)
        if matches(event):
            found.append(event)
    return found


def _key_of(run: Run) -> str:
    return str(run.document.get("key", DISTINCT_ID))


def _is_about(event: Event, run: Run) -> bool:
    """Whether an event has the run's subject under the key of its workflow. Without a value under the key none has."""
    key = _key_of(run)
    if key == DISTINCT_ID:
        return event.distinct_id == run.event.distinct_id
    subject = find_subject(key, event_variables(run.event))
    return subject is not None and subject == find_subject(key, event_variables(event))
