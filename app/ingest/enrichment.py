"""Enrichment: adds to an event's `data` what the account's augments know, before workflows see it.

An augment overrides the fields that were sent, and the augments before it. The added fields alone are in `augmented_json`.
A file augment is looked up in memory (small files) or in Postgres; an API augment over the network or in a cache. An API
that fails never refuses an event: the event gets a warning instead.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from cachetools import LRUCache
from msgspec.structs import replace

from app.core.models import Event
from app.core.subjects import subject_text
from app.db import cxengage_resources
from app.db.accounts import AugmentSnapshot
from app.ingest.account_cache import Account
from app.services.context import AppContext

if TYPE_CHECKING:
    from app.ingest.enrichment_api import ApiClient

# Bytes up to which a file is cached in memory, and bytes of the cache.
SMALL_FILE = 256 * 1024
_MAX_CACHED = 16 * 1024 * 1024
_log = structlog.get_logger()

Rows = Mapping[str, Sequence[str]]


class Enricher:
    """The augments of one process: a cache of small files, and the client that calls APIs."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._files: LRUCache[tuple[int, int, int], tuple[int, Rows]] = LRUCache(
            _MAX_CACHED, getsizeof=lambda file: file[0]
        )
        self._lock = threading.Lock()
        self._client: ApiClient | None = None

    def enrich(self, account: Account, event: Event, key: str) -> Event:
        """The event with the fields that the account's augments add; `key` is the attribute that names its subject.

        Raises Unavailable when a large file cannot be queried.
        """
        if not account.snapshot.augments:
            return event
        data, added, warnings = dict(event.data), dict[str, str](), list(event.warnings)
        for augment in account.snapshot.augments:
            try:
                fields = self._look_up(account.snapshot.id, augment, data, event, key)
            except LookupError as exc:
                warnings.append(f"AU{augment.number}: {exc}; the event was accepted without it")
                continue
            for name, (value, text) in fields.items():
                if augment.attributes is None or name in augment.attributes:
                    data[name], added[name] = value, text
        if not added and len(warnings) == len(event.warnings):
            return event
        texts = ",".join(f"{msgspec.json.encode(name).decode()}:{text}" for name, text in added.items())
        return replace(event, data=data, augmented_json=f"{{{texts}}}" if added else None, warnings=tuple(warnings))

    def close(self) -> None:
        """Stop the client that calls APIs."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _look_up(
        self, account_id: int, augment: AugmentSnapshot, data: Mapping[str, Any], event: Event, key: str
    ) -> Mapping[str, tuple[Any, str]]:
        """The fields of one augment, each value with its JSON text. Raises LookupError when an API does not answer."""
        if augment.url is not None:
            return self._call_api(account_id, augment.url, key, event.distinct_id)
        assert augment.columns is not None
        first, *names = augment.columns
        lookup = subject_text(data.get(first))
        cells = None if lookup is None else self._find_row(account_id, augment, lookup)
        if cells is None:
            return {}
        return {name: (cell, json.dumps(cell, ensure_ascii=False)) for name, cell in zip(names, cells, strict=False)}

    def _call_api(self, account_id: int, url: str, key: str, value: str) -> Mapping[str, tuple[Any, str]]:
        # Loads the HTTP client only for accounts that use it.
        from app.ingest.enrichment_api import ApiClient, ApiError, ApiQuery

        with self._lock:
            client = self._client = self._client or ApiClient(self._context.settings)
        try:
            answer = client.query(ApiQuery(account_id, url, key, value))
        except ApiError as exc:
            _log.warning("an augment's API did not answer", account=account_id, reason=str(exc))
            raise LookupError(str(exc)) from None
        return {name: (value, answer.raw[name]) for name, value in answer.value.items()}

    def _find_row(self, account_id: int, augment: AugmentSnapshot, lookup: str) -> Sequence[str] | None:
        if augment.bytes > SMALL_FILE:
            with self._context.database.transaction() as connection:
                return cxengage_resources.find_augment_row(connection, account_id, augment.number, lookup)
        return self._load_file(account_id, augment).get(lookup)

    def _load_file(self, account_id: int, augment: AugmentSnapshot) -> Rows:
        """The rows of a small file by lookup value. If the file was replaced meanwhile, the account snapshot is stale and
        the event is built again."""
        key = (account_id, augment.number, augment.upload)
        with self._lock:
            cached = self._files.get(key)
        if cached is not None:
            return cached[1]
        with self._context.database.transaction() as connection:
            rows = dict(cxengage_resources.list_augment_rows(connection, account_id, augment.number))
        with self._lock:
            self._files[key] = (augment.bytes + 1_000, rows)
        return rows
