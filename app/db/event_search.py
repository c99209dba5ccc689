"""Searches events by what no index has: their outcome, how they came, and a path in what was sent. Looks at a bounded number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql
from app.db.inspection import EVENT_FILTER, LISTED_EVENT_COLUMNS, EventFilter, StoredEvent, filter_values

# Events that one search looks at.
MAX_LOOKED_AT = 2_000
STARTED, CONTRIBUTED, NOT_STARTED, NO_WORKFLOW = "started", "contributed", "not-started", "no-workflow"
OUTCOMES = (STARTED, CONTRIBUTED, NOT_STARTED, NO_WORKFLOW)
_OUTCOMES = {
    STARTED: "decisions @? '$[*] ? (@.started == true)'",
    CONTRIBUTED: "decisions @? '$[*] ? (@.contributing == true && @.started == false)'",
    NOT_STARTED: "decisions IS NOT NULL AND NOT decisions @? '$[*] ? (@.started == true)'",
    NO_WORKFLOW: "decisions IS NULL",
}


@dataclass(frozen=True, slots=True)
class EventCondition:
    """What an event has to fulfil: its outcome (one of OUTCOMES), how it came (`via`; empty: by cvf-events), and one of some
    `values`, as JSON texts, at a `path` in its data. None: anything."""

    outcome: str | None = None
    via: str | None = None
    path: Sequence[str] | None = None
    values: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class FoundEvents:
    """Events that were found, newest first, and the last one that was looked at (None: no further ones exist)."""

    events: Sequence[StoredEvent]
    last: UUID | None


def search_events(
    connection: sa.Connection, account_id: int, wanted: EventFilter, condition: EventCondition, limit: int
) -> FoundEvents:
    """At most `limit` of the MAX_LOOKED_AT newest events that pass the filter: those that fulfil the condition."""
    values = {
        "account": account_id,
        **filter_values(wanted),
        "via": condition.via,
        "path": None if condition.path is None else list(condition.path),
        "values": list(condition.values),
        "limit": limit,
        "looked": MAX_LOOKED_AT,
    }
    newest = f"FROM events WHERE account_id = :account {EVENT_FILTER} ORDER BY id DESC"
    rows = run_sql(
        connection,
        f"SELECT {LISTED_EVENT_COLUMNS} FROM (SELECT * {newest} LIMIT :looked) AS events "
        f"WHERE {_OUTCOMES.get(condition.outcome or '', 'true')} "
        "AND (CAST(:via AS text) IS NULL OR coalesce(via, '') = :via) "
        "AND (CAST(:path AS text[]) IS NULL OR data #> CAST(:path AS text[]) = ANY (CAST(CAST(:values AS text[]) AS jsonb[]))) "
        "ORDER BY id DESC LIMIT :limit",
        values,
    )
    found = [StoredEvent(*row) for row in rows]
    if len(found) == limit:
        return FoundEvents(found, found[-1].id)
    last = run_sql(connection, f"SELECT id {newest} OFFSET :looked - 1 LIMIT 1", values).scalar()
    return FoundEvents(found, last)
