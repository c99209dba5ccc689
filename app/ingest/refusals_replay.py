"""Replays a kept refusal: its body is handled like a new request, with the present settings of the account.

An event that a replay stores has the time of the replay. Without an idempotency key of the request the key is made of the id of
the refusal, so that a second replay gives the same event. The key with which the request came, the rate limit and the media type
are not checked.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core import models
from app.core.errors import Problem, ProblemType
from app.core.exact_json import read_object
from app.core.gzip_body import BYTE_ORDER_MARK, too_large, unpack
from app.core.ids import uuid7
from app.core.models import RECEIVER, Event
from app.db import refusals
from app.db.audit import Change
from app.db.refusals import RefusalRow
from app.ingest.accept import BuildEvent, EventAcceptor
from app.ingest.accept_batch import BatchReceipt, accept_batch
from app.ingest.account_cache import Account, AccountCache, check_open
from app.ingest.cxengage.event_builder import Origin, build_event, map_body
from app.ingest.enrichment import Enricher
from app.ingest.enrichment_budget import ApiBudget
from app.ingest.limechat.parser import EVENT, parse_event
from app.ingest.limechat.received_batch import LINES, ReceivedBatch, split_body
from app.services import audit
from app.services.context import AppContext
from app.services.cxengage import listeners
from app.services.refusals import ReplayPlan, find_refusal, why_not_replayable

EVENT_ROUTE, BATCH_ROUTE = "/api/v1/cvf-events", "/api/v1/cvf-events/batch"
JSON = "application/json"
# Refusals that one request of a person replays, and the seconds after which it begins no other; another request continues.
MAX_REPLAYED, _SECONDS = 500, 10
_LISTENER = re.compile(r"(?:/1\.0)?/tenants/[^/]+/listeners/([^/]+)/receive")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a refusal. `stored`: the number of new events. `events`: the ids of all, also of those that were stored
    before. `refused`: what is refused again, by the position in the batch (None: the request)."""

    stored: int = 0
    events: Sequence[UUID] = ()
    refused: Mapping[int | None, Problem] | None = None

    def explain(self) -> str:
        """Why it is refused again; of several events of a batch the first."""
        refused = list((self.refused or {}).items())
        if not refused:
            return ""
        index, problem = refused[0]
        where = "" if index is None else f"event {index}: "
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        return f"{where}{problem.detail}{more}"


@dataclass(slots=True)
class ReplayResult:
    """What became of the refusals of a plan: how many were tried and accepted, and the number of new events. `failures`:
    (refusal, why it is refused again). `next`: the last one, when there are others after it."""

    done: int = 0
    accepted: int = 0
    stored: int = 0
    failures: list[tuple[UUID, str]] = field(default_factory=list)
    next: UUID | None = None


def replay_plan(context: AppContext, account_id: int, plan: ReplayPlan) -> ReplayResult:
    """Replay the refusals of a plan, as many as there is time for. Raises Unavailable."""
    result, ends_at = ReplayResult(), time.monotonic() + _SECONDS
    with closing(Replayer(context)) as replayer:
        for one in plan.chosen:
            if result.done and time.monotonic() > ends_at:
                break
            try:
                replayed = replayer.replay(find_refusal(context, account_id, one.id))
            except Problem as exc:
                replayed = Replayed(refused={None: exc})
            result.done += 1
            result.stored += replayed.stored
            result.accepted += not replayed.refused
            if replayed.refused:
                result.failures.append((one.id, replayed.explain()))
    if plan.is_cut or result.done < len(plan.chosen):
        result.next = plan.chosen[result.done - 1].id
    return result


