"""Accepts deliveries of sources: what `app/ingest/accept.py` does for an event, for what a third party posts.

`SourceAcceptor.accept`, after the sender was verified:

1. The mapping of the account snapshot makes events of the delivery, or says why it cannot. If the mapping is expensive and the
   account has used up its share of the process, a worker does it later.
2. One commit stores the delivery with its events and everything that follows from them: one event by the group commit, several by
   the transaction of a batch. Without events only the delivery is stored, as `unmapped` where something could not be mapped.
3. Nothing is written for a stale snapshot: it is loaded again, and the delivery mapped again.

The dedupe id of an event is its idempotency key: of a repeated delivery, the row is stored, and no event.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg2.extensions import connection as RawConnection

from app.core import metrics
from app.core.errors import Problem, ProblemType
from app.core.exact_json import LARGE
from app.core.idempotency_keys import MAX_LENGTH as MAX_KEY
from app.core.ids import uuid7
from app.core.models import Event
from app.core.pacing import pause_if_due
from app.core.work_shares import UNITS_PER_MILLISECOND
from app.db import deliveries, event_bulk
from app.db.connection import driver_connection
from app.db.deliveries import (
    ACCEPTED,
    DUPLICATE,
    PARTLY,
    UNMAPPED,
    DeliveryProblem,
    DeliveryRow,
    NewDelivery,
    final_result,
)
from app.db.event_keys import Claim, claim_keys
from app.ingest.accept import MAX_RELOADS, EventAcceptor, changed_too_often
from app.ingest.accept_batch import BatchReceipt, accept_batch
from app.ingest.account_cache import Account, AccountCache
from app.ingest.sources.compiled import Source
from app.ingest.sources.received import ReceivedDelivery, new_delivery, request_of
from app.ingest.sources.verifier import Verdict
from app.services.context import AppContext
from app.workflows.sources.mapping import MappedEvent, map_delivery, reading_units

_RETRY_AFTER = "60"
# Units of work of reading a body above which even a mapping of paths is postponed.
_COSTLY = UNITS_PER_MILLISECOND
# Why a delivery has no events yet.
LATE = DeliveryProblem(
    None, "map", "not mapped yet: the account has used up its share of the process, a worker maps it"
)
# Characters of an idempotency key; a longer one is hashed.

# Counts events against the account's plan; raises Problem 429.
CountEvents = Callable[[int], None]


class DeliveryReceipt(Struct, frozen=True):
    """What became of a delivery. `events`: the ids of its events, `duplicates` of which were stored before."""

    id: UUID
    result: str
    events: Sequence[UUID] = ()
    duplicates: int = 0
    problems: Sequence[DeliveryProblem] = ()


class _Reloaded(Exception):
    """The account snapshot was stale; `account` is a newer one."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account = account


class _TokenRepeated(Exception):
    """A token that the sender uses only once came before, with the delivery `earlier_id`."""

    def __init__(self, earlier_id: UUID) -> None:
        super().__init__()
        self.earlier_id = earlier_id


class _Mapped(Struct, frozen=True):
    """What the mapping of a source made of a delivery."""

    source: Source
    events: Sequence[MappedEvent]
    problems: Sequence[DeliveryProblem]

    @property
    def result(self) -> str:
        if not self.problems:
            return ACCEPTED
        return PARTLY if self.events else UNMAPPED


