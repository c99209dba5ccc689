"""Housekeeping that any worker may do at any time."""

from __future__ import annotations

import structlog

from app.core.errors import Unavailable
from app.db import correlation_keys, job_queue, match_state, messages, partitions
from app.services.context import AppContext

_log = structlog.get_logger()


def sweep(context: AppContext) -> None:
    """Jobs for orphaned runs, partitions for the coming months, and out with what is too old to be of use."""
    moment = context.clock()
    for chore in (
        job_queue.cancel_runs_without_workflow,
        job_queue.wake_parents_of_nobody,
        job_queue.enqueue_orphans,
        job_queue.enqueue_overdue_deadlines,
        partitions.ensure_partitions,
        job_queue.prune_queue_log,
        job_queue.forget_old_idempotency_keys,
        match_state.forget_stale_progress,
        messages.forget_old_messages,
        messages.forget_old_tickets,
        correlation_keys.forget_old_keyed_events,
    ):
        # Each by itself: what stops one of them must not stop the others.
        try:
            with context.database.transaction() as connection:
                chore(connection, moment)
        except Unavailable:
            raise
        except Exception:
            _log.exception("a chore of the sweep broke off", chore=chore.__name__)