class Replayer:
    """Replays the refusals of one process; `close` ends it."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._accounts = AccountCache(context)
        self._acceptor = EventAcceptor(context, self._accounts)
        self._enricher = Enricher(context)

    def close(self) -> None:
        """Stop what calls augments."""
        self._enricher.close()

    def replay(self, refusal: RefusalRow) -> Replayed:
        """Accept the body of a refusal, or the items that are refused still, and record that. Raises Unavailable."""
        if refusal.replayed_at is not None:
            return Replayed(events=[refusal.replayed_event_id] if refusal.replayed_event_id else [])
        try:
            return self._replay(refusal)
        except Problem as exc:
            return Replayed(refused={None: exc})

    def _replay(self, refusal: RefusalRow) -> Replayed:
        if (reason := why_not_replayable(refusal)) is not None:
            raise Problem(ProblemType.CONFLICT, f"It cannot be replayed: {reason}.")
        account = self._accounts.find_by_id(refusal.account_id)
        if account is None:
            raise Problem(ProblemType.NOT_FOUND, "The account was deleted.")
        self._check_open(account)
        if refusal.route == BATCH_ROUTE:
            return self._replay_batch(refusal, account)
        build = self._event_builder(refusal, account)

        def build_checked(current: Account) -> Event:
            self._check_open(current)
            return build(current)

        receipt = self._acceptor.accept(account, build_checked)
        self._record(refusal, [receipt.id], int(not receipt.duplicate))
        listener = _LISTENER.fullmatch(refusal.route)
        if listener and not receipt.duplicate:
            listeners.count_received(self._context, account.snapshot.id, listener[1], receipt.received_at)
        return Replayed(int(not receipt.duplicate), [receipt.id])

    def _event_builder(self, refusal: RefusalRow, account: Account) -> BuildEvent:
        """What builds the event of a single request, as its route does. Raises Problem."""
        body, now = self._body(refusal, self._context.settings.max_event_bytes), self._context.clock()
        key, is_webhook_id = _key_of(refusal)
        if refusal.route == EVENT_ROUTE:
            exact, event_id = read_object(body), uuid7(now)
            return lambda current: parse_event(
                exact,
                EVENT,
                account_id=current.snapshot.id,
                event_id=event_id,
                received_at=now,
                idempotency_key=key,
                is_webhook_id=is_webhook_id,
                body=body,
                stores_unusable_phone=lambda: current.snapshot.unusable_phone == models.STORE,
            )
        listener, budget = _LISTENER.fullmatch(refusal.route), ApiBudget()
        if listener is None:
            exact, origin = read_object(body), Origin(RECEIVER, key, is_webhook_id, body)
        else:
            row = listeners.find_enabled(self._context, account.snapshot.id, listener[1])
            mapped = map_body(body, row.mapping)
            exact = mapped.fields
            origin = Origin(f"listener:{listener[1]}", key, is_webhook_id, body, mapped.warnings)
        return lambda current: build_event(current, exact, now, origin, self._enricher.enrich(current, exact, budget))

    def _replay_batch(self, refusal: RefusalRow, account: Account) -> Replayed:
        """Accept a batch that was refused as a whole, or those of its items that are refused still."""
        settings = self._context.settings
        body = self._body(refusal, settings.max_batch_unpacked_bytes)
        waiting = None if refusal.items is None else [one for one in refusal.items if not one.get("event_id")]
        if waiting is None:
            count, item = split_body(
                body, settings.max_batch_events, settings.max_event_bytes, lines=_has_lines(refusal, body)
            )
        else:
            count, item = len(waiting), _item_reader(body, waiting)
        key, is_webhook_id = _key_of(refusal)
        batch = ReceivedBatch(
            account.snapshot.id,
            count,
            item,
            key,
            settings.max_event_bytes,
            is_webhook_id,
            lambda: account.snapshot.unusable_phone == models.STORE,
            None if waiting is None else [one["index"] for one in waiting],
        )
        receipt = accept_batch(self._context, self._accounts, account, batch, self._check_open)
        stored = [event_id for event_id in receipt.ids if event_id is not None]
        if waiting is not None:
            self._record_items(refusal, waiting, receipt)
        elif not receipt.refused:
            self._record(refusal, stored, receipt.accepted)
        indexes = range(count) if batch.indexes is None else batch.indexes
        return Replayed(
            receipt.accepted, stored, {indexes[number]: problem for number, problem in receipt.refused.items()}
        )

    def _body(self, refusal: RefusalRow, limit: int) -> bytes:
        """The body, unpacked; raises Problem 413 or 400."""
        with self._context.database.transaction() as connection:
            body = refusals.find_body(connection, refusal.account_id, refusal.id) or b""
        if refusal.content_encoding is not None:
            return unpack(body, limit).removeprefix(BYTE_ORDER_MARK)
        if len(body) > limit:
            raise too_large(limit)
        return body

    def _check_open(self, account: Account) -> None:
        check_open(account, self._context.clock())

    def _record(self, refusal: RefusalRow, events: Sequence[UUID], stored: int) -> None:
        """Record that the whole body was accepted, `stored` events of it now."""
        with self._context.database.transaction() as connection:
            self._record_replay(connection, refusal, events)
            self._record_change(connection, refusal, events, stored)

    def _record_items(self, refusal: RefusalRow, waiting: Sequence[Mapping[str, Any]], receipt: BatchReceipt) -> None:
        """Record the events of items, and the replay of the refusal when each item has one."""
        events = {one["index"]: found for one, found in zip(waiting, receipt.ids, strict=True) if found}
        if not events:
            return
        items = [
            {**one, "event_id": str(events[one["index"]])} if one["index"] in events else one
            for one in refusal.items or ()
        ]
        with self._context.database.transaction() as connection:
            refusals.save_items(connection, refusal.account_id, refusal.id, json.dumps(items, ensure_ascii=False))
            if all(one.get("event_id") for one in items):
                self._record_replay(connection, refusal, [UUID(str(one["event_id"])) for one in items])
            self._record_change(connection, refusal, list(events.values()), receipt.accepted)

    def _record_replay(self, connection: sa.Connection, refusal: RefusalRow, events: Sequence[UUID]) -> None:
        first = events[0] if events else None
        refusals.record_replay(connection, refusal.account_id, refusal.id, self._context.clock(), first)

    def _record_change(
        self, connection: sa.Connection, refusal: RefusalRow, events: Sequence[UUID], stored: int
    ) -> None:
        # Also where none is stored now: a replay that was interrupted after it had stored them left no entry.
        after = {"stored": stored, "first_event_id": str(events[0]) if events else None}
        audit.record(
            connection, self._context, Change("refusal.replay", refusal.account_id, str(refusal.id), None, after)
        )


def _key_of(refusal: RefusalRow) -> tuple[str, bool]:
    """The idempotency key of a request, and whether it is a `webhook-id`. Without one it is made of the refusal's id."""
    if refusal.idempotency_key is not None:
        return refusal.idempotency_key, refusal.is_webhook_id
    return f"refusal:{refusal.id}", False


def _has_lines(refusal: RefusalRow, body: bytes) -> bool:
    """Whether a batch has one event on each line. Of one with another media type its first character tells."""
    media_type = (refusal.content_type or "").partition(";")[0].strip().lower()
    return media_type == LINES or (media_type != JSON and not body.lstrip().startswith(b"["))


def _item_reader(body: bytes, items: Sequence[Mapping[str, Any]]) -> Callable[[int], bytes]:
    return lambda number: body[items[number]["start"] : items[number]["start"] + items[number]["bytes"]]
