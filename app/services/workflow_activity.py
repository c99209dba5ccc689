"""What the workflows of an account do now, and the versions of one. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.db import audit, workflow_activity
from app.db.audit import EntryFilter
from app.db.document_versions import WORKFLOW_VERSIONS
from app.db.workflow_activity import NotStarted, WaitingRun, WorkflowName
from app.db.workflows import WorkflowRow
from app.services.context import AppContext

DAYS = 7
# Runs that one request can cancel or delete within seconds; the commands take any number.
MAX_CANCELLED, MAX_DELETED = 5_000, 20_000
_MAX_WAITING, _MAX_NOT_STARTED = 3, 20
# Entries of the audit log in which the authors of versions are looked for.
_MAX_ENTRIES = 200


@dataclass(frozen=True, slots=True)
class RunCounts:
    """How many runs a workflow has, and how many of them are running, without blocks; and how many subjects have progress in it.
    At most MAX_RUNS, MAX_COUNTED and MAX_RUNS are counted. One request cancels the running ones if they `can_be_cancelled`, and
    deletes all if they `can_be_deleted`."""

    total: int
    running: int
    subjects: int = 0

    @property
    def can_be_cancelled(self) -> bool:
        """Whether at most MAX_CANCELLED are running."""
        return self.running <= MAX_CANCELLED

    @property
    def can_be_deleted(self) -> bool:
        """Whether the runs are at most MAX_DELETED, and so are the subjects with progress."""
        return max(self.total, self.subjects) <= MAX_DELETED


@dataclass(frozen=True, slots=True)
class Activity:
    """What a workflow did in each of the last DAYS times 24 hours, the oldest first, and how many runs are at each step now, by
    its path. Numbers end at MAX_COUNTED."""

    starts: Sequence[int]
    failed: Sequence[int]
    running: Sequence[tuple[str, int]]

    @property
    def waiting(self) -> Sequence[tuple[str, int]]:
        """How many runs are at each step, without their blocks."""
        return [(path, count) for path, count in self.running if ".par[" not in path]


@dataclass(frozen=True, slots=True)
class Details:
    """What a workflow does: its activity, the first runs at each step, how many subjects have fulfilled a part of its pattern,
    and the latest events that did not start it."""

    activity: Activity
    waiting: Sequence[WaitingRun]
    on_the_way: int
    not_started: Sequence[NotStarted]


def list_names(context: AppContext, account_id: int, *, after: str = "", limit: int) -> list[WorkflowName]:
    """Workflows of an account by name, those after `after`, without their documents."""
    with context.database.transaction() as connection:
        return workflow_activity.list_names(connection, account_id, after, limit)


def list_activity(
    context: AppContext, account_id: int, *, part: str = "", after: str = "", limit: int
) -> list[tuple[WorkflowName, Activity]]:
    """Workflows of an account by name, those after `after` that have `part` in their names, in capital letters or not, without
    their documents, and what each does."""
    with context.database.transaction() as connection:
        names = workflow_activity.list_names(connection, account_id, after, limit, part)
        found = _find_activity(connection, account_id, [one.id for one in names], context.clock())
    return [(one, found[one.id]) for one in names]


def find_details(context: AppContext, workflow: WorkflowRow) -> Details:
    """What a workflow does now."""
    now, account_id = context.clock(), workflow.account_id
    with context.database.transaction() as connection:
        activity = _find_activity(connection, account_id, [workflow.id], now)[workflow.id]
        waiting = workflow_activity.find_waiting(connection, account_id, workflow.id, _MAX_WAITING)
        on_the_way = workflow_activity.count_progress(connection, account_id, workflow.id)
        names = workflow_activity.find_triggers(connection, account_id, workflow.id)
        not_started = workflow_activity.find_not_started(
            connection, account_id, workflow.name, names, now - timedelta(days=DAYS), _MAX_NOT_STARTED
        )
    return Details(activity, waiting, on_the_way, not_started)


def _find_activity(
    connection: sa.Connection, account_id: int, workflow_ids: Sequence[UUID], now: datetime
) -> dict[UUID, Activity]:
    starts = {one: [0] * DAYS for one in workflow_ids}
    failed = {one: [0] * DAYS for one in workflow_ids}
    running: dict[UUID, list[tuple[str, int]]] = {one: [] for one in workflow_ids}
    times = [now - timedelta(days=days) for days in range(DAYS, 0, -1)]
    # A run may have been started by a process whose clock is ahead.
    times.append(now + timedelta(hours=1))
    for workflow_id, day, count, failures in workflow_activity.count_starts(
        connection, account_id, workflow_ids, times
    ):
        starts[workflow_id][day], failed[workflow_id][day] = count, failures
    for workflow_id, path, count in workflow_activity.count_running(connection, account_id, workflow_ids):
        running[workflow_id].append((path, count))
    return {one: Activity(starts[one], failed[one], running[one]) for one in workflow_ids}


@dataclass(frozen=True, slots=True)
class SavedVersion:
    """A version of a workflow: when it was saved, and by whom (None: the audit log does not say it)."""

    version: int
    created_at: datetime
    author: str | None


def list_versions(
    context: AppContext, workflow: WorkflowRow, *, before: int | None = None, limit: int
) -> list[SavedVersion]:
    """Versions of a workflow, the newest first: those before `before`."""
    wanted = EntryFilter(workflow.account_id, action="workflow", object_id=workflow.name)
    with context.database.transaction() as connection:
        found = WORKFLOW_VERSIONS.list_latest(connection, workflow.account_id, workflow.id, limit, before)
        entries = audit.list_entries(connection, wanted, _MAX_ENTRIES)
    # A workflow of the same name may have been deleted before.
    saved = [entry for entry in entries if entry.at >= workflow.created_at and entry.action != "workflow.enable"]
    authors = {(entry.after or {}).get("version"): entry.actor for entry in saved}
    return [SavedVersion(one.version, one.created_at, authors.get(one.version)) for one in found]


def count_runs(context: AppContext, account_id: int, workflow_id: UUID) -> RunCounts:
    """How many runs a workflow has."""
    with context.database.transaction() as connection:
        return count_runs_in(connection, account_id, workflow_id)


def count_runs_in(connection: sa.Connection, account_id: int, workflow_id: UUID) -> RunCounts:
    """How many runs a workflow has, in the caller's transaction."""
    return RunCounts(*workflow_activity.count_runs(connection, account_id, workflow_id))
