"""Events of the past, from a file: stored as they were, with their own moments.

Comes in: numbered lines, which can be read over and over. Goes out: how many were stored, how many had been stored before; each
line that is no event is told with the reason.

An event's id is made of its account, its moment, and either its idempotency key or the text of its line and how often that
text has come before in the file. So the same file imported again adds nothing, wherever it was interrupted, and
lines that are equal are events of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.core.durations import RETENTION
from app.core.errors import Problem
from app.core.ids import uuid7
from app.core.models import Event
from app.db import event_bulk, inspection, partitions
from app.db.connection import driver_connection
from app.db.idempotency_keys import Claim, claim_keys
from app.ingest.account_cache import read_snapshot
from app.ingest.limechat.import_line import read_line
from app.ingest.replay import replay_event
from app.services.context import AppContext
from app.workflows.matching.rules import compile_rules

# A number and the text; None for a line that is longer than an event may be.
Line = tuple[int, bytes | None]
_PORTION = 2_000
_BITS = 1 << 27


@dataclass(slots=True)
class Counts:
    """What became of the lines."""

    stored: int = 0
    known: int = 0
    rejected: int = 0
    started: int = 0


def survey(lines: Iterable[Line]) -> tuple[int, set[int]]:
    """How many lines there are, and the marks of those whose text comes more than once (and perhaps of a few others).

    Memory does not grow with the number of lines that come once.
    """
    seen, repeated, count = bytearray(_BITS // 8), set(), 0
    for _, text in lines:
        count += 1
        if text is None:
            continue
        mark = _mark(text)
        place, bit = (mark % _BITS) >> 3, 1 << (mark & 7)
        if seen[place] & bit:
            repeated.add(mark)
        seen[place] |= bit
    return count, repeated


def _mark(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


class Importer:
    """Imports the lines of one file into one account. `repeated`: what `survey` found. `reject` is told of each line that
    is no event: its number, its text and why."""

    def __init__(
        self,
        context: AppContext,
        account_id: int,
        *,
        time_field: str,
        repeated: set[int],
        reject: Callable[[int, bytes | None, str], None],
    ) -> None:
        self.counts = Counts()
        self._context = context
        self._account_id = account_id
        self._time_field = time_field
        self._repeated = repeated
        self._reject = reject
        self._latest = context.clock()
        self._months: set[tuple[int, int]] = set()

    def run(self, lines: Iterable[Line]) -> Iterator[int]:
        """Store all that is not there yet; yields how many lines were done, from time to time. Raises Unavailable: what
        was stored by then stays."""
        portion: list[Event] = []
        waiting = 0
        for event in self._events(lines, self._note_rejected):
            waiting += 1
            if event is not None:
                portion.append(event)
            if waiting == _PORTION:
                self._store(portion)
                yield waiting
                portion, waiting = [], 0
        self._store(portion)
        yield waiting

    def _note_rejected(self, number: int, text: bytes | None, reason: str) -> None:
        self.counts.rejected += 1
        self._reject(number, text, reason)

    def _events(
        self, lines: Iterable[Line], reject: Callable[[int, bytes | None, str], None]
    ) -> Iterator[Event | None]:
        """The event of each line; None where there is none."""
        come: dict[int, int] = {}
        for number, text in lines:
            if text is None:
                reject(number, None, f"is larger than {self._context.settings.max_event_bytes} bytes")
                yield None
                continue
            occurrence, mark = 0, _mark(text)
            if mark in self._repeated:
                occurrence = come[mark] = come.get(mark, -1) + 1
            try:
                yield self._read(text, occurrence)
            except Problem as wrong:
                reject(number, text, wrong.detail.replace("The body", "The line", 1))
                yield None

    def _read(self, text: bytes, occurrence: int) -> Event:
        def identify(moment: datetime, key: str | None) -> UUID:
            origin = f"line {occurrence}:".encode() + text if key is None else f"key:{key}".encode()
            told = hashlib.blake2b(f"{self._account_id}:".encode() + origin, digest_size=8)
            return uuid7(moment, told.digest())

        return read_line(
            text, account_id=self._account_id, time_field=self._time_field, latest=self._latest, identify=identify
        )

    def _store(self, portion: list[Event]) -> None:
        months = {(event.received_at.year, event.received_at.month): event.received_at for event in portion}
        if not self._months.issuperset(months):
            with self._context.database.transaction() as connection:
                partitions.ensure_partitions_of(connection, months.values())
            self._months.update(months)
        with self._context.database.transaction() as connection:
            inspection.allow_slow_statements(connection)
            stored = event_bulk.insert_past_events(connection, self._account_id, self._fresh(connection, portion))
        self.counts.stored += stored
        self.counts.known += len(portion) - stored

    def _fresh(self, connection: sa.Connection, portion: list[Event]) -> list[Event]:
        """Those whose idempotency key, if it would still be remembered, stands for no other event."""
        claims: dict[str, Claim] = {}
        for event in portion:
            key = event.idempotency_key
            if key is not None and event.received_at > self._latest - RETENTION:
                digest = hashlib.sha256(event.data_json.encode()).digest()
                claims.setdefault(key, Claim(key, digest, event.id, event.received_at))
        if not claims:
            return portion
        stands_for = {key: claim.event_id for key, claim in claims.items()}
        earlier = claim_keys(driver_connection(connection), self._account_id, claims.values())
        stands_for.update({key: known.id for key, known in earlier.items() if known is not None})
        return [event for event in portion if stands_for.get(event.idempotency_key or "", event.id) == event.id]

    def start_workflows(self, lines: Iterable[Line]) -> Iterator[int]:
        """Let the events of the lines meet the workflows that are enabled now, as a replay does: a match that has had its
        run gets no other one. Yields as `run` does."""
        with self._context.database.transaction() as connection:
            copy = read_snapshot(connection, self._account_id)
        rules = compile_rules(copy.workflows if copy is not None else ())
        for event in self._events(lines, lambda number, text, reason: None):
            if event is not None and rules.find_by_event(event.event):
                self._replay(event)
            yield 1

    def _replay(self, event: Event) -> None:
        try:
            replayed = replay_event(self._context, self._account_id, event.id)
        except Problem:
            # Its idempotency key stands for another event.
            return
        self.counts.started += sum(one.decision.run_id is not None for one in replayed)
