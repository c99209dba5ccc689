"""Replays a stored event: matches it with the workflows that are enabled now.

A match that has had its run gets no second one. A stateful workflow is matched with the stored events of the same subject
up to this one, as if it had always been enabled. Match state is not changed, except that `again` prevents starts and counts
them as usual. A trailing `none` is completed by a deadline and not by an event, so a replay never completes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from msgspec.structs import replace

from app.core.errors import Problem, ProblemType
from app.core.models import Decision, Event, NewRun
from app.db import event_queries, inspection, run_updates
from app.db.audit import Change
from app.db.inspection import StoredEvent
from app.ingest.account_cache import read_snapshot
from app.ingest.matching_step import run_of_event
from app.services import audit, retention
from app.services.context import AppContext
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.rule import ALWAYS, NO_MATCH_STATE, Rule, event_variables, view_event
from app.workflows.matching.rules import compile_rules

_MAX_HISTORY = 1_000


@dataclass(frozen=True, slots=True)
class Replayed:
    """The decision of one enabled workflow about a stored event. `decision.run_id`: the run that was started now. `earlier`:
    the run that this match has had before."""

    decision: Decision
    earlier: UUID | None = None


# Records the start of a run, in its transaction.
Record = Callable[[sa.Connection, AppContext, StoredEvent, NewRun], None]


def record_replay(connection: sa.Connection, context: AppContext, stored: StoredEvent, run: NewRun) -> None:
    """Record a run that a person has started by replaying an event."""
    after = {"workflow": str(run.workflow_id), "version": run.version, "run": str(run.id)}
    audit.record(connection, context, Change("event.replay", stored.account_id, str(stored.id), None, after))


def replay_event(
    context: AppContext,
    account_id: int,
    event_id: UUID,
    *,
    workflow: str | None = None,
    dry_run: bool = False,
    record: Record = record_replay,
) -> list[Replayed]:
    """Match a stored event with each enabled workflow, or with one `workflow`, and start a run where it matches.

    One transaction per workflow, so that it never holds the locks of two subjects; `record` is called in those that start a
    run. With `dry_run` nothing changes. Raises Problem 404, and 409 for an event so old that a run which it has started may be
    past its retention.
    """
    with context.database.transaction() as connection:
        stored = inspection.find_stored_event(connection, account_id, event_id)
        snapshot = read_snapshot(connection, account_id)
    if stored is None or snapshot is None:
        raise Problem(ProblemType.NOT_FOUND, f"the account has no event {event_id}")
    if not dry_run:
        retention.check_replayable(context, account_id, stored.received_at)
    replayed = []
    enabled = [one for one in snapshot.workflows if workflow in (None, one.name)]
    for rule in compile_rules(enabled).find_by_event(stored.event):
        with context.database.transaction() as connection:
            inspection.allow_slow_statements(connection)
            replayed.append(_replay(context, connection, rule, stored, None if dry_run else record))
    return replayed


def _replay(
    context: AppContext, connection: sa.Connection, rule: Rule, stored: StoredEvent, record: Record | None
) -> Replayed:
    """The decision of one workflow; starts its run and records that, unless `record` is None."""
    decision, run = _decide(context, connection, rule, stored)
    if run is None:
        return Replayed(decision)
    account_id, key = stored.account_id, (rule.workflow_id, _subject_of(rule, stored))
    earlier = run_updates.find_run_of_match(connection, account_id, rule.workflow_id, run.match_key)
    if earlier is None and rule.again != ALWAYS:
        last = run_updates.lock_match_state(connection, account_id, key)
        if not rule.may_start(last, context.clock()):
            return Replayed(replace(decision, started=False, reason="suppressed: again"))
    if earlier is not None or record is None:
        return Replayed(decision, earlier)
    if not run_updates.start_past_run(connection, account_id, run, context.clock()):
        return Replayed(
            decision, run_updates.find_run_of_match(connection, account_id, rule.workflow_id, run.match_key)
        )
    if rule.again != ALWAYS:
        run_updates.record_start(connection, account_id, key, rule.enablement, context.clock())
    record(connection, context, stored, run)
    return Replayed(replace(decision, run_id=run.id))


def _decide(
    context: AppContext, connection: sa.Connection, rule: Rule, stored: StoredEvent
) -> tuple[Decision, NewRun | None]:
    """The decision of the workflow, and the run that it starts."""
    event = _as_event(stored)
    variables = event_variables(event)
    matched: tuple[UUID, ...] = (event.id,)
    subject = rule.find_subject(variables)
    if rule.is_stateless:
        decision = rule.decide(variables)
    elif subject is None:
        decision = rule.decide_without_subject()
    else:
        decision, matched = _decide_by_history(connection, rule, stored, subject)
    if not decision.started:
        return decision, None
    return decision, run_of_event(rule.workflow_id, rule.version, event, context.clock(), matched)


def _decide_by_history(
    connection: sa.Connection, rule: Rule, stored: StoredEvent, subject: str
) -> tuple[Decision, tuple[UUID, ...]]:
    """The decision about an event after the stored events before it, and the ids of the matched events."""
    names = None if ANY_NAME in rule.pattern.names else rule.pattern.names
    *before, last = inspection.find_events_leading_to(connection, stored, rule.key, subject, names, _MAX_HISTORY)
    state = NO_MATCH_STATE
    for past in before:
        state = rule.advance(state, view_event(_as_event(past))).state
    event = view_event(_as_event(last))
    result = rule.advance(state, event)
    return rule.explain(state, event, result), result.matches[-1].used if result.started else ()


def _subject_of(rule: Rule, stored: StoredEvent) -> str:
    return str(rule.find_subject(event_variables(_as_event(stored))))


def _as_event(stored: StoredEvent) -> Event:
    return Event(
        id=stored.id,
        account_id=stored.account_id,
        event=stored.event,
        distinct_id=stored.distinct_id,
        phone=stored.phone,
        data={
            **event_queries.read_exactly(stored.data_json),
            **event_queries.read_exactly(stored.augmented_json or "{}"),
        },
        data_json=stored.data_json,
        extra_json=stored.extra_json,
        received_at=stored.received_at,
        augmented_json=stored.augmented_json,
        occurred_at=stored.occurred_at,
    )
