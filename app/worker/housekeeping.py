"""Housekeeping that any worker may do at any time."""

from __future__ import annotations

import structlog

from app.core.errors import Unavailable
from app.db import event_keys, job_queue, match_state, messages, migrate
from app.services.context import AppContext

_log = structlog.get_logger()


def sweep(context: AppContext) -> None:
    """Enqueue the jobs of orphaned runs, create partitions for the coming months, and delete what is past its retention."""
    now = context.clock()
    for task in (
        job_queue.move_previous_jobs,
        job_queue.cancel_runs_without_workflow,
        job_queue.wake_parents_without_blocks,
        job_queue.enqueue_orphans,
        job_queue.enqueue_overdue_deadlines,
        migrate.ensure_partitions,
        job_queue.forget_old_idempotency_keys,
        match_state.forget_stale_progress,
        messages.forget_old_messages,
        messages.forget_old_tickets,
        event_keys.delete_old_keys,
    ):
        # One transaction each: a task that fails must not stop the others.
        try:
            with context.database.transaction() as connection:
                task(connection, now)
        except Unavailable:
            raise
        except Exception:
            _log.exception("a housekeeping task failed", task=task.__name__)
