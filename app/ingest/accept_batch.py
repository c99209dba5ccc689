"""Accepts many events in one request: what `accept` does for one event, for all of them in one transaction.

Events are accepted in the order of the batch, a microsecond apart.

1. `read_drafts` reads each item once: it is refused, or reduced to the columns of its row and the decisions of stateless
   workflows.
2. `BatchTransaction.write` locks the match states of all subjects, compares the account snapshot, and claims idempotency keys.
3. It writes the rows, many per statement. An item that starts a run or advances match state is read again and matched, in the
   order of the batch.
4. It writes runs, jobs and match states, and commits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as RawConnection

from app.core import metrics
from app.core.errors import Problem
from app.core.ids import timestamp_of
from app.core.models import NewRun
from app.core.pacing import pause_if_due
from app.core.work_shares import WorkShares
from app.db import event_bulk, event_queries, match_state, runs
from app.db.connection import roll_back, rollback_on_error
from app.db.event_bulk import EventInserter, Repeat, StartedRun, find_same_events
from app.db.event_keys import Claim, EarlierEvent, claim_keys
from app.db.event_writes import decisions_json
from app.db.job_queue import MATCH
from app.db.late_decisions import LATE
from app.db.match_state import StateKey, StoredState
from app.ingest.accept import MAX_RELOADS, changed_too_often, key_reused, unstorable
from app.ingest.account_cache import Account, AccountCache
from app.ingest.batch_drafts import Batch, Draft, Drafts, ItemIds, make_item_ids, read_drafts
from app.ingest.matching_step import (
    RUN_UNITS,
    add_runs,
    advance_states,
    match_stateless,
    next_timestamp,
)
from app.services.context import AppContext
from app.workflows.matching.rule import event_variables

_MAX_ATTEMPTS = 3


def _item_key_reused(where: str) -> Problem:
    problem = key_reused(where)
    problem.errors = [{"field": "idempotency_key", "message": problem.detail}]
    return problem


States = dict[StateKey, StoredState]


@dataclass(slots=True)
class BatchResult:
    """What a transaction has written and will write. The keys of `ids` and `refused` are the numbers of items."""

    ids: dict[int, UUID] = field(default_factory=dict)
    refused: dict[int, Problem] = field(default_factory=dict)
    accepted: list[UUID] = field(default_factory=list)
    duplicates: int = 0
    started: list[StartedRun] = field(default_factory=list)
    by_deadline: list[tuple[NewRun, datetime]] = field(default_factory=list)
    jobs: dict[UUID, str] = field(default_factory=dict)
    changes: dict[StateKey, tuple[StoredState, StoredState]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """What became of the items. `ids`: of their events, None for refused items. `accepted`: the number of new events.
    `duplicates`: the number of repeated idempotency keys. `refused`: why, by the number of the item."""

    ids: list[UUID | None]
    accepted: int
    duplicates: int
    refused: Mapping[int, Problem]


# Writes more in the transaction of a batch, with what becomes of its items; called again when the transaction is repeated.
Finish = Callable[[RawConnection, BatchReceipt], None]


class BatchTransaction:
    """The transaction of a batch. `write` may be called again after a lost connection: it recognises an earlier commit."""

    def __init__(
        self,
        account: Account,
        batch: Batch,
        item_ids: ItemIds,
        drafts: Drafts,
        shares: WorkShares,
        finish: Finish | None = None,
    ) -> None:
        self._account = account
        self._finish = finish
        self._shares = shares
        self._batch = batch
        self._item_ids = item_ids
        self._all_drafts, self._drafts = drafts, drafts.items
        self._repeats, self._other_bodies = drafts.repeats, drafts.other_bodies
        self._lock = int.from_bytes(os.urandom(8), "big", signed=True)
        self._attempted: BatchResult | None = None

    def write(self, connection: RawConnection) -> BatchResult | None:
        """Write the drafts and commit; None when the account snapshot is stale, and then nothing is written."""
        account = self._account.snapshot
        with rollback_on_error(connection):
            keys = list(dict.fromkeys(key for draft in self._drafts for key in draft.state_keys))
            states = match_state.begin_and_lock(connection, account.id, keys)
            is_current = event_bulk.is_current(connection, account.id, account.version, self._lock)
            if self._is_committed(connection):
                roll_back(connection)
                return self._attempted
            self._order_after(states)
            earlier = self._claim_keys(connection) if is_current else {}
            if not is_current or None in earlier.values():
                roll_back(connection)
                return None
            self._attempted = result = BatchResult()
            self._write_events(connection, result, states, earlier)
            self._write_runs(connection, result)
            if self._finish is not None:
                self._finish(connection, _receipt_of(self._batch, self._all_drafts, result))
            match_state.write_and_commit(connection, account.id, result.changes)
        return result

    def _is_committed(self, connection: RawConnection) -> bool:
        """Whether an earlier attempt was committed and its response was lost."""
        if self._attempted is None or not self._attempted.accepted:
            return False
        event_id = self._attempted.accepted[0]
        return event_queries.find_event(connection, self._account.snapshot.id, event_id) is not None

    def _order_after(self, states: States) -> None:
        """Give the items later timestamps, if their match states have seen later events."""
        first = self._item_ids.timestamps[0]
        if (start := next_timestamp(first, states.values())) != first:
            self._item_ids = make_item_ids(len(self._batch), start)

    def _claim_keys(self, connection: RawConnection) -> dict[str, EarlierEvent | None]:
        ids, timestamps = self._item_ids.ids, self._item_ids.timestamps
        claims = [
            Claim(key, digest, ids[draft.number], timestamps[draft.number])
            for draft in self._drafts
            if (key := draft.key) is not None and (digest := draft.digest) is not None
        ]
        return claim_keys(connection, self._account.snapshot.id, claims) if claims else {}

    def _write_events(
        self,
        connection: RawConnection,
        result: BatchResult,
        states: States,
        earlier: Mapping[str, EarlierEvent | None],
    ) -> None:
        inserter = EventInserter(connection, self._account.snapshot.id)
        differing: dict[int, EarlierEvent] = {}
        repeats: list[Repeat] = []
        for draft in self._drafts:
            pause_if_due()
            known = earlier.get(draft.key or "")
            if known is None:
                self._write_event(inserter, result, draft, states)
                continue
            result.ids[draft.number] = known.id
            result.duplicates += 1
            if known.digest != draft.digest and not draft.is_webhook_id:
                differing[draft.number] = known
                repeats.append((draft.number, known.id, known.received_at, draft.columns))
        inserter.flush()
        same = find_same_events(connection, self._account.snapshot.id, [*repeats, *self._repeats_in_batch(result)])
        for number, known in differing.items():
            if number not in same:
                del result.ids[number]
                result.duplicates -= 1
                result.refused[number] = _item_key_reused(f"event {known.id}")
        for number in self._other_bodies.keys() - same:
            result.refused[number] = _item_key_reused(f"item {self._repeats[number]} of this batch")

    def _repeats_in_batch(self, result: BatchResult) -> list[Repeat]:
        """The items that repeat the key of an earlier item with other bytes."""
        return [
            (number, event_id, timestamp_of(event_id), columns)
            for number, columns in self._other_bodies.items()
            if (event_id := result.ids.get(self._repeats[number])) is not None
        ]

    def _write_event(self, inserter: EventInserter, result: BatchResult, draft: Draft, states: States) -> None:
        event_id, received_at = self._item_ids.ids[draft.number], self._item_ids.timestamps[draft.number]
        decisions = self._match(result, draft, states) if draft.is_matched_later else draft.decisions
        inserter.add(event_id, received_at, decisions, draft.columns)
        result.ids[draft.number] = event_id
        result.accepted.append(event_id)
        job = MATCH if LATE in (decisions or "") else draft.job
        if job is not None:
            result.jobs[event_id] = job

    def _match(self, result: BatchResult, draft: Draft, states: States) -> str | None:
        """Read the item again and match it after the events before it; its decisions as JSON text."""
        number = draft.number
        event = self._batch.read(number, self._item_ids.ids[number], self._item_ids.timestamps[number])
        variables = event_variables(event)
        decided, stateful = match_stateless(self._account, variables, self._shares)
        # Rules that were late when the item was drafted are not locked.
        decided += [stateful.pop(key).postpone(LATE) for key in set(stateful).difference(draft.state_keys)]
        decisions, started = add_runs(event, decided)
        self._shares.spend(event.account_id, RUN_UNITS * len(started))
        changes = advance_states(event, variables, stateful, states, self._shares)
        for key, (before, after) in changes.states.items():
            states[key] = after
            result.changes[key] = (result.changes.get(key, (before, after))[0], after)
        result.started += [(run, event.distinct_id, event.received_at) for run in (*started, *changes.started)]
        result.by_deadline += [(run, event.received_at) for run in changes.by_deadline]
        return decisions_json([*decisions, *changes.decisions])

    def _write_runs(self, connection: RawConnection, result: BatchResult) -> None:
        account_id = self._account.snapshot.id
        event_bulk.start_runs(connection, account_id, result.started)
        for run, started_at in result.by_deadline:
            runs.start_run(connection, account_id, run, started_at)
        if result.jobs:
            event_bulk.enqueue_event_jobs(connection, account_id, result.jobs)


def accept_batch(
    context: AppContext,
    accounts: AccountCache,
    account: Account,
    batch: Batch,
    check_sender: Callable[[Account], None],
    finish: Finish | None = None,
) -> BatchReceipt:
    """Store the valid events of a batch with everything that follows from them; they are committed when this returns.

    `check_sender` is called again after a stale snapshot was reloaded; it raises Problem when the sender may no longer send.
    `finish` writes more in the same transaction.

    Raises Problem 422 (a value that Postgres cannot store) and Unavailable; nothing is stored then.
    """
    for _ in range(MAX_RELOADS):
        started_at = time.monotonic()
        item_ids = make_item_ids(len(batch), context.clock())
        with context.limits.bodies.acquire(account.snapshot.id):
            drafts = read_drafts(account, batch, item_ids, context.limits.shares)
        if not drafts.items:
            return make_receipt(batch, drafts, BatchResult())
        with context.limits.events.acquire(account.snapshot.id):
            transaction = BatchTransaction(account, batch, item_ids, drafts, context.limits.shares, finish)
            result = _write(context, transaction)
        if result is not None:
            accounts.confirm(account, started_at)
            return make_receipt(batch, drafts, result)
        account = accounts.reload(account)
        check_sender(account)
    raise changed_too_often(account)


def _write(context: AppContext, transaction: BatchTransaction) -> BatchResult | None:
    try:
        return context.database.run_with_reconnect(transaction.write, attempts=_MAX_ATTEMPTS)
    except errors.ForeignKeyViolation:
        # A workflow was deleted in the meantime.
        return None
    except psycopg2.DataError as exc:
        raise unstorable(exc) from None


def make_receipt(batch: Batch, drafts: Drafts, result: BatchResult) -> BatchReceipt:
    """What became of the items of a committed batch. Counts them in the metrics."""
    receipt = _receipt_of(batch, drafts, result)
    metrics.runs_started.inc(len(result.started) + len(result.by_deadline))
    metrics.events_accepted.inc(receipt.accepted)
    metrics.events_repeated.inc(receipt.duplicates)
    return receipt


def _receipt_of(batch: Batch, drafts: Drafts, result: BatchResult) -> BatchReceipt:
    ids = [result.ids.get(number) for number in range(len(batch))]
    refused, duplicates = {**drafts.refused, **result.refused}, result.duplicates
    for number, first in drafts.repeats.items():
        if number in refused:
            continue
        ids[number] = ids[first]
        if first in refused:
            refused[number] = refused[first]
        else:
            duplicates += 1
    return BatchReceipt(ids, len(result.accepted), duplicates, dict(sorted(refused.items())))
