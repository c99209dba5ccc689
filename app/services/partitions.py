"""Keeps the partitions of `events` ahead of time. Workers, web processes and imports call it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
import structlog

from app.core import metrics
from app.core.errors import Problem, ProblemType, Unavailable
from app.core.log_config import describe_exception
from app.db import needed_events, partitions
from app.db.audit import Change
from app.db.connection import limit_statements
from app.services import audit
from app.services.context import AppContext

# More than the steps of clear_default_partition.
_MAX_STEPS = 10
# Seconds that a statement may take; one of them reads the whole default partition. Shorter in a web process, which gives up a
# connection that does not respond.
_TIMEOUT = 300.0
# Seconds between two calls in a web process, and after a failure.
_INTERVAL, _RETRY_INTERVAL = 3600.0, 60.0
_log = structlog.get_logger()


def make_partitions(
    context: AppContext, timestamps: Iterable[datetime] | None = None, *, timeout: float | None = _TIMEOUT
) -> None:
    """Create the missing partitions of this month and the next three, or of the months of `timestamps`.

    A default partition with events becomes the partition of their months first. `timeout`: seconds that one statement may
    take; None: STATEMENT_TIMEOUT. Raises Unavailable.
    """
    now = context.clock()
    for _ in range(_MAX_STEPS):
        with context.database.transaction() as connection:
            limit_statements(connection, timeout)
            if partitions.clear_default_partition(connection, now) is None:
                break
    with context.database.transaction() as connection:
        limit_statements(connection, timeout)
        partitions.make_partitions(connection, partitions.coming_months(now) if timestamps is None else timestamps)


def check_droppable(context: AppContext, name: str) -> None:
    """Raises as `drop_partition` does, and drops nothing."""
    with context.database.transaction() as connection:
        _check_droppable(connection, context, name)


def drop_partition(context: AppContext, name: str) -> None:
    """Drop a partition of `events` with all its events, such as events_2026_01. Raises Problem 404 for an unknown one, 403 for
    another role than its owner, and 409 while its months have not ended or a run needs one of its events."""
    with context.database.transaction() as connection:
        begin, end = _check_droppable(connection, context, name)
        partitions.drop_partition(connection, name)
        before = {"from": begin, "until": end}
        audit.record(connection, context, Change("partition.drop", None, name, before))


def _check_droppable(connection: sa.Connection, context: AppContext, name: str) -> tuple[datetime, datetime]:
    """From when until before when its events were received; raises Problem."""
    limit_statements(connection, _TIMEOUT)
    found = partitions.find_partition(connection, name)
    if found is None:
        raise Problem(ProblemType.NOT_FOUND, f"events has no partition {name!r} that can be dropped")
    begin, end, is_owner = found
    if not is_owner:
        raise Problem(ProblemType.FORBIDDEN, f"only the owner of the table can drop {name}")
    if end > context.clock():
        raise Problem(ProblemType.CONFLICT, f"the months of {name} have not ended")
    if needed_events.are_events_needed(connection, begin, end):
        raise Problem(
            ProblemType.CONFLICT,
            f"a running run needs an event of {name}, or one that a pending deadline will start; drop it later",
        )
    return begin, end


def keep_making_partitions(context: AppContext) -> None:
    """Create missing partitions now and then every hour, for ever: a thread of each web process."""
    while True:
        interval = _INTERVAL
        try:
            make_partitions(context, timeout=None)
        except Exception as exc:
            interval = _RETRY_INTERVAL
            metrics.housekeeping_failures.labels("make_partitions").inc()
            # Requests report that Postgres is unavailable.
            log = _log.debug if isinstance(exc, Unavailable) else _log.error
            log("partitions of events were not created", error=describe_exception(exc))
        time.sleep(interval)
