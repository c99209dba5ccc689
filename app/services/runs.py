"""Retries and cancels runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.db import inspection, run_trees, run_updates
from app.db.audit import Change
from app.db.inspection import RunFilter, RunRow
from app.services import audit
from app.services.context import AppContext

# Runs that one request of a person retries or cancels.
MAX_PLANNED = 500
# Runs that one statement retries, and ids of runs that the audit log names.
_BATCH, _MAX_RECORDED = 500, 100


def plan_runs(context: AppContext, account_id: int, wanted: RunFilter) -> tuple[list[RunRow], bool]:
    """The runs that pass the filter, the newest MAX_PLANNED, and whether there are more: a person sees how many they are before
    they are retried or cancelled."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        found = inspection.find_latest_runs(connection, account_id, wanted, MAX_PLANNED + 1)
    return found[:MAX_PLANNED], len(found) > MAX_PLANNED


def retry_runs(
    context: AppContext,
    account_id: int,
    run_ids: Collection[UUID],
    *,
    chosen_by: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], object] = lambda count: None,
) -> set[UUID]:
    """Retry failed runs at the failed step, with the same idempotency keys; returns the ids of those that had failed.

    `chosen_by`: the filter that found them, for the audit log. `on_batch` is called with the number of runs of each statement.
    """
    ordered, retried = list(run_ids), set[UUID]()
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        for begin in range(0, len(ordered), _BATCH):
            batch = ordered[begin : begin + _BATCH]
            retried |= run_updates.retry_runs(connection, account_id, batch, context.clock())
            on_batch(len(batch))
        _record(connection, context, account_id, "run.retry", [run for run in ordered if run in retried], chosen_by)
    return retried


def cancel_runs(
    context: AppContext, account_id: int, run_ids: Iterable[UUID], *, chosen_by: Mapping[str, Any] | None = None
) -> set[UUID]:
    """Cancel running runs with all their blocks; the ids of those that were running. A block's id cancels the run that it belongs
    to. `chosen_by`: the filter that found them, for the audit log."""
    with context.database.transaction() as connection:
        found = inspection.find_runs(connection, account_id, list(run_ids))
        roots = {run.id: run.root_id or run.id for run in found}
        ended = run_trees.end_run_trees(
            connection, account_id, sorted(set(roots.values())), "cancelled", "cancelled by hand", context.clock()
        )
        cancelled = [run_id for run_id, root in roots.items() if root in ended]
        _record(connection, context, account_id, "run.cancel", cancelled, chosen_by)
    return set(cancelled)


def _record(
    connection: sa.Connection,
    context: AppContext,
    account_id: int,
    action: str,
    run_ids: list[UUID],
    chosen_by: Mapping[str, Any] | None = None,
) -> None:
    """Record what a person did to runs: one entry for all of them, none if there are none."""
    if not run_ids:
        return
    after: dict[str, Any] = {"count": len(run_ids)}
    if chosen_by is not None:
        after["chosen_by"] = chosen_by
    if len(run_ids) > 1:
        after["runs"] = run_ids[:_MAX_RECORDED]
    object_id = str(run_ids[0]) if len(run_ids) == 1 else None
    audit.record(connection, context, Change(action, account_id, object_id, None, after))


def cancel_runs_of_workflow(context: AppContext, account_id: int, workflow_id: UUID, reason: str) -> int:
    """Cancel all running runs of a workflow with their blocks; how many, without blocks. A step that is being executed ends, and
    the next one is not executed. Several transactions: may be interrupted and called again."""
    cancelled = 0
    while True:
        with context.database.transaction() as connection:
            roots = run_trees.find_running_roots(connection, account_id, workflow_id)
            if not run_trees.end_run_trees(connection, account_id, roots, "cancelled", reason, context.clock()):
                return cancelled
        cancelled += len(roots)
