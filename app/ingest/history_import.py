"""Imports past events from a file, with their own timestamps.

An event's id is derived from its account, its timestamp, and either its idempotency key or the text of its line with the
number of equal lines before it. So a second import of the same file adds nothing, wherever the first one was interrupted, and
equal lines are different events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.durations import RETENTION
from app.core.errors import Problem
from app.core.ids import uuid7
from app.core.models import Event
from app.db import event_bulk, inspection
from app.db.audit import Change
from app.db.connection import driver_connection
from app.db.event_keys import Claim, claim_keys
from app.ingest.account_cache import read_snapshot
from app.ingest.event_replay import replay_event
from app.ingest.limechat.batch_items import read_line
from app.services import audit
from app.services.context import AppContext
from app.services.partitions import make_partitions
from app.workflows.matching.rules import compile_rules

# The number and the text of a line; None: longer than an event may be.
Line = tuple[int, bytes | None]
_BATCH = 2_000
_BITS = 1 << 27


@dataclass(slots=True)
class Counts:
    """How many lines were stored, known before, rejected, and how many runs were started."""

    stored: int = 0
    known: int = 0
    rejected: int = 0
    started: int = 0


def survey(lines: Iterable[Line]) -> tuple[int, set[int]]:
    """The number of lines, and the hashes of the texts that occur more than once (and possibly of a few others).

    A bit set of hashes keeps memory constant for lines that occur once.
    """
    seen, repeated, count = bytearray(_BITS // 8), set(), 0
    for _, text in lines:
        count += 1
        if text is None:
            continue
        digest = _hash(text)
        index, bit = (digest % _BITS) >> 3, 1 << (digest & 7)
        if seen[index] & bit:
            repeated.add(digest)
        seen[index] |= bit
    return count, repeated


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class Importer:
    """Imports the lines of one file into one account. `repeated`: from `survey`. `reject` is called with the number, the text and
    the reason for each line that is not an event. `source`: what the audit log says of the import. It has one entry, which the
    first transaction writes that stores an event or starts a run."""

    def __init__(
        self,
        context: AppContext,
        account_id: int,
        *,
        time_field: str,
        stores_unusable_phone: bool,
        repeated: set[int],
        source: Mapping[str, Any],
        reject: Callable[[int, bytes | None, str], None],
    ) -> None:
        self.counts = Counts()
        self._context = context
        self._account_id = account_id
        self._time_field = time_field
        self._stores_unusable_phone = stores_unusable_phone
        self._repeated = repeated
        self._source = source
        self._is_recorded = False
        self._reject = reject
        self._latest = context.clock()
        self._months: set[tuple[int, int]] = set()

    def run(self, lines: Iterable[Line]) -> Iterator[int]:
        """Store the events that are not stored yet; yields the number of lines after each batch. Raises Unavailable; earlier
        batches stay stored."""
        batch: list[Event] = []
        waiting = 0
        for event in self._events(lines, self._note_rejected):
            waiting += 1
            if event is not None:
                batch.append(event)
            if waiting == _BATCH:
                self._store(batch)
                yield waiting
                batch, waiting = [], 0
        self._store(batch)
        yield waiting

    def _note_rejected(self, number: int, text: bytes | None, reason: str) -> None:
        self.counts.rejected += 1
        self._reject(number, text, reason)

    def _events(
        self, lines: Iterable[Line], reject: Callable[[int, bytes | None, str], None]
    ) -> Iterator[Event | None]:
        """The event of each line; None for a rejected line."""
        seen: dict[int, int] = {}
        for number, text in lines:
            if text is None:
                reject(number, None, f"is larger than {self._context.settings.max_event_bytes} bytes")
                yield None
                continue
            occurrence, digest = 0, _hash(text)
            if digest in self._repeated:
                occurrence = seen[digest] = seen.get(digest, -1) + 1
            try:
                yield self._read(text, occurrence)
            except Problem as exc:
                reject(number, text, exc.detail.replace("The body", "The line", 1))
                yield None

    def _read(self, text: bytes, occurrence: int) -> Event:
        def make_id(received_at: datetime, key: str | None) -> UUID:
            origin = f"line {occurrence}:".encode() + text if key is None else f"key:{key}".encode()
            digest = hashlib.blake2b(f"{self._account_id}:".encode() + origin, digest_size=8)
            return uuid7(received_at, digest.digest())

        return read_line(
            text,
            account_id=self._account_id,
            time_field=self._time_field,
            latest=self._latest,
            identify=make_id,
            stores_unusable_phone=self._stores_unusable_phone,
        )

    def _store(self, batch: list[Event]) -> None:
        months = {(event.received_at.year, event.received_at.month): event.received_at for event in batch}
        if not self._months.issuperset(months):
            make_partitions(self._context, months.values())
            self._months.update(months)
        with self._context.database.transaction() as connection:
            inspection.allow_slow_statements(connection)
            stored = event_bulk.insert_past_events(connection, self._account_id, self._fresh(connection, batch))
            if stored:
                self._record(connection)
        self.counts.stored += stored
        self.counts.known += len(batch) - stored

    def _record(self, connection: sa.Connection) -> None:
        """Record the import once. A transaction that fails ends the import."""
        if not self._is_recorded:
            change = Change("event.import", self._account_id, None, None, self._source)
            audit.record(connection, self._context, change)
            self._is_recorded = True

    def _fresh(self, connection: sa.Connection, batch: list[Event]) -> list[Event]:
        """The events without those whose idempotency key is remembered and stands for another event."""
        claims: dict[str, Claim] = {}
        for event in batch:
            key = event.idempotency_key
            if key is not None and event.received_at > self._latest - RETENTION:
                digest = hashlib.sha256(event.data_json.encode()).digest()
                claims.setdefault(key, Claim(key, digest, event.id, event.received_at))
        if not claims:
            return batch
        stored_as = {key: claim.event_id for key, claim in claims.items()}
        earlier = claim_keys(driver_connection(connection), self._account_id, claims.values())
        stored_as.update({key: known.id for key, known in earlier.items() if known is not None})
        return [event for event in batch if stored_as.get(event.idempotency_key or "", event.id) == event.id]

    def start_workflows(self, lines: Iterable[Line]) -> Iterator[int]:
        """Replay the events of the lines with the workflows that are enabled now. Yields 1 per line."""
        with self._context.database.transaction() as connection:
            snapshot = read_snapshot(connection, self._account_id)
        rules = compile_rules(snapshot.workflows if snapshot is not None else ())
        for event in self._events(lines, lambda number, text, reason: None):
            if event is not None and rules.find_by_event(event.event):
                self._replay(event)
            yield 1

    def _replay(self, event: Event) -> None:
        try:
            replayed = replay_event(
                self._context, self._account_id, event.id, record=lambda connection, *_: self._record(connection)
            )
        except Problem:
            # Its idempotency key stands for another event.
            return
        self.counts.started += sum(one.decision.run_id is not None for one in replayed)
