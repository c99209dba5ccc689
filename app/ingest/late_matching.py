"""Finishes the matching of an event that took too long in a web process: a worker calls this for the event's job.

The workflows that were not evaluated in time look at the event now, by their current versions. For a pattern of several
events, the event counts as if it had come now: after the events of its subject that were matched meanwhile.
"""

from __future__ import annotations

from math import inf
from uuid import UUID

from msgspec.structs import replace

from app.core import metrics
from app.core.models import Decision, Event, NewRun
from app.db import late_decisions, match_state, runs
from app.db.connection import PgConnection, roll_back, rollback_on_error
from app.db.late_decisions import LATE, has_late_decisions, lock_decisions
from app.db.match_state import StateKey
from app.ingest.account_cache import Account, AccountCache
from app.ingest.matching_step import Watch, add_runs, advance_states, next_timestamp
from app.services.context import AppContext
from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.matching.rule import Rule, event_variables

_CHANGED = "not_evaluated: the workflow was disabled or deleted before a worker evaluated it"


def finish_matching(context: AppContext, accounts: AccountCache, account_id: int, event_id: UUID) -> None:
    """Make the late decisions of an event, with all that follows from them. Does nothing when there are none, or
    when they have been made. Raises Unavailable."""
    if not has_late_decisions(context.database, account_id, event_id):
        return
    account, event = accounts.find_by_id(account_id), runs.find_event(context.database, account_id, event_id)
    if account is None or event is None:
        return
    started = context.database.run_with_reconnect(lambda connection: _finish(connection, context, account, event))
    metrics.runs_started.inc(started)


def _finish(connection: PgConnection, context: AppContext, account: Account, event: Event) -> int:
    """Lock, match, record, commit; how many runs were started."""
    account_id = event.account_id
    rules = account.rules.find_by_event(event.event)
    with rollback_on_error(connection):
        variables = event_variables(event)
        keys: dict[StateKey, Rule] = {}
        for rule in rules:
            subject = None if rule.is_stateless else rule.find_subject(variables)
            if subject is not None:
                keys[rule.workflow_id, subject] = rule
        states = match_state.begin_and_lock(connection, account_id, list(keys))
        stored = lock_decisions(connection, account_id, event.id)
        late = {row["workflow"] for row in stored if row["reason"] == LATE}
        if not late:
            roll_back(connection)
            return 0
        stateful = {key: rule for key, rule in keys.items() if rule.workflow in late}
        made, started = _decide(rules, event, variables, late)
        at = next_timestamp(event.received_at, (states[key] for key in stateful if key in states))
        changes = advance_states(replace(event, received_at=at), variables, stateful, states, Watch(inf))
        started += [*changes.started, *changes.by_deadline]
        made += changes.decisions
        for run in started:
            runs.start_run(connection, account_id, run, context.clock())
        late_decisions.replace_late(connection, account_id, event.id, stored, made)
        match_state.write_and_commit(connection, account_id, changes.states)
    return len(started)


def _decide(
    rules: list[Rule], event: Event, variables: CelVariables, late: set[str]
) -> tuple[list[Decision], list[NewRun]]:
    """The decisions that need no match state, and the runs that they start: those of stateless workflows, of workflows whose key
    the event lacks, and of workflows that are no longer enabled."""
    decided = []
    for rule in rules:
        if rule.workflow in late and rule.is_stateless:
            decided.append(rule.decide(variables))
        elif rule.workflow in late and rule.find_subject(variables) is None:
            decided.append(rule.decide_without_subject())
    decisions, started = add_runs(event, decided)
    gone = late - {rule.workflow for rule in rules}
    decisions += [
        Decision(None, name, None, started=False, contributing=False, reason=_CHANGED) for name in sorted(gone)
    ]
    return decisions, started
