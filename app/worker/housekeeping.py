"""Housekeeping that any worker may do at any time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial

import sqlalchemy as sa
import structlog

from app.core import metrics
from app.core.errors import Unavailable
from app.core.log_config import describe_exception
from app.db import (
    circuits,
    event_keys,
    job_queue,
    match_state,
    messages,
    run_deaths,
    stored_answers,
    table_sizes,
    workers,
)
from app.db.connection import limit_statements
from app.services import startup_checks
from app.services.context import AppContext
from app.services.expiry import delete_expired
from app.services.partitions import make_partitions
from app.services.users import delete_ended_sessions
from app.worker.ending_plans import log_ending_plans

Task = Callable[[sa.Connection, datetime], object]

# Each deletes, moves or changes a limited number of rows.
TASKS: tuple[Task, ...] = (
    run_deaths.add_dead_workers,
    job_queue.cancel_runs_without_workflow,
    job_queue.wake_parents_without_blocks,
    job_queue.enqueue_orphans,
    job_queue.enqueue_overdue_deadlines,
    job_queue.forget_old_idempotency_keys,
    match_state.forget_stale_progress,
    messages.forget_old_messages,
    messages.forget_old_tickets,
    event_keys.delete_old_keys,
    circuits.forget_old_circuits,
    stored_answers.forget_old_answers,
    workers.forget_old_workers,
    log_ending_plans,
    table_sizes.record_table_sizes,
    delete_ended_sessions,
)
# Seconds that a statement of a task may take, in place of STATEMENT_TIMEOUT.
_TIMEOUT = 30.0
# Seconds between two rounds of deleting what is past its retention, and at most until a round stops with its worker.
_RETENTION_INTERVAL, _MAX_STOP = 300.0, 2.0
_log = structlog.get_logger()


def sweep(context: AppContext) -> None:
    """Enqueue the jobs of orphaned runs, delete what is past its retention, and create partitions for the coming months.

    The tasks are independent: each has transactions and a time-out of its own, and one that fails is logged, counted in
    `signalbox_housekeeping_failures_total` and tried again by the next sweep. Raises Unavailable when Postgres is gone.
    """
    for task in TASKS:
        _run(context, task.__name__, partial(_in_transaction, context, task))
    # The last, because it can take minutes.
    _run(context, make_partitions.__name__, partial(make_partitions, context))


def _in_transaction(context: AppContext, task: Task) -> None:
    with context.database.transaction() as connection:
        limit_statements(connection, _TIMEOUT)
        task(connection, context.clock())


def _run(context: AppContext, name: str, task: Callable[[], object]) -> None:
    try:
        task()
    except Exception as exc:
        if isinstance(exc, Unavailable):
            # Raises Unavailable when not only this task has failed.
            startup_checks.check_connection(context)
        metrics.housekeeping_failures.labels(name).inc()
        _log.error("a housekeeping task failed", task=name, error=describe_exception(exc))


@contextmanager
def retention_at_work(context: AppContext) -> Iterator[None]:
    """Delete what accounts no longer keep while the block lasts, in a thread of its own: a round may take hours, and the sweep
    does not wait for it. Of several workers one deletes at a time."""
    stopped = threading.Event()
    thread = threading.Thread(target=_delete_in_rounds, args=(context, stopped), daemon=True, name="retention")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_MAX_STOP)


def _delete_in_rounds(context: AppContext, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            delete_expired(context, stopped.wait)
        except Unavailable as exc:
            # The sweep and the jobs report that Postgres is unavailable.
            _log.debug("retention waits for Postgres", error=describe_exception(exc))
        except Exception as exc:
            metrics.housekeeping_failures.labels("delete_expired").inc()
            _log.error("a housekeeping task failed", task="delete_expired", error=describe_exception(exc))
        stopped.wait(_RETENTION_INTERVAL)
