"""Shows all that is stored about a person, and erases it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.db import erasure as receipts
from app.db import inspection, match_state
from app.db.erasure import Erased, Receipt
from app.db.inspection import EventFilter, RunFilter, RunRow, StoredEvent
from app.services.context import AppContext
from app.services.subject_erasure import Erasure, Progress, hash_subject
from app.workflows.matching.describe import NOTHING_YET, describe
from app.workflows.validate import compile_stored


@dataclass(frozen=True, slots=True)
class ProgressDetails:
    """How far a subject has come in one workflow; `description` is for people. `is_live`: it has come some way."""

    workflow: str
    description: str
    deadline: datetime | None
    last_started_at: datetime | None
    is_live: bool


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
            progress=find_progress(connection, account_id, subject, now),
        )


def list_progress(context: AppContext, account_id: int, subject: str) -> list[ProgressDetails]:
    """How far a subject has come in each workflow, by name."""
    with context.database.transaction() as connection:
        return find_progress(connection, account_id, subject, context.clock())


def find_progress(connection: sa.Connection, account_id: int, subject: str, now: datetime) -> list[ProgressDetails]:
    """The same, in the caller's transaction."""
    found = []
    for row in match_state.find_progress_of_subject(connection, account_id, subject):
        text, state = _describe(row, now), row.state
        is_live = text not in (_DISABLED, NOTHING_YET)
        found.append(ProgressDetails(row.workflow, text, state.deadline, state.last_started_at, is_live))
    return found


_DISABLED = "the workflow is disabled"


def _describe(row: match_state.ProgressRow, now: datetime) -> str:
    if row.enabled_version is None:
        return _DISABLED
    if row.state.enablement != row.enablement:
        return NOTHING_YET
    return describe(compile_stored(row.workflow, row.document).pattern, dict(row.state.progress or {}), now)


def erase_subject(context: AppContext, account_id: int, subject: str) -> Erased:
    """Delete all that is stored about a subject, and write a receipt, as `subject_erasure` says. An erasure that was interrupted
    can be repeated. Raises SettingsError when ENCRYPTION_KEY does not fit, before anything is deleted."""
    erasure, progress = Erasure(context, account_id, subject), Progress()
    while not progress.is_finished:
        progress = erasure.advance(progress)
    return progress.erased


def list_receipts(
    context: AppContext, account_id: int, subject: str | None, *, before: UUID | None, limit: int
) -> Sequence[Receipt]:
    """At most `limit` receipts of erasures, newest first, those with ids before `before`: of a subject (None: of all)."""
    hashed = None if subject is None else hash_subject(context, account_id, subject)
    with context.database.transaction() as connection:
        return receipts.list_receipts(connection, account_id, hashed, before, limit)
