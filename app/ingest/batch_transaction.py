"""Writes the drafts of a batch with all that follows from them, in one transaction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from psycopg2.extensions import connection as RawConnection

from app.core.errors import Problem
from app.core.models import NewRun
from app.db import event_bulk, event_queries, match_state, runs
from app.db.connection import roll_back, rollback_on_error
from app.db.event_bulk import EventInserter, StartedRun
from app.db.event_records import decisions_json
from app.db.idempotency_keys import Claim, EarlierEvent, claim_keys
from app.db.match_state import StateKey, StoredState
from app.ingest.account_cache import Account
from app.ingest.batch_drafts import Batch, Draft, Drafts, ItemIds, key_reused, make_item_ids, yield_to_others
from app.ingest.matching_step import add_runs, advance_states, latest_event_at, match_stateless
from app.workflows.matching.rule import event_variables

States = dict[StateKey, StoredState]


@dataclass(slots=True)
class BatchResult:
    """What a transaction has written and will write. `ids` and `refused` are keyed by the number of the item."""

    ids: dict[int, UUID] = field(default_factory=dict)
    refused: dict[int, Problem] = field(default_factory=dict)
    accepted: list[UUID] = field(default_factory=list)
    duplicates: int = 0
    started: list[StartedRun] = field(default_factory=list)
    by_deadline: list[tuple[NewRun, datetime]] = field(default_factory=list)
    awaited: list[UUID] = field(default_factory=list)
    changes: dict[StateKey, tuple[StoredState, StoredState]] = field(default_factory=dict)


class BatchTransaction:
    """The transaction of a batch. `write` may be called again after a lost connection: it recognises an earlier commit."""

    def __init__(self, account: Account, batch: Batch, item_ids: ItemIds, drafts: Drafts) -> None:
        self._account = account
        self._batch = batch
        self._item_ids = item_ids
        self._drafts = drafts.items
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
        latest = latest_event_at(states.values())
        if latest is not None and latest >= self._item_ids.timestamps[0]:
            self._item_ids = make_item_ids(len(self._batch), latest + timedelta(microseconds=1))

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
        for draft in self._drafts:
            yield_to_others(draft.number)
            known = earlier.get(draft.key or "")
            if known is None:
                self._write_event(inserter, result, draft, states)
            elif known.digest != draft.digest:
                result.refused[draft.number] = key_reused(f"event {known.id}")
            else:
                result.ids[draft.number] = known.id
                result.duplicates += 1
        inserter.flush()

    def _write_event(self, inserter: EventInserter, result: BatchResult, draft: Draft, states: States) -> None:
        event_id, received_at = self._item_ids.ids[draft.number], self._item_ids.timestamps[draft.number]
        decisions = self._match(result, draft, states) if draft.is_matched_later else draft.decisions
        inserter.add(event_id, received_at, decisions, draft.columns)
        result.ids[draft.number] = event_id
        result.accepted.append(event_id)
        if draft.awaited:
            result.awaited.append(event_id)

    def _match(self, result: BatchResult, draft: Draft, states: States) -> str | None:
        """Read the item again and match it in its turn, after the events before it; its decisions as JSON text."""
        number = draft.number
        event = self._batch.read(number, self._item_ids.ids[number], self._item_ids.timestamps[number])
        decided, stateful = match_stateless(self._account, event_variables(event))
        decisions, started = add_runs(event, decided)
        changes = advance_states(event, stateful, states)
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
        if result.awaited:
            event_bulk.enqueue_event_jobs(connection, account_id, result.awaited)
