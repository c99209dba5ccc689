"""Correlation keys: events by the fields other than distinct_id for which runs wait, and the runs' subjects under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from app.core.durations import RETENTION
from app.core.models import Event, Run
from app.db import event_queries
from app.db.connection import Database, delete_batch


def find_correlation_keys(database: Database, account_id: int) -> list[str]:
    """The `key` fields of all workflow versions of an account that wait for events."""
    rows = database.fetch_all(
        "SELECT DISTINCT document ->> 'key' FROM workflow_versions "
        "WHERE account_id = %s AND awaits <> '{}' AND document ? 'key'",
        (account_id,),
    )
    return [row[0] for row in rows]


def save_event_keys(database: Database, event: Event, subjects: Mapping[str, str]) -> None:
    """Save the event's value (subject) under each key; a repeated call changes nothing."""
    statement = (
        "INSERT INTO keyed_events (account_id, key, subject, event_id, received_at) "
        "SELECT %s, key, subject, %s, %s FROM unnest(%s, %s) AS known (key, subject) ON CONFLICT DO NOTHING"
    )
    values = (event.account_id, str(event.id), event.received_at, list(subjects), list(subjects.values()))
    database.execute(statement, values)


def save_run_subject(database: Database, run: Run, subject: str) -> None:
    """Save the subject under the workflow's key whose events a run waits for."""
    statement = "UPDATE runs SET subject = %s WHERE account_id = %s AND id = %s"
    database.execute(statement, (subject, run.account_id, str(run.id)))


def find_events_by_key(
    database: Database, account_id: int, key: str, subject: str, since: Event, names: Sequence[str]
) -> list[Event]:
    """The events after `since` with this subject under a key, oldest first; only these names (`*`: any).

    At most `event_queries.PAGE`; call again with the last one for more.
    """
    query = (
        f"SELECT events.id, events.account_id, event, distinct_id, phone, {event_queries.SEEN_DATA}::text, "
        "events.received_at FROM keyed_events AS known "
        "JOIN events ON events.account_id = known.account_id AND events.id = event_id "
        "AND events.received_at = known.received_at WHERE known.account_id = %s AND key = %s AND subject = %s "
        "AND event_id > %s AND (event = ANY (%s) OR '*' = ANY (%s)) ORDER BY event_id LIMIT %s"
    )
    values = (account_id, key, subject, str(since.id), list(names), list(names), event_queries.PAGE)
    return [event_queries.event_of(row) for row in database.fetch_all(query, values)]


def delete_old_keys(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of event keys that are older than RETENTION and that no run waits for; how many."""
    condition = (
        "received_at < :before AND NOT EXISTS (SELECT FROM runs WHERE runs.account_id = keyed_events.account_id "
        "AND runs.subject = keyed_events.subject AND runs.status = 'running')"
    )
    return delete_batch(connection, "keyed_events", condition, {"before": now - RETENTION})
