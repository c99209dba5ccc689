"""Use cases for data subjects: show all that is stored about a person, and erase it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from app.core.subjects import subject_hash
from app.db import erasure, inspection, match_state
from app.db.audit import Change
from app.db.erasure import Erased
from app.db.inspection import EventFilter, RunFilter, RunRow, StoredEvent
from app.services import audit
from app.services.context import AppContext
from app.services.refusals import erase_refusals
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


def erase_subject(context: AppContext, account_id: int, subject: str) -> Erased:
    """Delete all that is stored about a subject: events, idempotency keys, runs with their steps and attempts, targets that
    these runs disabled, progress with its deadlines, also under workflow keys other than distinct_id, and refused requests that
    name it or a phone number of its events.

    Runs of other subjects that used one of the events stay, without it. Metrics and what was sent stay.
    """
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        phones = erasure.find_phones(connection, account_id, subject)
    # First: interrupted, the phone numbers would be lost with the events.
    refusals = erase_refusals(context, account_id, subject, phones)
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        erased = replace(erasure.erase_subject(connection, account_id, subject), refusals=refusals)
        change = Change("subject.erase", account_id, subject_hash(account_id, subject), None, asdict(erased))
        audit.record(connection, context, change)
    return erased
