"""Lists events and runs, and shows all details of one. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.durations import read_duration
from app.core.errors import Problem
from app.core.gzip_body import unpack
from app.core.ids import first_id_at
from app.db import event_queries, inspection
from app.db.document_versions import WORKFLOW_VERSIONS
from app.db.event_queries import Received
from app.db.inspection import AttemptDetails, EventFilter, RunFilter, RunRow, RunTotals, StepDetails, StoredEvent
from app.services.context import AppContext

# The largest number that LIMIT takes.
_ALL = 2**63 - 1
# A `repeat` may start thousands.
MAX_BLOCKS_SHOWN = 100
# Seconds.
_MAX_CLOCK_SKEW = 5.0


@dataclass(frozen=True, slots=True)
class RunDetails:
    """A run with its event, steps and attempts.

    `ends`: until when a waiting step waits at most, by its ordinal. `verb`: what the current step does (None: there is
    none). `blocks`: the blocks of its `par` steps, the first MAX_BLOCKS_SHOWN.
    """

    run: RunRow
    event: StoredEvent | None
    steps: Sequence[StepDetails]
    attempts: Sequence[AttemptDetails]
    ends: Mapping[int, datetime]
    verb: str | None
    blocks: Sequence[RunDetails] = ()


@dataclass(frozen=True, slots=True)
class LatestOfRun:
    """A run with its latest steps and attempts, its blocks without theirs, and the totals of all."""

    details: RunDetails
    blocks: Sequence[RunRow]
    totals: RunTotals


@dataclass(frozen=True, slots=True)
class EventDetails:
    """An event with its decisions and the runs that it started."""

    event: StoredEvent
    runs: Sequence[RunRow]


def find_owners_of_run(context: AppContext, run_id: UUID) -> list[int]:
    """The ids of the accounts that have a run of this id; almost always none or one."""
    with context.database.transaction() as connection:
        return inspection.find_accounts_with_run(connection, run_id)


def find_owners_of_event(context: AppContext, event_id: UUID) -> list[int]:
    """The ids of the accounts that have an event of this id; almost always none or one."""
    with context.database.transaction() as connection:
        return inspection.find_accounts_with_event(connection, event_id)


def find_latest_runs(context: AppContext, account_id: int, wanted: RunFilter, limit: int) -> list[RunRow]:
    """The runs of an account that pass the filter, newest first."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return inspection.find_latest_runs(connection, account_id, wanted, limit)


