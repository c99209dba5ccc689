"""Keys of events: idempotency keys, and correlation keys (the fields other than distinct_id for which runs wait).

An idempotency key stands for its event for RETENTION; an older row counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.core.durations import RETENTION
from app.core.models import Event, Run
from app.db import event_queries
from app.db.connection import Database, delete_batch, fetch_all


@dataclass(frozen=True, slots=True)
class EarlierEvent:
    """The event that an idempotency key stands for, and the SHA-256 digest of the body that it came with."""

    id: UUID
    digest: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A new idempotency key and its event, with the SHA-256 digest of the body."""

    key: str
    digest: bytes
    event_id: UUID
    received_at: datetime


def claim_keys(connection: RawConnection, account_id: int, claims: Iterable[Claim]) -> dict[str, EarlierEvent | None]:
    """Insert different idempotency keys; returns those that stand for earlier events (None: that row has just been deleted).

    Keys are inserted in sorted order, so that two batches with the same keys do not deadlock.
    """
    ordered = sorted(claims, key=lambda claim: claim.key)
    inserted = fetch_all(
        connection,
        "INSERT INTO idempotency_keys AS known (account_id, key, digest, event_id, received_at) "
        "SELECT %s, key, digest, event_id, received_at "
        "FROM unnest(%s::text[], %s::bytea[], %s::uuid[], %s::timestamptz[]) WITH ORDINALITY "
        "AS claim (key, digest, event_id, received_at, number) ORDER BY number "
        "ON CONFLICT (account_id, key) DO UPDATE "
        "SET digest = excluded.digest, event_id = excluded.event_id, received_at = excluded.received_at "
        "WHERE known.received_at < excluded.received_at - %s RETURNING key",
        (
            account_id,
            [claim.key for claim in ordered],
            [claim.digest for claim in ordered],
            [str(claim.event_id) for claim in ordered],
            [claim.received_at for claim in ordered],
            RETENTION,
        ),
    )
    taken = sorted({claim.key for claim in ordered} - {key for (key,) in inserted})
    return {**dict.fromkeys(taken), **find_earlier_events(connection, account_id, taken)} if taken else {}


def find_earlier_events(connection: RawConnection, account_id: int, keys: Iterable[str]) -> dict[str, EarlierEvent]:
    """The events that idempotency keys stand for."""
    rows = fetch_all(
        connection,
        "SELECT key, event_id, digest, received_at FROM idempotency_keys WHERE account_id = %s AND key = ANY (%s)",
        (account_id, list(keys)),
    )
    # On a SQLAlchemy connection ids are UUIDs, elsewhere text.
    return {key: EarlierEvent(UUID(str(event_id)), bytes(digest), at) for key, event_id, digest, at in rows}


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
        "events.received_at, occurred_at FROM keyed_events AS known "
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
