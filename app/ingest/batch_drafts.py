"""Reads the items of a batch once each, before its transaction begins: drafts are what is kept of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from app.core.errors import Problem
from app.core.ids import uuid7
from app.core.models import Decision, Event
from app.core.pacing import pause_if_due
from app.core.work_shares import WorkShares
from app.db.event_bulk import EventColumns, columns_of
from app.db.event_writes import decisions_json
from app.db.match_state import StateKey
from app.ingest.account_cache import Account
from app.ingest.matching_step import MICROSECOND, find_job, match_stateless
from app.workflows.matching.rule import event_variables

# Characters of decisions that the drafts of a batch keep; the decisions of further items are made again when they are written.
MAX_KEPT_DECISIONS = 16 * 1024 * 1024


class Batch(Protocol):
    """Items that can be read as events, any number of times."""

    def __len__(self) -> int:
        """The number of items."""

    def read(self, number: int, event_id: UUID, received_at: datetime) -> Event:
        """Item `number` (from 0) as an event with this id and timestamp. Raises Problem."""


@dataclass(frozen=True, slots=True)
class ItemIds:
    """The id and the timestamp of each item, a microsecond apart."""

    ids: list[UUID]
    timestamps: list[datetime]


def make_item_ids(count: int, start: datetime) -> ItemIds:
    """Ids and timestamps for `count` items from `start` on."""
    timestamps = [start + number * MICROSECOND for number in range(count)]
    random = os.urandom(8 * count)
    return ItemIds([uuid7(at, random[8 * number : 8 * number + 8]) for number, at in enumerate(timestamps)], timestamps)


class Draft(NamedTuple):
    """An item that was read, reduced to the columns of its row: parsed values would take many times the memory.

    `digest`: of its body, when it has an idempotency key (`is_webhook_id`: which tolerates another body). `decisions`: JSON text,
    complete unless the item starts a run, advances match state or comes after many decisions (`is_matched_later`). `job`: the
    kind of the job that a worker has to do for it.
    """

    number: int
    columns: EventColumns
    key: str | None
    digest: bytes | None
    is_webhook_id: bool
    job: str | None
    decisions: str | None
    is_matched_later: bool
    state_keys: tuple[StateKey, ...]


@dataclass(frozen=True, slots=True)
class Drafts:
    """The items of a batch by number: those to write, those refused, and those that repeat the idempotency key of an earlier
    item (its number). `other_bodies`: repeats with other bytes, which may be the same JSON."""

    items: list[Draft] = field(default_factory=list)
    refused: dict[int, Problem] = field(default_factory=dict)
    repeats: dict[int, int] = field(default_factory=dict)
    other_bodies: dict[int, EventColumns] = field(default_factory=dict)


def read_drafts(account: Account, batch: Batch, item_ids: ItemIds, shares: WorkShares) -> Drafts:
    """Read all items of a batch, once each."""
    reader = _Reader(account, shares)
    for number in range(len(batch)):
        pause_if_due()
        try:
            reader.add(number, batch.read(number, item_ids.ids[number], item_ids.timestamps[number]))
        except Problem as exc:
            reader.drafts.refused[number] = exc
    return reader.drafts


class _Reader:
    def __init__(self, account: Account, shares: WorkShares) -> None:
        self.drafts = Drafts()
        self._account = account
        self._shares = shares
        self._by_key: dict[str, Draft] = {}
        self._decisions: dict[tuple[tuple[str, str], ...], str | None] = {}
        self._left = MAX_KEPT_DECISIONS

    def add(self, number: int, event: Event) -> None:
        key = event.idempotency_key
        first = None if key is None else self._by_key.get(key)
        if first is not None:
            self.drafts.repeats[number] = first.number
            if first.digest != event.body_digest:
                self.drafts.other_bodies[number] = columns_of(event)
            return
        draft = self._draft(number, event)
        self.drafts.items.append(draft)
        if key is not None:
            self._by_key[key] = draft

    def _draft(self, number: int, event: Event) -> Draft:
        decisions, stateful = match_stateless(self._account, event_variables(event), self._shares)
        is_matched_later = self._left < 0 or bool(stateful) or any(decision.started for decision in decisions)
        return Draft(
            number=number,
            columns=columns_of(event),
            key=event.idempotency_key,
            digest=event.body_digest,
            is_webhook_id=event.is_webhook_id,
            job=find_job(self._account, event, decisions),
            decisions=None if is_matched_later else self._decisions_json(decisions),
            is_matched_later=is_matched_later,
            state_keys=tuple(stateful),
        )

    def _decisions_json(self, decisions: list[Decision]) -> str | None:
        """Decisions that start nothing, as JSON text: one string in memory for equal decisions."""
        key = tuple((decision.workflow, decision.reason) for decision in decisions)
        if key not in self._decisions:
            self._decisions[key] = text = decisions_json(decisions)
            self._left -= len(text or "")
        return self._decisions[key]
