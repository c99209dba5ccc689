"""Use cases for data subjects: show all that is stored about a person, and erase it."""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.db import accounts, audit, erasure, erasure_texts, inspection, match_state
from app.db.audit import Change
from app.db.erasure import Erased, Receipt
from app.db.erasure_texts import Page, Search
from app.db.inspection import EventFilter, RunFilter, RunRow, StoredEvent
from app.services import audit as audit_log
from app.services.context import AppContext
from app.services.refusals_erasure import erase_refusals
from app.workflows.matching.describe import describe
from app.workflows.validate import compile_stored


@dataclass(frozen=True, slots=True)
class ProgressDetails:
    """How far a subject has come in one workflow; `description` is for people."""

    workflow: str
    description: str
    deadline: datetime | None
    last_started_at: datetime | None


@dataclass(frozen=True, slots=True)
class SubjectDetails:
    """A subject's latest events and runs, newest first, and its progress in every workflow."""

    events: Sequence[StoredEvent]
    runs: Sequence[RunRow]
    progress: Sequence[ProgressDetails]


def find_subject_details(context: AppContext, account_id: int, subject: str, limit: int) -> SubjectDetails:
    """All details of a subject; at most `limit` events and runs."""
    now = context.clock()
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return SubjectDetails(
            events=inspection.find_latest_events(connection, account_id, EventFilter(subject=subject), limit),
            runs=inspection.find_latest_runs(connection, account_id, RunFilter(subject=subject), limit),
            progress=[
                ProgressDetails(row.workflow, _describe(row, now), row.state.deadline, row.state.last_started_at)
                for row in match_state.find_progress_of_subject(connection, account_id, subject)
            ],
        )


def _describe(row: match_state.ProgressRow, now: datetime) -> str:
    if row.enabled_version is None:
        return "the workflow is disabled"
    if row.state.enablement != row.enablement:
        return "nothing yet"
    return describe(compile_stored(row.workflow, row.document).pattern, dict(row.state.progress or {}), now)


# Phone numbers of a subject that are looked for in other rows.
_MAX_PHONES = 100


def erase_subject(context: AppContext, account_id: int, subject: str) -> Erased:
    """Delete all that is stored about a subject, and write a receipt.

    Deleted are its events, idempotency keys, runs with their steps, attempts and messages, targets that these runs disabled,
    progress with its deadlines, also under workflow keys other than distinct_id, and refused requests. In what remains of
    others, runs, steps, attempts, messages and the audit log, the subject's id and phone numbers are masked. Events of others,
    metrics and what was sent stay.

    Many transactions of bounded size, the events last: an erasure that was interrupted can be repeated. Raises SettingsError
    when ENCRYPTION_KEY does not fit, before anything is deleted.
    """
    hashed = hash_subject(context, account_id, subject)
    with _transaction(context) as connection:
        phones = erasure.find_phones(connection, account_id, subject, _MAX_PHONES)
        masked = {"audit_log": sum(audit.erase_subject(connection, account_id, one) for one in (subject, *phones))}
    counts = Counter[str](masked)
    # Before the events: interrupted, the phone numbers would be lost with them.
    refusals = erase_refusals(context, account_id, subject, phones)
    runs = _erase_own_runs(context, account_id, subject)
    _erase_from_others(context, account_id, erasure_texts.make_search(subject, phones), counts)
    while True:
        with _transaction(context) as connection:
            deleted = erasure.erase_events(connection, account_id, subject)
        counts += deleted
        if not deleted["events"]:
            break
    # Runs that events have started meanwhile.
    runs += _erase_own_runs(context, account_id, subject)
    more = {table: count for table, count in sorted(counts.items()) if table not in ("events", "progress")}
    erased = Erased(counts["events"], runs, counts["progress"], refusals, more)
    _write_receipt(context, account_id, hashed, erased)
    return erased


def _write_receipt(context: AppContext, account_id: int, hashed: bytes, erased: Erased) -> None:
    counts = asdict(erased)
    counts |= counts.pop("more")
    with context.database.transaction() as connection:
        erasure.insert_receipt(connection, account_id, hashed, json.dumps(counts), context.actor.name, context.clock())
        audit_log.record(connection, context, Change("subject.erase", account_id, hashed.hex(), None, counts))


@contextmanager
def _transaction(context: AppContext) -> Iterator[sa.Connection]:
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        yield connection


def _erase_own_runs(context: AppContext, account_id: int, subject: str) -> int:
    erased = 0
    while True:
        with _transaction(context) as connection:
            rows, runs = erasure.erase_runs(connection, account_id, subject)
        erased += runs
        if not rows:
            return erased


def _erase_from_others(context: AppContext, account_id: int, search: Search, counts: Counter[str]) -> None:
    """Remove a subject from all other rows of the account, page by page."""
    with _transaction(context) as connection:
        counts["targets"] += erasure_texts.delete_targets(connection, account_id, search)
    first = UUID(int=0)
    for table in erasure_texts.TABLES:
        counts[table] += _each_page(
            context, first, partial(erasure_texts.mask_page, search=search, table=table), account_id
        )
    counts["idempotency_keys"] += _each_page(context, "", partial(erasure_texts.delete_keys, search=search), account_id)


def _each_page(context: AppContext, first: Any, change: Callable[..., Page], account_id: int) -> int:
    """Change all pages after `first`, each in a transaction; how many rows changed."""
    changed, after = 0, first
    while after is not None:
        with _transaction(context) as connection:
            page = change(connection, account_id=account_id, after=after)
        changed, after = changed + page.changed, page.last
    return changed


def hash_subject(context: AppContext, account_id: int, subject: str) -> bytes:
    """What a receipt has in place of a subject's id. The key is made of the account's signing secret: without it, and without
    ENCRYPTION_KEY, nobody finds a phone number by trying all. Raises Problem 404, SettingsError."""
    with context.database.transaction() as connection:
        stored = accounts.find_signing_secret(connection, account_id)
    if stored is None:
        raise Problem(ProblemType.NOT_FOUND, "there is no such account")
    key = hmac.digest(context.secrets.decrypt(stored).encode(), b"signalbox erasure receipts", "sha256")
    return hmac.digest(key, subject.encode("utf-8", "replace"), "sha256")


def list_receipts(
    context: AppContext, account_id: int, subject: str | None, *, before: UUID | None, limit: int
) -> Sequence[Receipt]:
    """At most `limit` receipts of erasures, newest first, those with ids before `before`: of a subject (None: of all)."""
    hashed = None if subject is None else hash_subject(context, account_id, subject)
    with context.database.transaction() as connection:
        return erasure.list_receipts(connection, account_id, hashed, before, limit)
