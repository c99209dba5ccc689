"""Erasures that workers do: a request adds a job, workers do it in slices, and any worker continues where the last one stopped.

How far an erasure has come is a part of its job. Each step changes it in its own transaction: nothing is lost or counted twice.
"""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa

from app.core.errors import Problem, ProblemType
from app.core.ids import timestamp_of, uuid7
from app.core.models import Actor
from app.db import accounts, erasure_jobs
from app.db.audit import Change
from app.services import audit
from app.services.context import AppContext
from app.services.subject_erasure import Erasure, Progress, hash_subject

# Erasures of an account that have not ended. Workers do one at a time: more of them would delay those of other accounts.
MAX_UNFINISHED = 20


@dataclass(frozen=True, slots=True)
class _Work:
    subject: str
    actor: Actor
    progress: Progress

    def write(self) -> str:
        return urlsafe_b64encode(msgspec.json.encode(asdict(self))).decode()


def _read(text: str) -> _Work:
    return msgspec.json.decode(urlsafe_b64decode(text), type=_Work)


@dataclass(frozen=True, slots=True)
class UnfinishedErasure:
    """An erasure that has not ended: since when, who called for it, whether a worker does it now, and what is done."""

    requested_at: datetime
    actor: str
    is_running: bool
    counts: Mapping[str, int]


class TakenOver(Exception):
    """Another worker continues the erasure."""


def request_erasure(context: AppContext, account_id: int, subject: str) -> bool:
    """Have a worker erase a subject; False if that was requested before and has not ended. Raises Problem 409 when too many of
    the account have not ended, and SettingsError when ENCRYPTION_KEY does not fit."""
    hashed = hash_subject(context, account_id, subject).hex()
    erasure_id, text = uuid7(context.clock()), _Work(subject, context.actor, Progress()).write()
    with context.database.transaction() as connection:
        accounts.lock_account(connection, account_id)
        is_new = erasure_jobs.enqueue_erasure(connection, account_id, erasure_id, text, hashed)
        if is_new:
            if len(erasure_jobs.list_erasures(connection, account_id, MAX_UNFINISHED + 1)) > MAX_UNFINISHED:
                raise Problem(
                    ProblemType.CONFLICT,
                    f"{MAX_UNFINISHED} erasures of the account have not ended. Request this one when one of them has ended.",
                )
            audit.record(connection, context, Change("subject.request_erasure", account_id, hashed, None, None))
    return is_new


def list_unfinished(context: AppContext, account_id: int) -> list[UnfinishedErasure]:
    """The erasures of an account that have not ended, oldest first. None says whom."""
    with context.database.transaction() as connection:
        jobs = erasure_jobs.list_erasures(connection, account_id, MAX_UNFINISHED)
    found = []
    for job in jobs:
        work = _read(job.text)
        counts = {table: count for table, count in work.progress.counts.items() if count}
        found.append(UnfinishedErasure(timestamp_of(job.id), work.actor.name, job.is_claimed, counts))
    return found


def continue_erasure(context: AppContext, account_id: int, erasure_id: UUID, text: str, seconds: float) -> bool:
    """Erase for so many seconds, at least one step; whether the erasure has ended. Raises TakenOver."""
    work, until = _read(text), time.monotonic() + seconds
    progress = work.progress
    if progress.is_finished:
        # The worker stopped before it deleted the job.
        return True
    erasure, before = Erasure(context.acting_as(work.actor), account_id, work.subject), text

    def save(connection: sa.Connection, reached: Progress) -> None:
        nonlocal before
        after = _Work(work.subject, work.actor, reached).write()
        if not erasure_jobs.save_text(connection, account_id, erasure_id, before, after):
            raise TakenOver
        before = after

    while not progress.is_finished:
        progress = erasure.advance(progress, save)
        if time.monotonic() > until:
            break
    return progress.is_finished
