"""Enrichment: adds to an event's `data` what the account's augments know, before workflows see it.

Augments apply in the order of their numbers: each overrides the fields that were sent, and those of augments before it. A file
is looked up in memory (small files) or in Postgres. APIs of consecutive augments are called at the same time; each sees what
the augments before this group have added. All augments of an event share one budget of time and bytes. An augment that fails or
exceeds it is left out, and the event gets a warning instead.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from cachetools import TTLCache

from app.core.exact_json import ExactObject, object_text
from app.core.pacing import is_gevent_patched
from app.core.subjects import subject_text
from app.db.accounts import AugmentSnapshot
from app.ingest import enrichment_budget
from app.ingest.account_cache import Account
from app.ingest.enrichment_budget import MAX_ADDED_BYTES, MAX_NAMED, ApiBudget
from app.ingest.enrichment_files import AugmentFiles, cacheable_files
from app.services.context import AppContext

if TYPE_CHECKING:
    from app.ingest.enrichment_api import ApiClient, ApiQuery

# Events of one account that wait for APIs at the same time, in a process with greenlets and in one with a few threads.
_MAX_WAITING, _MAX_WAITING_THREADS = 16, 4
# Seconds between two log lines about one account.
_LOG_INTERVAL = 60.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Enrichment:
    """The fields that augments add to an event, warnings, and the augments that were left out."""

    added: ExactObject
    warnings: tuple[str, ...] = ()
    failed: tuple[AugmentSnapshot, ...] = ()

    def may_lack(self, name: str) -> bool:
        """Whether an augment that was left out may have added a field."""
        return any(_may_add(augment, name) for augment in self.failed)


NO_ENRICHMENT = Enrichment(ExactObject({}, {}))


class Enricher:
    """The augments of one process: a cache of small files, and the client that calls APIs."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._files = AugmentFiles(context)
        self._lock = threading.Lock()
        self._client: ApiClient | None = None
        self._waiting: Counter[int] = Counter()
        self._logged: TTLCache[int, bool] = TTLCache(1_000, _LOG_INTERVAL)

    def enrich(self, account: Account, sent: ExactObject, budget: ApiBudget) -> Enrichment:
        """What the account's augments add to a sent event. Raises Unavailable when a file cannot be read."""
        augments = account.snapshot.augments
        if not augments:
            return NO_ENRICHMENT
        cacheable, spent = cacheable_files(augments), 0.0
        merged = _Merged(dict(sent.value), dict(sent.raw))
        for is_api, group in groupby(augments, key=lambda augment: augment.url is not None):
            if is_api:
                self._call_apis(account, list(group), merged, budget)
                continue
            for augment in group:
                if spent >= enrichment_budget.FILE_SECONDS:
                    merged.fail(augment, "the files before it took too long")
                    continue
                began = time.monotonic()
                merged.add(augment, self._look_up(account.snapshot.id, augment, merged.value, cacheable))
                spent += time.monotonic() - began
        if merged.failures:
            self._log_failure(account.snapshot.id, merged.failures)
        return merged.result()

    def close(self) -> None:
        """Stop the client that calls APIs."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _look_up(
        self, account_id: int, augment: AugmentSnapshot, data: Mapping[str, Any], cacheable: set[int]
    ) -> ExactObject:
        """The fields in a file's row."""
        assert augment.columns is not None
        first, *names = augment.columns
        lookup = subject_text(data.get(first))
        cells = None if lookup is None else self._files.find_row(account_id, augment, lookup, cacheable)
        values: dict[str, Any] = dict(zip(names, cells or (), strict=False))
        return ExactObject(values, {name: json.dumps(cell, ensure_ascii=False) for name, cell in values.items()})

    def _call_apis(self, account: Account, group: list[AugmentSnapshot], merged: _Merged, budget: ApiBudget) -> None:
        # Loads the HTTP client only for accounts that use it.
        from app.ingest.enrichment_api import ApiClient, ApiError

        with self._lock:
            client = self._client = self._client or ApiClient(self._context.settings)
        with self._permit_to_wait(account.snapshot.id) as may_wait:
            if not may_wait:
                for augment in group:
                    merged.fail(augment, "too many events of the account wait for APIs")
                return
            queries = _queries(account, group, merged)
            answers = client.query([query for _, query in queries], budget)
        before = dict(merged.raw)
        for (augment, query), answer in zip(queries, answers, strict=True):
            if isinstance(answer, ApiError):
                merged.fail(augment, str(answer))
            else:
                merged.add(augment, answer if query.body is None else _without_repeated(answer, before))

    @contextmanager
    def _permit_to_wait(self, account_id: int) -> Iterator[bool]:
        """Whether another event of the account may wait for APIs during the block."""
        limit = _MAX_WAITING if is_gevent_patched() else _MAX_WAITING_THREADS
        with self._lock:
            may_wait = self._waiting[account_id] < limit
            self._waiting[account_id] += may_wait
        try:
            yield may_wait
        finally:
            with self._lock:
                self._waiting[account_id] -= may_wait
                if not self._waiting[account_id]:
                    del self._waiting[account_id]

    def _log_failure(self, account_id: int, failures: Sequence[tuple[AugmentSnapshot, str]]) -> None:
        """Log the first failure. The warnings of events have them all; the log says once a minute that there are some."""
        with self._lock:
            if account_id in self._logged:
                return
            self._logged[account_id] = True
        augment, reason = failures[0]
        _log.warning("augments were left out", account=account_id, augment=f"AU{augment.number}", reason=reason)


