"""Accepts one event. Read this first; `app/worker/executor.py` is the other half, from a run to the outside.

`EventAcceptor.accept(account, build_event)`:

1. `build_event(account)` checks the sender and gives the verified event.
2. The account snapshot's rules decide which workflows the event starts.
3. One statement (one transaction, one round trip) writes the event with its idempotency key, decisions, runs, queue
   jobs and delivery, for all events that arrive at the same time (group commit). It writes nothing for a stale snapshot: the
   snapshot is loaded again, and step 1 follows. Events with idempotency keys share statements with those of their account
   only: another transaction with the key may make them wait. Where a pattern spans several events, the same is written in a
   transaction that has locked the match state of the subject.
4. When `accept` returns, the event is committed and the response may leave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import psycopg2
from msgspec import Struct
from psycopg2 import errors

from app.core import metrics
from app.core.errors import Problem, ProblemType, Unavailable
from app.core.group_commit import GroupCommit
from app.core.models import Decision, Event, NewRun, Receipt
from app.db import event_queries, event_writes, match_state, runs
from app.db.connection import PgConnection, roll_back, rollback_on_error
from app.db.deliveries import NewDelivery
from app.db.event_bulk import columns_of, find_same_events
from app.db.event_keys import EarlierEvent
from app.db.event_writes import EventRecord, RecordResult
from app.db.match_state import StateKey
from app.ingest.account_cache import Account, AccountCache
from app.ingest.matching_step import RUN_UNITS, add_runs, advance_states, find_job, match_stateless, order_after
from app.services.context import AppContext
from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.matching.rule import Rule, event_variables

MAX_RELOADS = 5
_MAX_BATCH = 200
_MAX_ACCOUNTS = 10_000
# Characters of JSON above which an event is written by itself: others would wait for it. A decision and a run have about so many.
_LARGE = 16 * 1024
_DECISION, _RUN = 150, 500

# Checks the sender against an account snapshot and gives the event; raises Problem.
BuildEvent = Callable[[Account], Event]
Recorder = GroupCommit[EventRecord, RecordResult | Exception]


class EventAcceptor:
    """Stores events, one at a time for the caller, in groups for Postgres."""

    def __init__(self, context: AppContext, accounts: AccountCache) -> None:
        self._context = context
        self._accounts = accounts
        self._recorder = GroupCommit(self._record_batch, max_batch=_MAX_BATCH)
        # Of each account, for events with idempotency keys.
        self._own_recorders: dict[int, Recorder] = {}

    def accept(
        self,
        account: Account,
        build_event: BuildEvent,
        delivery: NewDelivery | None = None,
    ) -> Receipt:
        """Store an event, with the delivery that it came with and everything that follows from it; it is committed when this
        returns.

        `build_event` is called again after a stale snapshot was reloaded. Raises what `build_event` raises, Problem 422
        (an idempotency key that was used with another body; a value that Postgres cannot store) and Unavailable.
        """
        for _ in range(MAX_RELOADS):
            event = build_event(account)
            started_at = time.monotonic()
            try:
                accepted = self._match_and_record(account, event, delivery)
            except psycopg2.DataError as exc:
                raise unstorable(exc) from None
            if not accepted.recorded.stale:
                self._accounts.confirm(account, started_at)
                return _receipt(accepted, self._check_repeat(event, accepted.recorded.earlier))
            account = self._accounts.reload(account)
        raise changed_too_often(account)

    def _record_batch(self, records: Sequence[EventRecord]) -> list[RecordResult | Exception]:
        metrics.batch_events.observe(len(records))
        results = event_writes.record_events(self._context.database, records)
        _count_accepted(results)
        return results

    def _record_own_batch(self, records: Sequence[EventRecord]) -> list[RecordResult | Exception]:
        """The same for events of one account, which may wait for another transaction of it."""
        with self._context.limits.events.acquire(records[0].event.account_id):
            return self._record_batch(records)

    def _recorder_of(self, event: Event) -> Recorder:
        if event.idempotency_key is None:
            return self._recorder
        found = self._own_recorders.get(event.account_id)
        if found is None:
            if len(self._own_recorders) >= _MAX_ACCOUNTS:
                self._own_recorders.clear()
            own: Recorder = GroupCommit(self._record_own_batch, max_batch=_MAX_BATCH)
            found = self._own_recorders.setdefault(event.account_id, own)
        return found

    def _check_repeat(self, event: Event, earlier: EarlierEvent | None) -> tuple[str, ...]:
        """Warnings about an event whose idempotency key stands for an earlier one; raises Problem 422 when that has another
        body. A `webhook-id` with another body is a warning: senders may write another body for each retry."""
        if earlier is None or earlier.digest == event.body_digest:
            return ()
        repeat = (0, earlier.id, earlier.received_at, columns_of(event))
        find = partial(find_same_events, account_id=event.account_id, repeats=[repeat])
        if self._context.database.run_with_reconnect(find):
            return ()
        if event.is_webhook_id:
            return (
                f"webhook-id: came before with another body; event {earlier.id} was stored then, this body is not stored",
            )
        raise key_reused(f"event {earlier.id}")

    def _match_and_record(self, account: Account, event: Event, delivery: NewDelivery | None) -> Accepted:
        variables, shares = event_variables(event), self._context.limits.shares
        decisions, stateful = match_stateless(account, variables, shares)
        if stateful:
            return self._record_with_match_state(account, Matching(event, variables, decisions, stateful, delivery))
        decisions, started = add_runs(event, decisions)
        if started:
            shares.spend(event.account_id, RUN_UNITS * len(started))
        job = find_job(account, event, decisions)
        record = EventRecord(account.snapshot.version, event, decisions, started, job, delivery)
        if _is_large(record):
            with self._context.limits.events.acquire(event.account_id):
                written = event_writes.record_event(self._context.database, record)
                _count_accepted([written])
                return Accepted(event, decisions, started, written)
        recorded = self._recorder_of(event).submit(record)
        if isinstance(recorded, Exception):
            raise recorded
        return Accepted(event, decisions, started, recorded)

    def _record_with_match_state(self, account: Account, matching: Matching) -> Accepted:
        """Write an event that advances match state: a transaction of three round trips under advisory locks.

        A lost connection is opened again and the transaction repeated, unless the event turns out to be stored: then only
        the response of the commit was lost.
        """
        attempted: list[Accepted] = []
        try:
            with self._context.limits.events.acquire(account.snapshot.id):
                accepted = self._context.database.run_with_reconnect(
                    lambda connection: self._advance_and_record(connection, account, matching, attempted)
                )
                _count_accepted([accepted.recorded])
                return accepted
        except errors.ForeignKeyViolation:
            # A workflow was deleted in the meantime.
            return Accepted(matching.event, [], [], RecordResult(stale=True))

    def _advance_and_record(
        self,
        connection: PgConnection,
        account: Account,
        matching: Matching,
        attempted: list[Accepted],
    ) -> Accepted:
        """Lock, match, record, commit. `attempted` receives what is about to be committed.

        When it already holds an earlier attempt, that transaction has ended once the locks are held: its event is stored
        or it is not.
        """
        account_id, stateful = account.snapshot.id, matching.stateful
        with rollback_on_error(connection):
            states = match_state.begin_and_lock(connection, account_id, list(stateful))
            if attempted and event_queries.find_event(connection, account_id, attempted[0].event.id) is not None:
                roll_back(connection)
                return attempted[0]
            event = order_after(matching.event, self._context.clock(), states.values())
            decisions, started = add_runs(event, matching.decided)
            changes = advance_states(event, matching.variables, stateful, states, self._context.limits.shares)
            decisions += changes.decisions
            started += changes.started
            job = find_job(account, event, decisions)
            record = EventRecord(account.snapshot.version, event, decisions, started, job, matching.delivery)
            recorded = event_writes.insert_event(connection, record)
            accepted = Accepted(event, decisions, started, recorded)
            if recorded.stale:
                roll_back(connection)
                return accepted
            if recorded.earlier is not None:
                match_state.write_and_commit(connection, account_id, {})
                return accepted
            attempted.append(accepted)
            for run in changes.by_deadline:
                runs.start_run(connection, account_id, run, event.received_at)
            match_state.write_and_commit(connection, account_id, changes.states)
        metrics.runs_started.inc(len(changes.by_deadline))
        return accepted


def unstorable(exc: psycopg2.DataError) -> Problem:
    """The 422 for a value that only Postgres refuses."""
    return Problem(ProblemType.UNSTORABLE_VALUE, str(exc).splitlines()[0])


def changed_too_often(account: Account) -> Unavailable:
    """The error when an account has changed at each of MAX_RELOADS attempts."""
    return Unavailable(f"account {account.snapshot.id} changes faster than its events can be matched")


def key_reused(where: str) -> Problem:
    """The 422 for an idempotency key that came with another body."""
    detail = f"This idempotency key was used with another body ({where}). A new event needs a new key."
    return Problem(ProblemType.IDEMPOTENCY_KEY_REUSED, detail)


class Matching(Struct, frozen=True):
    """An event that advances match state, as far as it was matched without it."""

    event: Event
    variables: CelVariables
    decided: list[Decision]
    stateful: dict[StateKey, Rule]
    delivery: NewDelivery | None


class Accepted(Struct, frozen=True):
    """An event as it was recorded, its decisions and new runs. `received_at` may be later than at arrival."""

    event: Event
    decisions: list[Decision]
    started: list[NewRun]
    recorded: RecordResult


def _is_large(record: EventRecord) -> bool:
    """Whether there is so much to write that events of others would wait for it."""
    event, delivery = record.event, record.delivery
    characters = len(event.data_json) + len(event.extra_json or "") + (len(delivery.body) if delivery else 0)
    return characters + _DECISION * len(record.decisions) + _RUN * len(record.runs) > _LARGE


def _count_accepted(results: Iterable[RecordResult | Exception]) -> None:
    new = sum(isinstance(one, RecordResult) and not one.stale and one.earlier is None for one in results)
    if new:
        metrics.events_accepted.inc(new)


def _receipt(accepted: Accepted, warnings: tuple[str, ...]) -> Receipt:
    event, earlier = accepted.event, accepted.recorded.earlier
    decisions = accepted.decisions if earlier is None else []
    if earlier is not None:
        metrics.events_repeated.inc()
    elif accepted.started:
        metrics.runs_started.inc(len(accepted.started))
    return Receipt(
        id=(earlier or event).id,
        account_id=event.account_id,
        event=event.event,
        distinct_id=event.distinct_id,
        received_at=(earlier or event).received_at,
        duplicate=earlier is not None,
        contributing=any(decision.contributing for decision in decisions),
        runs=tuple(decision.run_id for decision in decisions if decision.run_id is not None),
        warnings=event.warnings + warnings,
    )
