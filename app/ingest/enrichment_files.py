"""Looks up rows of augments' files: small files are kept in memory, larger ones are queried row by row."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

from cachetools import LRUCache

from app.db import cxengage_resources
from app.db.accounts import AugmentSnapshot
from app.services.context import AppContext

# Bytes up to which a file is cached in memory, of the cached files of one account, and of the cache.
SMALL_FILE = 256 * 1024
_MAX_PER_ACCOUNT = 4 * 1024 * 1024
_MAX_CACHED = 16 * 1024 * 1024

Rows = Mapping[str, Sequence[str]]


class AugmentFiles:
    """The files of one process: a cache of small files of all accounts."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._files: LRUCache[tuple[int, int, int], tuple[int, Rows]] = LRUCache(
            _MAX_CACHED, getsizeof=lambda file: file[0]
        )
        self._lock = threading.Lock()

    def find_row(
        self, account_id: int, augment: AugmentSnapshot, lookup: str, cacheable: Collection[int]
    ) -> Sequence[str] | None:
        """The cells of a row, or None. `cacheable`: the numbers of the account's files that may be cached. Raises
        Unavailable."""
        if augment.number in cacheable:
            return self._load(account_id, augment).get(lookup)
        with self._context.database.transaction() as connection:
            return cxengage_resources.find_augment_row(connection, account_id, augment.number, lookup)

    def _load(self, account_id: int, augment: AugmentSnapshot) -> Rows:
        """The rows of a small file by lookup value. If the file has been replaced, the account snapshot is stale and
        the event is built again."""
        key = (account_id, augment.number, augment.upload)
        with self._lock:
            cached = self._files.get(key)
        if cached is not None:
            return cached[1]
        with self._context.database.transaction() as connection:
            rows = dict(cxengage_resources.iterate_augment_rows(connection, account_id, augment.number))
        with self._lock:
            self._files[key] = (augment.bytes + 1_000, rows)
        return rows


def cacheable_files(augments: Sequence[AugmentSnapshot]) -> set[int]:
    """The numbers of the small files of an account, up to its share of the cache."""
    total, numbers = 0, set()
    for augment in augments:
        if augment.columns is not None and augment.bytes <= SMALL_FILE and total + augment.bytes <= _MAX_PER_ACCOUNT:
            total += augment.bytes
            numbers.add(augment.number)
    return numbers