@dataclass(slots=True)
class _Merged:
    """An event's members while augments are applied, with their JSON texts; `added` are those of augments."""

    value: dict[str, Any]
    raw: dict[str, str]
    added: dict[str, str] = field(default_factory=dict)
    size: int = 0
    failures: list[tuple[AugmentSnapshot, str]] = field(default_factory=list)

    def add(self, augment: AugmentSnapshot, fields: ExactObject) -> None:
        """Add the fields of an augment, or none of them if the event would have too many bytes of them."""
        allowed = augment.attributes
        texts = {name: text for name, text in fields.raw.items() if allowed is None or name in allowed}
        replaced = {name: self.added[name] for name in texts if name in self.added}
        size = self.size + _size(texts) - _size(replaced)
        if size > MAX_ADDED_BYTES:
            self.fail(augment, f"with its fields augments would add more than {MAX_ADDED_BYTES} bytes")
            return
        self.size = size
        self.added.update(texts)
        self.raw.update(texts)
        self.value.update({name: fields.value[name] for name in texts})

    def fail(self, augment: AugmentSnapshot, reason: str) -> None:
        """Leave an augment out."""
        self.failures.append((augment, reason))

    def result(self) -> Enrichment:
        """What was added, and a warning for each augment that was left out; one for those after MAX_NAMED."""
        warnings = [
            f"AU{augment.number}: {reason}; the event was accepted without it"
            for augment, reason in self.failures[:MAX_NAMED]
        ]
        if more := len(self.failures) - MAX_NAMED:
            warnings += [f"{more} more augments failed; the event was accepted without them"] if more > 0 else []
        added = ExactObject({name: self.value[name] for name in self.added}, self.added)
        return Enrichment(added, tuple(warnings), tuple(augment for augment, _ in self.failures))


def _queries(account: Account, group: list[AugmentSnapshot], merged: _Merged) -> list[tuple[AugmentSnapshot, ApiQuery]]:
    """The queries of a group of APIs for an event. Without the key attribute, no GET is possible."""
    from app.ingest.enrichment_api import ApiQuery, event_body, lookup_query

    account_id, key = account.snapshot.id, account.snapshot.key_attribute
    subject = subject_text(merged.value.get(key))
    body = event_body(subject, object_text(merged.raw)) if any(each.method == "POST" for each in group) else None
    queries = []
    for augment in group:
        assert augment.url is not None
        if augment.method == "POST":
            queries.append((augment, ApiQuery(account_id, augment.url, body)))
        elif subject is not None:
            queries.append((augment, lookup_query(account_id, augment.url, key, subject)))
    return queries


def _without_repeated(answer: ExactObject, sent: Mapping[str, str]) -> ExactObject:
    """The fields of an answer that differ from what the API was sent: APIs may answer with the whole event."""
    raw = {
        name: text for name, text in answer.raw.items() if name not in sent or _compact(sent[name]) != _compact(text)
    }
    return ExactObject({name: answer.value[name] for name in raw}, raw)


def _compact(text: str) -> str:
    return msgspec.json.format(text, indent=-1)


def _may_add(augment: AugmentSnapshot, name: str) -> bool:
    is_known = augment.columns is None or name in augment.columns[1:]
    return is_known and (augment.attributes is None or name in augment.attributes)


def _size(texts: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(text.encode()) + 4 for name, text in texts.items())
