"""Erases a data subject in steps, so that an erasure of minutes can be interrupted and continued.

Each step is one transaction that goes through a bounded number of rows, and says how far it has come.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.db import accounts, audit, erasure, erasure_texts, inspection
from app.db.audit import Change
from app.db.erasure import Erased
from app.services import audit as audit_log
from app.services.context import AppContext
from app.services.deliveries_erasure import erase_deliveries_page
from app.services.refusals_erasure import Mentions, erase_refusals_page

# Phone numbers of a subject that are looked for in other rows.
_MAX_PHONES = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an erasure has come: the number of its stage, after which row the stage goes on (None: from the beginning), and how
    many rows were deleted or masked, by table."""

    stage: int = 0
    after: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether everything is erased and the receipt is written."""
        return self.stage >= len(_STAGES)

    @property
    def erased(self) -> Erased:
        """What was erased, as the receipt has it."""
        named = ("events", "runs", "progress", "refusals")
        more = {table: count for table, count in sorted(self.counts.items()) if table not in named and count}
        events, runs, progress, refusals = (self.counts.get(name, 0) for name in named)
        return Erased(events, runs, progress, refusals, more)


class Erasure:
    """The erasure of one subject. Raises SettingsError when ENCRYPTION_KEY does not fit, before anything is deleted.

    Deleted are its events, idempotency keys, runs with their steps, attempts and messages, targets that these runs disabled,
    progress with its deadlines, also under workflow keys other than distinct_id, refused requests and deliveries of sources. The
    subject's id and phone numbers are masked in what remains of others: runs, steps, attempts, messages and the audit log. Events
    of others, metrics and what was sent stay.
    """

    def __init__(self, context: AppContext, account_id: int, subject: str) -> None:
        self.context, self.account_id, self.subject = context, account_id, subject
        self.hashed = hash_subject(context, account_id, subject)
        with context.database.transaction() as connection:
            inspection.allow_slow_statements(connection)
            # Of its events, which are erased last.
            self.phones = erasure.find_phones(connection, account_id, subject, _MAX_PHONES)
        self.search = erasure_texts.make_search(subject, self.phones)

    def advance(
        self, progress: Progress, save: Callable[[sa.Connection, Progress], None] = lambda connection, progress: None
    ) -> Progress:
        """Do the next step; `save` is called in its transaction. After the last one the receipt is written."""
        with self.context.database.transaction() as connection:
            inspection.allow_slow_statements(connection)
            step = _STAGES[progress.stage](self, connection, progress.after)
            counts = Counter(progress.counts)
            counts.update(step.counts)
            reached = Progress(progress.stage + (step.after is None), step.after, dict(counts))
            if reached.is_finished:
                self._write_receipt(connection, reached.erased)
            save(connection, reached)
        return reached

    def _write_receipt(self, connection: sa.Connection, erased: Erased) -> None:
        counts = {
            "events": erased.events,
            "runs": erased.runs,
            "progress": erased.progress,
            "refusals": erased.refusals,
        }
        counts |= erased.more
        actor, now = self.context.actor.name, self.context.clock()
        erasure.insert_receipt(connection, self.account_id, self.hashed, json.dumps(counts), actor, now)
        change = Change("subject.erase", self.account_id, self.hashed.hex(), None, counts)
        audit_log.record(connection, self.context, change)

    def mentions(self, *names: str) -> Mentions:
        """Finds the subject in what was posted; `names`: of the fields that have it."""
        return Mentions(self.subject, self.phones, names)


class _Step(NamedTuple):
    """What a step has deleted or masked, by table; after which row its stage goes on (None: the stage has ended)."""

    counts: Mapping[str, int]
    after: str | None


_Stage = Callable[[Erasure, sa.Connection, str | None], _Step]


def _mask_audit_log(work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    texts = (work.subject, *work.phones)
    return _Step({"audit_log": sum(audit.erase_subject(connection, work.account_id, one) for one in texts)}, None)


def _erase_deliveries(work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    values = (connection, work.context, work.account_id, work.subject, work.mentions("distinct_id"))
    page = erase_deliveries_page(*values, None if after is None else UUID(after))
    return _Step({"deliveries": page.changed}, page.last and str(page.last))


def _erase_refusals(work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    (account,) = accounts.list_accounts(connection, after=work.account_id - 1, limit=1)
    mentions = work.mentions("distinct_id", account.key_attribute)
    last = None if after is None else UUID(after)
    page = erase_refusals_page(connection, work.context, work.account_id, mentions, last)
    return _Step({"refusals": page.changed}, page.last and str(page.last))


def _erase_runs(work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    rows, runs = erasure.erase_runs(connection, work.account_id, work.subject)
    return _Step({"runs": runs}, "more" if rows else None)


def _erase_targets(work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    return _Step({"targets": erasure_texts.delete_targets(connection, work.account_id, work.search)}, None)


def _mask_others(table: str, work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    first = UUID(int=0) if after is None else UUID(after)
    page = erasure_texts.mask_page(connection, table, work.account_id, work.search, first)
    return _Step({table: page.changed}, page.last and str(page.last))


def _erase_keys(work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    page = erasure_texts.delete_keys(connection, work.account_id, work.search, after or "")
    return _Step({"idempotency_keys": page.changed}, page.last)


def _erase_events(work: Erasure, connection: sa.Connection, after: str | None) -> _Step:
    deleted = erasure.erase_events(connection, work.account_id, work.subject)
    return _Step(deleted, "more" if deleted["events"] else None)


# What is found by the phone numbers of the events comes before the events; then runs that these have started meanwhile.
_STAGES: tuple[_Stage, ...] = (
    _mask_audit_log,
    _erase_deliveries,
    _erase_refusals,
    _erase_runs,
    _erase_targets,
    *(partial(_mask_others, table) for table in erasure_texts.TABLES),
    _erase_keys,
    _erase_events,
    _erase_runs,
)


def hash_subject(context: AppContext, account_id: int, subject: str) -> bytes:
    """What a receipt has in place of a subject's id. The key is derived from the account's signing secret: without
    ENCRYPTION_KEY, a phone number cannot be found by trying all. Raises Problem 404, SettingsError."""
    with context.database.transaction() as connection:
        stored = accounts.find_signing_secret(connection, account_id)
    if stored is None:
        raise Problem(ProblemType.NOT_FOUND, "there is no such account")
    key = hmac.digest(context.secrets.decrypt(stored).encode(), b"signalbox erasure receipts", "sha256")
    return hmac.digest(key, subject.encode("utf-8", "replace"), "sha256")
