"""What people ask: what became of this event, where does this run stand and how did it get there? Changes nothing.

Comes in: the house, an account and an id or a filter. Goes out: frozen values. Each function is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.durations import read_duration
from app.db import event_queries, inspection, workflows
from app.db.event_queries import Received
from app.db.inspection import AttemptStory, EventsWanted, RunRow, RunsWanted, StepStory, StoredEvent
from app.services.context import AppContext

# Rounds may start thousands of them.
MOST_BLOCKS_TOLD = 100


@dataclass(frozen=True, slots=True)
class RunStory:
    """A run from its start to where it stands: `ends` says until when a step waits at most, by its ordinal; `verb` what
    the step does at which the run stands (None: it stands at none); `blocks` are those of its `par` steps, of more than
    MOST_BLOCKS_TOLD the first."""

    run: RunRow
    event: StoredEvent | None
    steps: Sequence[StepStory]
    attempts: Sequence[AttemptStory]
    ends: Mapping[int, datetime]
    verb: str | None
    blocks: Sequence[RunStory] = ()


@dataclass(frozen=True, slots=True)
class EventStory:
    """An event with the decisions that were made about it, and the runs that it has started."""

    event: StoredEvent
    runs: Sequence[RunRow]


def owners_of_run(context: AppContext, run_id: UUID) -> list[int]:
    """The ids of the accounts that have a run of this id: none or, all but always, one."""
    with context.database.transaction() as connection:
        return inspection.find_accounts_with_run(connection, run_id)


def owners_of_event(context: AppContext, event_id: UUID) -> list[int]:
    """The ids of the accounts that have an event of this id: none or, all but always, one."""
    with context.database.transaction() as connection:
        return inspection.find_accounts_with_event(connection, event_id)


def latest_runs(context: AppContext, account_id: int, wanted: RunsWanted, limit: int | None) -> list[RunRow]:
    """The wanted runs of an account, newest first."""
    with context.database.transaction() as connection:
        inspection.be_patient(connection)
        return inspection.find_latest_runs(connection, account_id, wanted, limit)


def latest_events(context: AppContext, account_id: int, wanted: EventsWanted, limit: int) -> list[StoredEvent]:
    """The wanted events of an account, newest first."""
    with context.database.transaction() as connection:
        inspection.be_patient(connection)
        return inspection.find_latest_events(connection, account_id, wanted, limit)


def further_events(
    context: AppContext, account_id: int, wanted: EventsWanted, known: Iterable[UUID], limit: int
) -> list[StoredEvent]:
    """The wanted events of an account that are not among the known ones, oldest first."""
    with context.database.transaction() as connection:
        return inspection.find_further_events(connection, account_id, wanted, known, limit)


def run_story(context: AppContext, account_id: int, run_id: UUID) -> RunStory | None:
    """All that is known of a run; None when the account has none of this id."""
    with context.database.transaction() as connection:
        run = inspection.find_run(connection, account_id, run_id)
        if run is None:
            return None
        _, document = workflows.find_version(connection, account_id, run.workflow_id, run.version)
        return _story(connection, run, document)


def _story(connection: sa.Connection, run: RunRow, document: Mapping[str, Any]) -> RunStory:
    # Imports the actions and their libraries, which lists do without.
    from app.workflows import step_graph

    entered = inspection.find_steps_of_run(connection, run.account_id, run.id)
    blocks = []
    if step_graph.has_blocks(document):
        blocks = inspection.find_blocks_of_run(connection, run.account_id, run.id, MOST_BLOCKS_TOLD)
    return RunStory(
        run=run,
        event=inspection.find_stored_event(connection, run.account_id, run.event_id),
        steps=entered,
        attempts=inspection.find_attempts_of_run(connection, run.account_id, run.id),
        ends={step.ordinal: end for step in entered if (end := _end_of(document, step)) is not None},
        verb=None if run.at is None else step_graph.verb_of(step_graph.step_at(document, run.at)),
        blocks=[_story(connection, block, document) for block in blocks],
    )


def _end_of(document: Mapping[str, Any], step: StepStory) -> datetime | None:
    """Until when a step waits at most; None for one that does not wait."""
    from app.workflows import step_graph

    field = {step_graph.WAIT: "wait", step_graph.WAIT_FOR: "timeout"}.get(step.action)
    return step.started_at + read_duration(step_graph.step_at(document, step.path)[field]) if field else None


def event_story(context: AppContext, account_id: int, event_id: UUID) -> EventStory | None:
    """All that is known of an event; None when the account has none of this id."""
    with context.database.transaction() as connection:
        event = inspection.find_stored_event(connection, account_id, event_id)
        if event is None:
            return None
        runs = inspection.find_runs_of_event(connection, account_id, event_id)
    return EventStory(event, runs)


def latest_received(context: AppContext, account_id: int, limit: int) -> list[Received]:
    """The last events that CxEngage's receiver accepted, newest first."""
    with context.database.transaction() as connection:
        return event_queries.find_latest_received(connection, account_id, limit)
