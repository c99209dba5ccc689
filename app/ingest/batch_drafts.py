"""Reads the items of a batch: what each row will hold, and which items are refused.

Only the columns of a row are kept of an item: parsed values would take many times the memory.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.core.errors import Problem, ProblemType
from app.core.ids import uuid7
from app.core.models import Decision, Event
from app.db.event_bulk import EventColumns, columns_of
from app.db.event_records import decisions_json
from app.db.match_state import StateKey
from app.ingest.account_cache import Account
from app.ingest.matching_step import is_awaited, match_stateless
from app.workflows.matching.rule import event_variables

_MICROSECOND = timedelta(microseconds=1)
_ITEMS_PER_YIELD = 50


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
    timestamps = [start + number * _MICROSECOND for number in range(count)]
    random = os.urandom(8 * count)
    return ItemIds([uuid7(at, random[8 * number : 8 * number + 8]) for number, at in enumerate(timestamps)], timestamps)


@dataclass(frozen=True, slots=True)
class Draft:
    """An item that was read. `digest`: of its body, when it has an idempotency key. `decisions`: JSON text, complete unless the
    item starts a run or advances match state (`is_matched_later`). `awaited`: a run may be waiting for it."""

    number: int
    columns: EventColumns
    key: str | None
    digest: bytes | None
    awaited: bool
    decisions: str | None
    is_matched_later: bool
    state_keys: tuple[StateKey, ...]


@dataclass(frozen=True, slots=True)
class Drafts:
    """The items of a batch by number: those to write, those refused, and those that repeat the idempotency key of an earlier
    item (its number)."""

    items: list[Draft] = field(default_factory=list)
    refused: dict[int, Problem] = field(default_factory=dict)
    repeats: dict[int, int] = field(default_factory=dict)


def read_drafts(account: Account, batch: Batch, item_ids: ItemIds) -> Drafts:
    """Read all items of a batch, once each."""
    reader = _Reader(account)
    for number in range(len(batch)):
        yield_to_others(number)
        try:
            reader.add(number, batch.read(number, item_ids.ids[number], item_ids.timestamps[number]))
        except Problem as exc:
            reader.drafts.refused[number] = exc
    return reader.drafts


class _Reader:
    def __init__(self, account: Account) -> None:
        self.drafts = Drafts()
        self._account = account
        self._by_key: dict[str, Draft] = {}
        self._decisions: dict[tuple[tuple[str, str], ...], str | None] = {}

    def add(self, number: int, event: Event) -> None:
        key = event.idempotency_key
        first = None if key is None else self._by_key.get(key)
        if first is not None:
            if first.digest != event.body_digest:
                raise key_reused(f"item {first.number} of this batch")
            self.drafts.repeats[number] = first.number
            return
        draft = self._draft(number, event)
        self.drafts.items.append(draft)
        if key is not None:
            self._by_key[key] = draft

    def _draft(self, number: int, event: Event) -> Draft:
        decisions, stateful = match_stateless(self._account, event_variables(event))
        is_matched_later = bool(stateful) or any(decision.started for decision in decisions)
        return Draft(
            number=number,
            columns=columns_of(event),
            key=event.idempotency_key,
            digest=event.body_digest,
            awaited=is_awaited(self._account, event),
            decisions=None if is_matched_later else self._decisions_json(decisions),
            is_matched_later=is_matched_later,
            state_keys=tuple(stateful),
        )

    def _decisions_json(self, decisions: list[Decision]) -> str | None:
        """Decisions that start nothing, as JSON text: one string in memory for equal decisions."""
        key = tuple((decision.workflow, decision.reason) for decision in decisions)
        if key not in self._decisions:
            self._decisions[key] = decisions_json(decisions)
        return self._decisions[key]


def key_reused(where: str) -> Problem:
    """The 422 for an idempotency key that came with another body."""
    message = f"This idempotency key was used with another body ({where}). A new event needs a new key."
    errors = [{"field": "idempotency_key", "message": message}]
    return Problem(ProblemType.IDEMPOTENCY_KEY_REUSED, message, errors=errors)


def yield_to_others(number: int) -> None:
    """Every few items, let other threads or greenlets of this process run."""
    if number % _ITEMS_PER_YIELD == 0:
        time.sleep(0)
