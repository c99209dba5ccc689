"""Use cases for runs: retry and cancel. One transaction each."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from app.db import inspection, run_admin, run_blocks
from app.services.context import AppContext


def retry_runs(context: AppContext, account_id: int, run_ids: Collection[UUID]) -> set[UUID]:
    """Let failed runs go on where they failed, with the same idempotency keys; those that had not failed are left out."""
    with context.database.transaction() as connection:
        return run_admin.retry_runs(connection, account_id, run_ids, context.clock())


def cancel_run(context: AppContext, account_id: int, run_id: UUID) -> bool:
    """End a running run where it stands, with all its blocks; False when it has ended already (or there is none). The id
    of a block stands for the run that it belongs to."""
    with context.database.transaction() as connection:
        run = inspection.find_run(connection, account_id, run_id)
        if run is None:
            return False
        root = run.root_id or run.id
        return (
            run_blocks.end_run_tree(connection, account_id, root, "cancelled", "cancelled by hand", context.clock()) > 0
        )
