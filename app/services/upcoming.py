"""The runs that will continue and the workflows that will start: the list, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.core.ids import utc_text
from app.db import inspection, upcoming
from app.db.upcoming import Cursor, Upcoming
from app.services.context import AppContext


def find_upcoming(
    context: AppContext, account_id: int, period: tuple[datetime, datetime], after: Cursor | None, limit: int
) -> Sequence[Upcoming]:
    """The runs that will continue and the workflows that will start in a period, earliest first."""
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        return upcoming.find_upcoming(connection, account_id, period, after, limit)


def write_cursor(row: Upcoming) -> str:
    """Where a page ends, as `read_cursor` reads it."""
    return ",".join((utc_text(row.at), *row.cursor[1:]))


def read_cursor(text: str) -> Cursor:
    """The time, workflow, run and subject of a cursor. Raises ValueError."""
    at, workflow, run, subject = text.split(",", 3)
    since = datetime.fromisoformat(at)
    if since.tzinfo is None:
        raise ValueError("a time without an offset")
    return since, workflow, run, subject
