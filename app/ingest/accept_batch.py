"""Many events in one request: what `accept` does for one event, done for all of them in one transaction.

Comes in: a batch, whose items become events when they are read. Goes out: what became of each item. Events are accepted in
the order of the batch, a microsecond apart.

1. Each item is read once: refused, or reduced to what its row will hold and the decisions of workflows that decide alone.
   Values are let go at once, so that memory does not grow with what is inside of the events.
2. In one transaction: the places of all subjects whose progress may move are locked, the copy of the account is
   compared, idempotency keys are claimed in their order.
3. Rows are written in portions. An item that starts something or moves progress is read once more for that, in its turn.
4. Runs, jobs and progress are written; commit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as RawConnection

from app.core import metrics
from app.core.errors import Problem, ProblemType, Unavailable
from app.core.ids import uuid7
from app.core.models import Decision, Event, NewRun
from app.db import event_bulk, event_queries, event_writes, match_state, runs
from app.db.connection import roll_back, rollback_on_error
from app.db.event_bulk import Claim, Facts
from app.db.event_writes import EarlierEvent
from app.db.match_state import StateKey, StoredState
from app.ingest.accept import MAX_RELOADS
from app.ingest.account_cache import Account, AccountCache
from app.ingest.matching_step import add_runs, advance_states, match_stateless
from app.services.context import AppContext
from app.workflows.matching.pattern_ast import ANY_NAME
from app.workflows.matching.rule import event_variables

_MICROSECOND = timedelta(microseconds=1)
_MAX_ATTEMPTS = 3
_IN_ONE_GO = 50


class Batch(Protocol):
    """Items that can be read as events, again and again."""

    def __len__(self) -> int:
        """How many items there are."""

    def read(self, number: int, event_id: UUID, received_at: datetime) -> Event:
        """The item of this number (from 0) as an event with this id and moment; raises Problem when it is none."""


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """What became of the items: `ids` of their events, None where `refused` (by number) says why; how many events are
    new, and how many repeat an idempotency key."""

    ids: list[UUID | None]
    accepted: int
    duplicates: int
    refused: Mapping[int, Problem]


def accept_batch(
    context: AppContext,
    accounts: AccountCache,
    account: Account,
    batch: Batch,
    check_sender: Callable[[Account], None],
) -> BatchReceipt:
    """Store the good events of a batch with all that follows from them; when this returns they are committed.

    `check_sender` is called again after a stale snapshot was reloaded, and raises Problem when the sender is no longer
    welcome. Raises Problem 422 (a value that Postgres cannot hold) and Unavailable; then nothing is stored.
    """
    for _ in range(MAX_RELOADS):
        asked_at = time.monotonic()
        taking = _Taking(context, account, batch)
        try:
            current = taking.take()
        except psycopg2.DataError as wrong:
            raise Problem(ProblemType.UNSTORABLE_VALUE, str(wrong).splitlines()[0]) from None
        if current:
            if taking.drafts:
                accounts.confirm(account, asked_at)
            return taking.receipt()
        account = accounts.reload(account)
        check_sender(account)
    raise Unavailable(f"account {account.snapshot.id} changes faster than its events can be matched")


@dataclass(frozen=True, slots=True)
class _Draft:
    """An item that was read: `facts` for its row. `decisions`: as JSON, where all workflows have
    decided and none starts; where `again` the item has to be read once more in its turn. `places`: where it may move
    progress. `awaited`: a run may be waiting for it."""

    number: int
    facts: Facts
    key: str | None
    digest: bytes | None
    awaited: bool
    decisions: str | None
    again: bool
    places: tuple[StateKey, ...]


@dataclass(slots=True)
class _Writing:
    """What a transaction has written and is about to write; `ids` and `refused` by the items' numbers."""

    rows: event_bulk.Rows
    ids: dict[int, UUID] = field(default_factory=dict)
    refused: dict[int, Problem] = field(default_factory=dict)
    accepted: list[UUID] = field(default_factory=list)
    duplicates: int = 0
    started: list[tuple[NewRun, str, datetime]] = field(default_factory=list)
    by_clock: list[tuple[NewRun, datetime]] = field(default_factory=list)
    awaited: list[UUID] = field(default_factory=list)
    changes: dict[StateKey, tuple[StoredState, StoredState]] = field(default_factory=dict)