def find_latest_events(
    context: AppContext, account_id: int, wanted: EventFilter, limit: int, *, with_data: bool = True
) -> list[StoredEvent]:
    """The events of an account that pass the filter, newest first; on request without what was sent."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return inspection.find_latest_events(connection, account_id, wanted, limit, with_data=with_data)


def find_further_events(
    context: AppContext, account_id: int, wanted: EventFilter, known: Iterable[UUID], limit: int
) -> list[StoredEvent]:
    """The events of an account that pass the filter and are not among `known`, oldest first."""
    with context.database.transaction() as connection:
        return inspection.find_further_events(connection, account_id, wanted, known, limit)


def committed_until(context: AppContext) -> datetime:
    """All events that were received before are committed: an event has its id before its commit, which may take this long."""
    # A statement may be sent twice, and the clocks of hosts differ.
    return context.clock() - timedelta(seconds=2 * context.settings.statement_timeout + _MAX_CLOCK_SKEW)


def follow_events(
    context: AppContext, account_id: int, wanted: EventFilter, after: UUID | None, limit: int
) -> tuple[list[StoredEvent], UUID]:
    """The events after `after` (None: those of the filter) that pass the filter, oldest first, and the id to continue after.
    Who continues sees each event once and misses none: events appear when all earlier ones are committed."""
    until = committed_until(context)
    end = first_id_at(until)
    begin = after or first_id_at(wanted.since or until)
    if begin >= end:
        return [], begin
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        found = inspection.find_events_after(connection, account_id, replace(wanted, until=until), begin, limit)
    return found, found[-1].id if len(found) == limit else end


def find_run(context: AppContext, account_id: int, run_id: UUID) -> RunRow | None:
    """A run of an account; None when the account has none of this id."""
    with context.database.transaction() as connection:
        return inspection.find_run(connection, account_id, run_id)


def find_runs(context: AppContext, account_id: int, run_ids: Sequence[UUID]) -> list[RunRow]:
    """The runs of an account that have these ids, newest first."""
    with context.database.transaction() as connection:
        return inspection.find_runs(connection, account_id, run_ids)


def find_run_details(context: AppContext, account_id: int, run_id: UUID, *, limit: int = _ALL) -> RunDetails | None:
    """All details of a run; None when the account has none of this id. `limit`: of the run with its blocks, so many steps and
    blocks together, the latest steps of each, and as many attempts as steps could be shown."""
    with context.database.transaction() as connection:
        run = inspection.find_run(connection, account_id, run_id)
        if run is None:
            return None
        version = WORKFLOW_VERSIONS.find(connection, account_id, run.workflow_id, run.version)
        event = inspection.find_stored_event(connection, account_id, run.event_id)
        return _run_details(connection, run, version[1] if version else {}, limit, event)


def find_latest_of_run(
    context: AppContext, account_id: int, run_id: UUID, max_steps: int, max_attempts: int
) -> LatestOfRun | None:
    """The latest steps and attempts of a run; None when the account has none of this id."""
    with context.database.transaction() as connection:
        run = inspection.find_run(connection, account_id, run_id)
        if run is None:
            return None
        version = WORKFLOW_VERSIONS.find(connection, account_id, run.workflow_id, run.version)
        event = inspection.find_stored_event(connection, account_id, run.event_id)
        details = _without_blocks(connection, run, version[1] if version else {}, max_steps, max_attempts, event)
        blocks = inspection.find_blocks_of_run(connection, account_id, run_id, MAX_BLOCKS_SHOWN)
        return LatestOfRun(details, blocks, inspection.find_totals_of_run(connection, account_id, run_id))


def _run_details(
    connection: sa.Connection, run: RunRow, document: Mapping[str, Any], limit: int, event: StoredEvent | None
) -> RunDetails:
    # Imports the actions and their libraries, which lists do without.
    from app.workflows import step_graph

    details = _without_blocks(connection, run, document, limit, limit, event)
    left = limit - len(details.steps)
    blocks: list[RunDetails] = []
    if left > 1 and step_graph.has_parallel_blocks(document):
        for block in inspection.find_blocks_of_run(connection, run.account_id, run.id, MAX_BLOCKS_SHOWN):
            if left <= 1:
                break
            blocks.append(_run_details(connection, block, document, left - 1, event))
            left -= 1 + _size(blocks[-1])
    return replace(details, blocks=blocks)


def _without_blocks(
    connection: sa.Connection,
    run: RunRow,
    document: Mapping[str, Any],
    max_steps: int,
    max_attempts: int,
    event: StoredEvent | None,
) -> RunDetails:
    from app.workflows import step_graph

    entered = inspection.find_steps_of_run(connection, run.account_id, run.id, max_steps)
    return RunDetails(
        run=run,
        event=event,
        steps=entered,
        attempts=inspection.find_attempts_of_run(connection, run.account_id, run.id, max_attempts),
        ends={step.ordinal: end for step in entered if (end := _end_of(document, step)) is not None},
        verb=None if run.at is None else step_graph.find_verb(step_graph.find_step(document, run.at)),
    )


def _size(details: RunDetails) -> int:
    """How many steps, and blocks within it, a block has."""
    return len(details.steps) + sum(1 + _size(block) for block in details.blocks)


def _end_of(document: Mapping[str, Any], step: StepDetails) -> datetime | None:
    """Until when a step waits at most; None when it does not wait."""
    from app.workflows import step_graph

    field = {step_graph.WAIT: "wait", step_graph.WAIT_FOR: "timeout"}.get(step.action)
    return step.started_at + read_duration(step_graph.find_step(document, step.path)[field]) if field else None


def find_event_details(context: AppContext, account_id: int, event_id: UUID) -> EventDetails | None:
    """All details of an event; None when the account has none of this id."""
    with context.database.transaction() as connection:
        event = inspection.find_stored_event(connection, account_id, event_id)
        if event is None:
            return None
        runs = inspection.find_runs_of_event(connection, account_id, event_id)
    return EventDetails(event, runs)


def latest_received(context: AppContext, account_id: int, limit: int) -> list[Received]:
    """The last events that CxEngage's receiver accepted, newest first."""
    with context.database.transaction() as connection:
        return event_queries.find_latest_received(connection, account_id, limit)


def readable_body(context: AppContext, body: bytes, content_encoding: str | None) -> bytes:
    """The body of a request for people: unpacked, where it is gzip that can be unpacked."""
    if content_encoding is None:
        return body
    try:
        return unpack(body, context.settings.max_batch_unpacked_bytes)
    except Problem:
        return body