class SourceAcceptor:
    """Stores deliveries with their events."""

    def __init__(self, context: AppContext, accounts: AccountCache, acceptor: EventAcceptor) -> None:
        self._context = context
        self._accounts = accounts
        self._acceptor = acceptor

    def accept(
        self,
        account: Account,
        received: ReceivedDelivery,
        verify: Callable[[Account], Verdict],
        count: CountEvents = lambda events: None,
    ) -> DeliveryReceipt:
        """Store a delivery with its events; they are committed when this returns.

        `verify` is called for each snapshot of the account; it raises Problem for what may not be stored. `count` is called once.
        Raises what `verify` raises, Problem 429, 503 (the source cannot be compiled), and Unavailable.
        """
        is_counted = False
        for _ in range(MAX_RELOADS):
            verdict = verify(account)
            mapped = self._map(account, received, can_wait=verdict.token is None)
            if not is_counted:
                count(max(1, len(mapped.events)))
                is_counted = True
            try:
                receipt = self._store(_Attempt(account, received, mapped, verdict))
            except _Reloaded as exc:
                account = exc.account
                continue
            metrics.deliveries_of["postponed" if LATE in receipt.problems else receipt.result].inc()
            return receipt
        raise changed_too_often(account)

    def replay(self, account: Account, row: DeliveryRow, body: bytes) -> DeliveryReceipt:
        """Map a stored delivery again, whose `body` is as it arrived, and store what became of it: events that were stored before
        are duplicates. Its events are received now. Raises as `accept` does."""
        limit = self._context.settings.max_batch_unpacked_bytes
        received = ReceivedDelivery(
            id=row.id,
            source_id=row.source_id,
            received_at=row.received_at,
            request=request_of(row, body, limit),
            query=row.query or "",
            content_encoding=row.content_encoding,
            request_id=row.request_id,
            replayed_at=self._context.clock(),
        )
        return self.accept(account, received, lambda account: Verdict(row.verified))

    def _map(self, account: Account, received: ReceivedDelivery, *, can_wait: bool) -> _Mapped:
        source = find_source(account, received.source_id)
        if not source.snapshot.enabled:
            return _Mapped(source, (), (DeliveryProblem(None, "enabled", "the source is disabled"),))
        request, units = received.request, reading_units(received.request.body)
        charge = None
        if received.replayed_at is None:
            account_id, shares = account.snapshot.id, self._context.limits.shares
            is_costly = units > _COSTLY or source.compiled.mapping.is_costly
            if can_wait and is_costly and shares.is_used_up(account_id):
                return _Mapped(source, (), (LATE,))
            charge = partial(shares.spend, account_id)
            charge(units)
        # Of each account, one large body at a time.
        is_large = len(request.body) > LARGE
        with self._context.limits.bodies.acquire(account.snapshot.id) if is_large else nullcontext():
            events, found = map_delivery(
                source.compiled.mapping, request.view(source.compiled.secret_locations), charge
            )
        problems = [DeliveryProblem(one.item, one.path, one.message) for one in found]
        return _Mapped(source, events, problems)

    def _store(self, attempt: _Attempt) -> DeliveryReceipt:
        row, events = attempt.row, attempt.mapped.events
        try:
            if not events:
                return self._store_alone(attempt, row) if attempt.token is None else self._store_token(attempt, row)
            if len(events) == 1 and attempt.token is None:
                return self._store_one(attempt, row)
            return self._store_many(attempt, row)
        except _TokenRepeated as exc:
            with self._context.database.transaction() as connection:
                earlier = deliveries.find_delivery(connection, row.account_id, exc.earlier_id)
            ids = [UUID(one) for one in earlier.events] if earlier else []
            return self._store_alone(attempt, replace(row, result=DUPLICATE), ids)
        except Problem as exc:
            if exc.type is not ProblemType.UNSTORABLE_VALUE:
                raise
            problem = DeliveryProblem(None, "map", f"Postgres cannot store it: {exc.detail}")
            return self._store_alone(attempt, replace(row, result=UNMAPPED, problems=(problem,)))

    def _store_alone(self, attempt: _Attempt, row: NewDelivery, earlier: Sequence[UUID] = ()) -> DeliveryReceipt:
        """Store a delivery without new events; `earlier` are its events that were stored before."""
        account, started_at = attempt.account, time.monotonic()
        insert = partial(
            deliveries.insert_if_current,
            account_version=account.snapshot.version,
            delivery=row,
            events=earlier,
            is_late=LATE in (row.problems or ()),
        )
        with self._context.limits.events.acquire(account.snapshot.id):
            is_current = self._context.database.run_with_reconnect(insert)
        if not is_current:
            raise _Reloaded(self._accounts.reload(account))
        self._accounts.confirm(account, started_at)
        return DeliveryReceipt(row.id, row.result, earlier, len(earlier), row.problems or ())

    def _store_token(self, attempt: _Attempt, row: NewDelivery) -> DeliveryReceipt:
        """Store a delivery without events, whose token must not come again."""
        account = attempt.account.snapshot
        with self._context.limits.events.acquire(account.id), self._context.database.transaction() as connection:
            raw = driver_connection(connection)
            is_current = event_bulk.is_current(raw, account.id, account.version, row.id.int % 2**63)
            if is_current:
                _claim_token(raw, row, attempt.token or "")
                deliveries.insert_delivery(raw, row, (), 0)
        if not is_current:
            raise _Reloaded(self._accounts.reload(attempt.account))
        return DeliveryReceipt(row.id, row.result, problems=row.problems or ())

    def _store_one(self, attempt: _Attempt, row: NewDelivery) -> DeliveryReceipt:
        timestamp = attempt.received.replayed_at or attempt.received.received_at
        event = attempt.batch().read(0, uuid7(timestamp), timestamp)

        def build(account: Account) -> Event:
            if account is not attempt.account:
                raise _Reloaded(account)
            return event

        receipt = self._acceptor.accept(attempt.account, build, row)
        result = final_result(row.result, 1, int(receipt.duplicate))
        return DeliveryReceipt(row.id, result, [receipt.id], int(receipt.duplicate), row.problems or ())

    def _store_many(self, attempt: _Attempt, row: NewDelivery) -> DeliveryReceipt:
        def finish(connection: RawConnection, receipt: BatchReceipt) -> None:
            if attempt.token is not None:
                _claim_token(connection, row, attempt.token)
            deliveries.insert_delivery(connection, row, receipt.ids, receipt.duplicates)

        def reloaded(account: Account) -> None:
            raise _Reloaded(account)

        batch = attempt.batch()
        receipt = accept_batch(self._context, self._accounts, attempt.account, batch, reloaded, finish)
        ids = [one for one in receipt.ids if one is not None]
        result = final_result(row.result, len(ids), receipt.duplicates)
        return DeliveryReceipt(row.id, result, ids, receipt.duplicates, row.problems or ())


