"""Use cases for runs: retry and cancel. One transaction each, except where a function says otherwise."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from app.db import inspection, run_trees, run_updates
from app.services.context import AppContext


def retry_runs(context: AppContext, account_id: int, run_ids: Collection[UUID]) -> set[UUID]:
    """Retry failed runs at the failed step, with the same idempotency keys; returns the ids of those that had failed."""
    with context.database.transaction() as connection:
        return run_updates.retry_runs(connection, account_id, run_ids, context.clock())


def cancel_run(context: AppContext, account_id: int, run_id: UUID) -> bool:
    """Cancel a running run with all its blocks; False when it has ended or does not exist. A block's id cancels the run that it
    belongs to."""
    with context.database.transaction() as connection:
        run = inspection.find_run(connection, account_id, run_id)
        if run is None:
            return False
        root = run.root_id or run.id
        return (
            run_trees.end_run_trees(connection, account_id, [root], "cancelled", "cancelled by hand", context.clock())
            > 0
        )


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
