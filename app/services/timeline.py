"""The timeline of a person: events with what workflows decided, runs, and what these have sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.db import inspection, subject_rows
from app.db.inspection import EventFilter, RunFilter, RunRow, StoredEvent
from app.db.subject_rows import SentMessage, SubjectCounts
from app.services.context import AppContext

# Of the runs of one page.
_MAX_MESSAGES = 500


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """An event, or a run with what it has sent. `id` is theirs, a UUIDv7: the order of the timeline."""

    id: UUID
    at: datetime
    event: StoredEvent | None = None
    run: RunRow | None = None
    messages: Sequence[SentMessage] = ()


def find_timeline(
    context: AppContext, account_id: int, subject: str, before: UUID | None, limit: int
) -> list[TimelineEntry]:
    """At most `limit` entries of a subject, newest first: those with ids below `before`."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        wanted = EventFilter(subject=subject, before=before)
        events = inspection.find_latest_events(connection, account_id, wanted, limit, with_data=False)
        runs = inspection.find_latest_runs(connection, account_id, RunFilter(subject=subject, before=before), limit)
        entries = [TimelineEntry(event.id, event.received_at, event=event) for event in events]
        sent: dict[UUID, list[SentMessage]] = {}
        for message in subject_rows.find_messages_of_runs(
            connection, account_id, [run.id for run in runs], _MAX_MESSAGES
        ):
            sent.setdefault(message.run_id, []).append(message)
    entries += [TimelineEntry(run.id, run.created_at, run=run, messages=sent.get(run.id, ())) for run in runs]
    return sorted(entries, key=lambda entry: entry.id, reverse=True)[:limit]


def count_subject(context: AppContext, account_id: int, subject: str) -> SubjectCounts:
    """How much is stored about a subject under its own id, counted up to a bound."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return subject_rows.count_subject(connection, account_id, subject)
