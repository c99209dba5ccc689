"""Fires the deadline of a pattern: the worker calls this when a deadline's job is due."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from app.core import metrics
from app.core.errors import Unavailable
from app.db import match_state, runs
from app.db.connection import PgConnection, roll_back, rollback_on_error
from app.db.match_state import NO_STATE
from app.ingest.account_cache import AccountCache
from app.ingest.matching_step import new_run, to_match_state, to_stored_state
from app.services.context import AppContext
from app.workflows.matching.rule import Rule

# The clocks of the hosts and of Postgres may differ by this much.
_MAX_CLOCK_SKEW = timedelta(seconds=10)


def fire_deadline(
    context: AppContext, accounts: AccountCache, account_id: int, workflow_id: UUID, subject: str
) -> None:
    """Start the run of a deadline that is due, unless an event has disarmed or moved it since.

    Raises Unavailable when it is not yet due by this host's clock: retry shortly.
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
    key = (rule.workflow_id, subject)
    with rollback_on_error(connection):
        before = match_state.begin_and_lock(connection, account_id, [key]).get(key, NO_STATE)
        if before.deadline is not None and timedelta(0) < before.deadline - timestamp < _MAX_CLOCK_SKEW:
            raise Unavailable("the deadline is not yet due by this host's clock")
        state, matches = rule.expire(to_match_state(before), timestamp)
        if state == to_match_state(before):
            roll_back(connection)
            return 0
        for match in matches:
            runs.start_run(connection, account_id, new_run(rule, match, timestamp), timestamp)
        latest = max(filter(None, (before.last_event_at, before.deadline)), default=timestamp)
        match_state.write_and_commit(connection, account_id, {key: (before, to_stored_state(state, latest))})
    return len(matches)