class _Attempt:
    """One try to store a delivery, by one snapshot of its account."""

    def __init__(
        self,
        account: Account,
        received: ReceivedDelivery,
        mapped: _Mapped,
        verdict: Verdict,
    ) -> None:
        self.account = account
        self.received = received
        self.mapped = mapped
        self.token = verdict.token
        self.row = new_delivery(
            received,
            account.snapshot.id,
            mapped.source,
            verified=verdict.verified,
            result=mapped.result,
            problems=mapped.problems,
        )

    def batch(self) -> DeliveredEvents:
        """The events of the delivery. One that is mapped again, or has to be, gives those without a dedupe id keys of its own."""
        is_repeatable = bool(self.mapped.problems) or self.received.replayed_at is not None
        return DeliveredEvents(self.account, self.mapped, self.received.id if is_repeatable else None)


class DeliveredEvents:
    """The events of a delivery as a batch. `delivery_id`: makes keys of events without a dedupe id, so that the delivery can be
    mapped more than once."""

    def __init__(self, account: Account, mapped: _Mapped, delivery_id: UUID | None = None) -> None:
        self._account_id = account.snapshot.id
        self._source = mapped.source.snapshot
        self._events = mapped.events
        self._keys = make_keys(self._source.id, mapped.events, delivery_id)

    def __len__(self) -> int:
        return len(self._events)

    def read(self, number: int, event_id: UUID, received_at: datetime) -> Event:
        """Event `number` (from 0) with this id and timestamp."""
        mapped, key = self._events[number], self._keys[number]
        return Event(
            id=event_id,
            account_id=self._account_id,
            event=mapped.event,
            distinct_id=mapped.distinct_id,
            phone=mapped.phone,
            data=mapped.data,
            data_json=mapped.data_json,
            extra_json=mapped.extra_json,
            received_at=received_at,
            idempotency_key=key,
            # Data are not compared: an event with a repeated dedupe id is a duplicate, even if its data differ.
            body_digest=None if key is None else b"",
            is_webhook_id=True,
            warnings=mapped.warnings,
            via=f"source:{self._source.name}",
            occurred_at=mapped.occurred_at,
        )


def find_source(account: Account, source_id: UUID) -> Source:
    """A source of an account; raises Problem 503 for one that cannot be compiled."""
    source = account.sources.get(source_id)
    if source is None:
        raise not_usable_now("The source cannot be used now.")
    return source


def find_source_of_listener(account: Account, listener: str) -> UUID | None:
    """The id of the source that takes what is posted to a CxEngage listener; None if there is none."""
    found = [source_id for source_id, source in account.sources.items() if source.compiled.listener == listener]
    return found[0] if found else None


def not_usable_now(reason: str) -> Problem:
    """The 503 for a delivery that the provider has to send again, after the source has been corrected."""
    headers = {"Retry-After": _RETRY_AFTER}
    return Problem(ProblemType.SERVICE_UNAVAILABLE, f"{reason} Retry later.", headers=headers)


def make_keys(source_id: UUID, events: Sequence[MappedEvent], delivery_id: UUID | None) -> list[str | None]:
    """The idempotency keys of the events of a delivery: their dedupe ids. An event without one has a key of the delivery and of
    its place there, if `delivery_id` is given: the key stays the same when the mapping makes other data of it."""
    keys: list[str | None] = []
    for index, one in enumerate(events):
        # Not before the first: a pause costs more than the whole mapping of a small delivery.
        if index:
            pause_if_due()
        if one.dedupe is not None:
            keys.append(key_of(source_id, one.dedupe))
        elif delivery_id is not None:
            keys.append(key_of(source_id, f"delivery:{delivery_id}:{one.member_key}"))
        else:
            keys.append(None)
    return keys


def key_of(source_id: UUID, text: str) -> str:
    """The idempotency key of a dedupe id; a long or unprintable one is hashed."""
    key = f"{source_id}:{text}"
    if len(key) <= MAX_KEY and text.isprintable():
        return key
    return f"{source_id}:sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _claim_token(connection: RawConnection, row: NewDelivery, token: str) -> None:
    """Remember a token as an idempotency key; raises _TokenRepeated when it came with an earlier delivery."""
    key = f"{row.source_id}:token:{hashlib.sha256(token.encode('utf-8', 'surrogatepass')).hexdigest()}"
    claim = Claim(key, hashlib.sha256(row.body).digest(), row.id, row.received_at)
    earlier = claim_keys(connection, row.account_id, [claim]).get(key)
    if earlier is not None and earlier.id != row.id:
        raise _TokenRepeated(earlier.id)
