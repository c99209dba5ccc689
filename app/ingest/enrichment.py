"""On an event's way in: what an account's augments know beside it is added before workflows look.

Comes in: the account's copy and the event as it was sent. Goes out: the event whose `data` has both (an augment's value wins
over the event's own, a later augment's over an earlier one's), with the added fields by themselves in `augmented_json`.
An account without augments pays nothing; a small file is asked in memory, a large one by one question to Postgres, an API
over the network or from what it said a moment ago. An event is never refused because an API does not answer: it goes on
without, and a warning on it says so.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from cachetools import LRUCache

from app.core.models import Event
from app.db import enrichment_files
from app.db.accounts import AugmentSnapshot
from app.ingest.account_cache import Account
from app.services.context import AppContext

if TYPE_CHECKING:
    from app.ingest.enrichment_api import Asker

# Files up to this size are kept in memory, so many bytes of them in all.
SMALL_FILE = 256 * 1024
_MOST_KEPT = 16 * 1024 * 1024
_LONGEST_LOOKUP = 255
_log = structlog.get_logger()

Rows = Mapping[str, Sequence[str]]


class Augmenter:
    """One process's augments: the small files that it has read, and the thread that asks APIs."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._files: LRUCache[tuple[int, int, int], tuple[int, Rows]] = LRUCache(
            _MOST_KEPT, getsizeof=lambda file: file[0]
        )
        self._lock = threading.Lock()
        self._asker: Asker | None = None

    def complete(self, account: Account, event: Event, key: str) -> Event:
        """The event with what the account's augments know; `key` is the attribute that names its subject.

        Raises Unavailable where a large file has to be asked in Postgres and cannot.
        """
        if not account.snapshot.augments:
            return event
        seen, added, warnings = dict(event.data), dict[str, str](), list(event.warnings)
        for augment in account.snapshot.augments:
            try:
                found = self._found(account.snapshot.id, augment, seen, event, key)
            except LookupError as wrong:
                warnings.append(f"AU{augment.number}: {wrong}; the event was taken without it")
                continue
            for name, (value, text) in found.items():
                if augment.attributes is None or name in augment.attributes:
                    seen[name], added[name] = value, text
        if not added and len(warnings) == len(event.warnings):
            return event
        texts = ",".join(f"{msgspec.json.encode(name).decode()}:{text}" for name, text in added.items())
        return replace(event, data=seen, augmented_json=f"{{{texts}}}" if added else None, warnings=tuple(warnings))

    def close(self) -> None:
        """End what asks APIs."""
        if self._asker is not None:
            self._asker.close()

    def _found(
        self, account_id: int, augment: AugmentSnapshot, seen: Mapping[str, Any], event: Event, key: str
    ) -> Mapping[str, tuple[Any, str]]:
        """What an augment knows, each value with its JSON text; raises LookupError where an API does not answer."""
        if augment.url is not None:
            return self._asked(account_id, augment.url, key, event.distinct_id)
        assert augment.columns is not None
        first, *names = augment.columns
        lookup = _lookup(seen.get(first))
        cells = None if lookup is None else self._row(account_id, augment, lookup)
        if cells is None:
            return {}
        return {name: (cell, json.dumps(cell, ensure_ascii=False)) for name, cell in zip(names, cells, strict=False)}

    def _asked(self, account_id: int, url: str, key: str, value: str) -> Mapping[str, tuple[Any, str]]:
        # The HTTP client is loaded by those who need it.
        from app.ingest.enrichment_api import Asker, NoAnswer, Question

        with self._lock:
            asker = self._asker = self._asker or Asker(self._context.settings)
        try:
            answer = asker.ask(Question(account_id, url, key, value))
        except NoAnswer as wrong:
            _log.warning("an augment's server said nothing", account=account_id, reason=str(wrong))
            raise LookupError(str(wrong)) from None
        return {name: (value, answer.raw[name]) for name, value in answer.value.items()}

    def _row(self, account_id: int, augment: AugmentSnapshot, lookup: str) -> Sequence[str] | None:
        if augment.bytes > SMALL_FILE:
            with self._context.database.transaction() as connection:
                return enrichment_files.find_augment_row(connection, account_id, augment.number, lookup)
        return self._file(account_id, augment).get(lookup)

    def _file(self, account_id: int, augment: AugmentSnapshot) -> Rows:
        """The rows of a small file by what they are looked up with. Should a newer one have come meanwhile, the account's
        copy is stale and the event comes by again."""
        place = (account_id, augment.number, augment.upload)
        with self._lock:
            known = self._files.get(place)
        if known is not None:
            return known[1]
        with self._context.database.transaction() as connection:
            rows = dict(enrichment_files.list_augment_rows(connection, account_id, augment.number))
        with self._lock:
            self._files[place] = (augment.bytes + 1_000, rows)
        return rows


def _lookup(value: Any) -> str | None:
    """What a value is looked up by: a text by itself, a whole number by its digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and 1 <= len(value) <= _LONGEST_LOOKUP else None
