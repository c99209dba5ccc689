"""Fires the deadline of a pattern: the worker calls this when a deadline's job is due."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from app.core import metrics
from app.core.errors import Unavailable
from app.db import match_state, runs
from app.db.connection import PgConnection, roll_back, rollback_on_error
from app.db.match_state import NOTHING
from app.ingest.account_cache import AccountCache
from app.ingest.matching_step import kept_of, run_of, state_of
from app.services.context import AppContext
from app.workflows.matching.rule import Rule

# Clocks of hosts and of Postgres may differ by this much; a larger difference is a machine to repair.
_MAX_CLOCK_SKEW = timedelta(seconds=10)


def fire_deadline(
    context: AppContext, accounts: AccountCache, account_id: int, workflow_id: UUID, subject: str
) -> None:
    """Start the run of a deadline that the clock has reached, unless an event has disarmed or moved it since.

    Raises Unavailable when this machine's clock has not reached it yet: try again a moment later.
    """
    account = accounts.find_by_id(account_id)
    rule = account.rules.by_workflow.get(workflow_id) if account else None
    if rule is None:
        return
    started = context.database.run_with_reconnect(
        lambda connection: _fire(connection, account_id, rule, subject, context.clock())
    )
    metrics.runs_started.inc(started)


def _fire(connection: PgConnection, account_id: int, rule: Rule, subject: str, timestamp: datetime) -> int:
    """Start the runs of a deadline that is due at `timestamp`; how many."""
    place = (rule.workflow_id, subject)
    with rollback_on_error(connection):
        before = match_state.begin_and_lock(connection, account_id, [place]).get(place, NOTHING)
        if before.deadline is not None and timedelta(0) < before.deadline - timestamp < _MAX_CLOCK_SKEW:
            raise Unavailable("the deadline has not been reached by this clock")
        state, matches = rule.expire(state_of(before), timestamp)
        if state == state_of(before):
            roll_back(connection)
            return 0
        for match in matches:
            runs.start_run(connection, account_id, run_of(rule, match, timestamp), timestamp)
        latest = max(filter(None, (before.last_event_at, before.deadline)), default=timestamp)
        match_state.write_and_commit(connection, account_id, {place: (before, kept_of(state, latest))})
    return len(matches)
