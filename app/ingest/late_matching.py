"""Finishes the matching of an event that a web process postponed: a worker calls this for the event's job.

The workflows that were not evaluated look at the event now, by their current versions. For a pattern of several events, the
event counts as if it had arrived now, after the events of its subject that have already been matched.
"""

from __future__ import annotations

from uuid import UUID

from msgspec.structs import replace

from app.core import metrics
from app.core.ids import utc_text
from app.core.models import Decision, Event
from app.db import late_decisions, match_state, runs
from app.db.connection import PgConnection, roll_back, rollback_on_error
from app.db.late_decisions import ALL_LATE, find_late, has_late_decisions, lock_decisions
from app.db.match_state import StateKey
from app.ingest.account_cache import Account, AccountCache
from app.ingest.matching_step import RUN_UNITS, add_runs, advance_states, match_stateless, next_timestamp
from app.services.context import AppContext
from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.matching.rule import Rule, event_variables

_CHANGED = "not_evaluated: the workflow was disabled or deleted before a worker evaluated it"


def finish_matching(context: AppContext, accounts: AccountCache, account_id: int, event_id: UUID) -> int:
    """Make the late decisions of an event, with all that follows from them; the units of work that it took. Does nothing when
    there are none, or when they have been made. Raises Unavailable."""
    if not has_late_decisions(context.database, account_id, event_id):
        return 0
    account, event = accounts.find_by_id(account_id), runs.find_event(context.database, account_id, event_id)
    if account is None or event is None:
        return 0
    started, units = context.database.run_with_reconnect(
        lambda connection: _finish(connection, context, account, event)
    )
    metrics.runs_started.inc(started)
    return units


def _finish(connection: PgConnection, context: AppContext, account: Account, event: Event) -> tuple[int, int]:
    """Lock, match, record, commit; how many runs were started, and the units of work that it took."""
    account_id = event.account_id
    with rollback_on_error(connection):
        variables = event_variables(event)
        stateful = _find_stateful(account.rules.find_by_event(event.event), variables)
        states = match_state.begin_and_lock(connection, account_id, list(stateful))
        stored = lock_decisions(connection, account_id, event.id)
        late = find_late(stored)
        if not late:
            roll_back(connection)
            return 0, 0
        if ALL_LATE.workflow not in late:
            stateful = {key: rule for key, rule in stateful.items() if rule.workflow in late}
        made, started = add_runs(event, _decide(context, account, event, variables, late))
        at = next_timestamp(event.received_at, (states[key] for key in stateful if key in states))
        changes = advance_states(replace(event, received_at=at), variables, stateful, states)
        started += [*changes.started, *changes.by_deadline]
        for run in started:
            runs.start_run(connection, account_id, run, context.clock())
        late_decisions.replace_late(connection, account_id, event.id, stored, made + changes.decisions)
        match_state.write_and_commit(connection, account_id, changes.states)
    return len(started), changes.units + RUN_UNITS * len(started)


def _find_stateful(rules: list[Rule], variables: CelVariables) -> dict[StateKey, Rule]:
    """The rules that need match state, by its key."""
    stateful: dict[StateKey, Rule] = {}
    for rule in rules:
        subject = None if rule.is_stateless else rule.find_subject(variables)
        if subject is not None:
            stateful[rule.workflow_id, subject] = rule
    return stateful


def _decide(
    context: AppContext, account: Account, event: Event, variables: CelVariables, late: set[str]
) -> list[Decision]:
    """The decisions of the workflows that need no match state, and of those that are no longer enabled."""
    if ALL_LATE.workflow in late:
        decisions, _ = match_stateless(account, variables)
        reason = f"not enabled when a worker evaluated the event, at {utc_text(context.clock())}"
        return [*decisions, replace(ALL_LATE, workflow="other workflows", reason=reason)]
    rules = [rule for rule in account.rules.find_by_event(event.event) if rule.workflow in late]
    decisions = [rule.decide(variables) for rule in rules if rule.is_stateless]
    decisions += [
        rule.decide_without_subject()
        for rule in rules
        if not rule.is_stateless and rule.find_subject(variables) is None
    ]
    gone = late - {rule.workflow for rule in rules}
    return decisions + [replace(ALL_LATE, workflow=name, reason=_CHANGED) for name in sorted(gone)]