class _Taking:
    """One attempt at a batch by one copy of its account."""

    def __init__(self, context: AppContext, account: Account, batch: Batch) -> None:
        self.context = context
        self.account = account
        self.batch = batch
        self.drafts: list[_Draft] = []
        self._refused: dict[int, Problem] = {}
        self._base = context.clock()
        self._moments: list[datetime] = []
        self._event_ids: list[UUID] = []
        self._number_all()
        self._twins: dict[int, int] = {}
        self._firsts: dict[str, _Draft] = {}
        self._told: dict[tuple[tuple[str, str], ...], str | None] = {}
        self._mark = int.from_bytes(os.urandom(8), "big", signed=True)
        self._written: _Writing | None = None

    # Reading

    def _number_all(self) -> None:
        """Give each item its moment, a microsecond after the one before, and an id."""
        self._moments = [self._base + number * _MICROSECOND for number in range(len(self.batch))]
        chance = os.urandom(8 * len(self._moments))
        self._event_ids = [uuid7(moment, chance[8 * at : 8 * at + 8]) for at, moment in enumerate(self._moments)]

    def _read(self, number: int) -> Event:
        return self.batch.read(number, self._event_ids[number], self._moments[number])

    def _read_all(self) -> None:
        for number in range(len(self.batch)):
            _let_others_go_on(number)
            try:
                self._draft(number, self._read(number))
            except Problem as wrong:
                self._refused[number] = wrong

    def _draft(self, number: int, event: Event) -> None:
        key = event.idempotency_key
        first = None if key is None else self._firsts.get(key)
        if first is not None:
            if first.digest != event.body_digest:
                raise _used_before(f"item {first.number} of this batch")
            self._twins[number] = first.number
            return
        decisions, stateful = match_stateless(self.account, event_variables(event))
        again = bool(stateful) or any(decision.started for decision in decisions)
        told = None if again or not decisions else self._tell(decisions)
        awaited = not self.account.snapshot.awaits.isdisjoint((event.event, ANY_NAME))
        facts = event_bulk.facts_of(event)
        draft = _Draft(number, facts, key, event.body_digest, awaited, told, again, tuple(stateful))
        self.drafts.append(draft)
        if key is not None:
            self._firsts[key] = draft

    def _tell(self, decisions: list[Decision]) -> str | None:
        """Decisions of workflows that do not start, as JSON; the same text for the same decisions."""
        known = tuple((decision.workflow, decision.reason) for decision in decisions)
        if known not in self._told:
            self._told[known] = event_writes.decisions_json(decisions)
        return self._told[known]

    # Writing

    def take(self) -> bool:
        """Record all that can be recorded; False when the copy of the account is stale, and then nothing is."""
        self._read_all()
        if not self.drafts:
            return True
        try:
            return self.context.database.run_with_reconnect(self._record, attempts=_MAX_ATTEMPTS)
        except errors.ForeignKeyViolation:
            # A workflow was deleted in the meantime.
            return False

    def _record(self, connection: RawConnection) -> bool:
        account_id = self.account.snapshot.id
        with rollback_on_error(connection):
            places = list(dict.fromkeys(place for draft in self.drafts for place in draft.places))
            kept = match_state.begin_and_lock(connection, account_id, places)
            current = event_bulk.is_current(connection, account_id, self.account.snapshot.version, self._mark)
            if self._is_there_already(connection):
                roll_back(connection)
                return True
            if not current:
                roll_back(connection)
                return False
            self._put_in_order(kept)
            earlier = self._claim(connection)
            if None in earlier.values():
                roll_back(connection)
                return False
            self._written = writing = _Writing(event_bulk.Rows(connection, account_id))
            for draft in self.drafts:
                _let_others_go_on(draft.number)
                self._write(writing, draft, kept, earlier)
            self._write_rest(connection, writing)
            match_state.write_and_commit(connection, account_id, writing.changes)
        return True

    def _is_there_already(self, connection: RawConnection) -> bool:
        """Whether an earlier try was committed, and only the answer to that got lost."""
        written = self._written
        if written is None or not written.accepted:
            return False
        return event_queries.find_event(connection, self.account.snapshot.id, written.accepted[0]) is not None

    def _put_in_order(self, kept: Mapping[StateKey, StoredState]) -> None:
        """The batch is later than all that was looked at before in its places."""
        latest = max((known.last_event_at for known in kept.values() if known.last_event_at is not None), default=None)
        if latest is not None and latest >= self._base:
            self._base = latest + _MICROSECOND
            self._number_all()

    def _claim(self, connection: RawConnection) -> dict[str, EarlierEvent | None]:
        claims = [
            Claim(key, digest, self._event_ids[draft.number], self._moments[draft.number])
            for draft in self.drafts
            if (key := draft.key) is not None and (digest := draft.digest) is not None
        ]
        return event_bulk.claim_keys(connection, self.account.snapshot.id, claims) if claims else {}

    def _write(
        self,
        writing: _Writing,
        draft: _Draft,
        kept: dict[StateKey, StoredState],
        earlier: Mapping[str, EarlierEvent | None],
    ) -> None:
        """Write an item's row, unless its key stands for an earlier event; take note of what else follows from it."""
        known = earlier.get(draft.key or "")
        if known is not None:
            if known.digest != draft.digest:
                writing.refused[draft.number] = _used_before(f"event {known.id}")
            else:
                writing.ids[draft.number] = known.id
                writing.duplicates += 1
            return
        event_id, moment = self._event_ids[draft.number], self._moments[draft.number]
        decisions = self._decide(writing, draft, kept) if draft.again else draft.decisions
        writing.rows.add(event_id, moment, decisions, draft.facts)
        writing.ids[draft.number] = event_id
        writing.accepted.append(event_id)
        if draft.awaited:
            writing.awaited.append(event_id)

    def _decide(self, writing: _Writing, draft: _Draft, kept: dict[StateKey, StoredState]) -> str | None:
        """What all workflows conclude about an item in its turn, as JSON; what it starts and moves is taken note of."""
        event = self._read(draft.number)
        decided, stateful = match_stateless(self.account, event_variables(event))
        decisions, started = add_runs(event, decided)
        changed = advance_states(event, stateful, kept)
        for place, (before, after) in changed.states.items():
            kept[place] = after
            writing.changes[place] = (writing.changes.get(place, (before, after))[0], after)
        writing.started += [(run, event.distinct_id, event.received_at) for run in (*started, *changed.started)]
        writing.by_clock += [(run, event.received_at) for run in changed.by_deadline]
        return event_writes.decisions_json([*decisions, *changed.decisions])

    def _write_rest(self, connection: RawConnection, writing: _Writing) -> None:
        account_id = self.account.snapshot.id
        writing.rows.flush()
        event_bulk.start_runs(connection, account_id, writing.started)
        for run, moment in writing.by_clock:
            runs.start_run(connection, account_id, run, moment)
        if writing.awaited:
            event_bulk.enqueue_event_jobs(connection, account_id, writing.awaited)

    # Telling

    def receipt(self) -> BatchReceipt:
        """What became of the items, now that they are committed; counted."""
        ids: list[UUID | None] = [None] * len(self.batch)
        refused, accepted, duplicates = dict(self._refused), 0, 0
        if self._written is not None:
            accepted, duplicates = len(self._written.accepted), self._written.duplicates
            refused |= self._written.refused
            for number, event_id in self._written.ids.items():
                ids[number] = event_id
            metrics.runs_started.inc(len(self._written.started) + len(self._written.by_clock))
        for number, first in self._twins.items():
            ids[number] = ids[first]
            if first in refused:
                refused[number] = refused[first]
            else:
                duplicates += 1
        metrics.events_accepted.inc(accepted)
        metrics.events_repeated.inc(duplicates)
        return BatchReceipt(ids, accepted, duplicates, dict(sorted(refused.items())))


def _let_others_go_on(number: int) -> None:
    """Now and then: other requests of this process, be they threads or greenlets, are not to wait for a whole batch."""
    if number % _IN_ONE_GO == 0:
        time.sleep(0)


def _used_before(where: str) -> Problem:
    message = f"This idempotency key was used with another body ({where}). A new event needs a new key."
    errors = [{"field": "idempotency_key", "message": message}]
    return Problem(ProblemType.IDEMPOTENCY_KEY_REUSED, message, errors=errors)
