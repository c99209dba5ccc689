"""Reads events back from Postgres."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg2.extensions import connection as RawConnection

from app.core.exact_json import LARGE, read_fraction
from app.core.ids import first_id_at, timestamp_of
from app.core.models import Event
from app.core.pacing import in_pieces, pause_if_due
from app.db.connection import driver_connection, fetch_all, run_sql


@dataclass(frozen=True, slots=True)
class Received:
    """An event that came by the CxEngage routes, as its sender may see it; `data_json` is exact JSON text."""

    id: UUID
    distinct_id: str
    data_json: str
    contributing: bool


def find_latest_received(connection: sa.Connection, account_id: int, limit: int) -> list[Received]:
    """The latest events that did not come by `POST /api/v1/cvf-events`, newest first."""
    rows = run_sql(
        connection,
        "SELECT id, distinct_id, data::text, jsonb_path_exists(coalesce(decisions, '[]'), :contributed) FROM events "
        "WHERE account_id = :account AND via IS NOT NULL ORDER BY id DESC LIMIT :limit",
        {"account": account_id, "limit": limit, "contributed": "$[*] ? (@.started == true || @.contributing == true)"},
    )
    return [Received(UUID(str(row[0])), *row[1:]) for row in rows]


# Rows per query.
PAGE = 1_000

# What workflows see: the fields that augments added replace those that were sent.
SEEN_DATA = "coalesce(data || augmented, data)"


def subject_at(path: str) -> str:
    """SQL for the subject at a path (SQL for a text array) of an event's data: the rule of `app/core/subjects.py`."""
    value = f"({SEEN_DATA} #> {path})"
    number = f"trim_scale({value}::numeric)::text"
    return f"CASE jsonb_typeof{value} WHEN 'string' THEN {SEEN_DATA} #>> {path} WHEN 'number' THEN {number} END"


_EVENT = f"id, account_id, event, distinct_id, phone, {SEEN_DATA}::text, received_at, occurred_at"


def find_event(connection: RawConnection, account_id: int, event_id: UUID) -> Event | None:
    """An event by its id, which determines the partition."""
    try:
        received_at = timestamp_of(event_id)
    except OverflowError:
        # Signalbox has not made this id.
        return None
    rows = fetch_all(
        connection,
        f"SELECT {_EVENT} FROM events WHERE account_id = %s AND id = %s AND received_at = %s",
        (account_id, str(event_id), received_at),
    )
    return event_of(rows[0]) if rows else None


def find_events(connection: RawConnection, account_id: int, event_ids: Sequence[str]) -> tuple[Event, ...]:
    """Events by their ids, in the order of acceptance."""
    timestamps = [timestamp_of(UUID(event_id)) for event_id in event_ids]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_EVENT} FROM events WHERE account_id = %s AND id = ANY (%s::uuid[]) "
            "AND received_at BETWEEN %s AND %s ORDER BY id",
            (account_id, list(event_ids), min(timestamps), max(timestamps)),
        )
        return tuple(event_of(row) for row in cursor)


def find_events_of_subject_since(connection: RawConnection, since: Event, names: Sequence[str]) -> list[Event]:
    """The subject's events after `since` with these names (`*`: any), oldest first. At most PAGE: continue after the last
    one."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_EVENT} FROM events WHERE account_id = %s AND distinct_id = %s AND id > %s "
            "AND received_at >= %s AND (event = ANY (%s) OR '*' = ANY (%s)) ORDER BY id LIMIT %s",
            (since.account_id, since.distinct_id, str(since.id), since.received_at, list(names), list(names), PAGE),
        )
        return [event_of(row) for row in cursor]


def find_events_of_subject_near(
    connection: sa.Connection, event: Event, names: Sequence[str], *, are_later: bool, limit: int, max_bytes: int
) -> list[Event]:
    """The nearest events before an event, or after it, with its distinct_id and these names (`*`: any), oldest first. At most
    `limit`, with `max_bytes` of data together."""
    compared, order = (">", "ASC") if are_later else ("<", "DESC")
    nearest = (
        f"SELECT {_EVENT.replace('::text', '::text AS data')} FROM events "
        f"WHERE account_id = :account AND distinct_id = :subject AND id {compared} :id AND received_at {compared}= :at "
        f"AND (event = ANY (:names) OR '*' = ANY (:names)) ORDER BY id {order} LIMIT :limit"
    )
    sized = f"SELECT *, sum(octet_length(data)) OVER (ORDER BY id {order}) AS bytes FROM ({nearest}) AS nearest"
    rows = run_sql(
        connection,
        "SELECT id::text, account_id, event, distinct_id, phone, data, received_at, occurred_at "
        f"FROM ({sized}) AS sized WHERE bytes <= :max_bytes ORDER BY id",
        {
            "account": event.account_id,
            "subject": event.distinct_id,
            "id": event.id,
            "at": event.received_at,
            "names": list(names),
            "limit": limit,
            "max_bytes": max_bytes,
        },
    )
    found = []
    for row in rows:
        pause_if_due()
        found.append(event_of(row))
    return found


def read_by_subject(
    connection: sa.Connection,
    account_id: int,
    key: str,
    names: Sequence[str] | None,
    since: datetime,
    after: str | None,
    *,
    with_key_only: bool = True,
) -> Generator[tuple[Any, ...]]:
    """Stored events since a timestamp, ordered by subject and then by acceptance; `names` None: any.

    Rows are (subject, id, event, distinct_id, phone, data, received_at, occurred_at), read in chunks through a server-side
    cursor (`since` selects partitions, and the id a range of an index). `key` is a column or a path into data such as
    data.order_id; events without it have the subject "", or are left out (`with_key_only`). Only subjects after `after`.
    """
    root, *path = key.split(".")
    subject = f"({subject_at('%(path)s::text[]')})" if root == "data" else root
    if root not in ("distinct_id", "phone", "data"):
        raise ValueError(f"{key} is no key")
    if not with_key_only and root != "distinct_id":
        subject = f"coalesce({subject}, '')"
    with driver_connection(connection).cursor(name="read_by_subject") as cursor:
        # An event may be half a MiB.
        cursor.itersize = 200
        cursor.execute(
            f"SELECT {subject}, id::text, event, distinct_id, phone, {SEEN_DATA}::text, received_at, occurred_at "
            "FROM events WHERE account_id = %(account)s AND received_at >= %(since)s AND id >= %(first)s "
            "AND (%(names)s::text[] IS NULL OR event = ANY (%(names)s)) "
            f"AND {subject} IS NOT NULL AND (%(after)s::text IS NULL OR {subject} > %(after)s) ORDER BY {subject}, id",
            {
                "account": account_id,
                "since": since,
                "first": str(first_id_at(since)),
                "names": None if names is None else list(names),
                "after": after,
                "path": path,
            },
        )
        yield from cursor


def event_of(row: Sequence[Any]) -> Event:
    """A stored event as workflows see it; fractions in its `data` are decimals with all their digits."""
    event_id, account_id, name, distinct_id, phone, data_json, received_at, occurred_at = row
    return Event(
        id=UUID(event_id),
        account_id=account_id,
        event=name,
        distinct_id=distinct_id,
        phone=phone,
        data=read_exactly(data_json),
        data_json=data_json,
        extra_json=None,
        received_at=received_at,
        occurred_at=occurred_at,
    )


def read_exactly(text: str) -> Any:
    """JSON text as values with every digit: fractions, and integers too long for Python's own reader, as decimals."""
    fraction, whole = (Decimal, _read_whole) if len(text) < LARGE else (in_pieces(Decimal), in_pieces(_read_whole))
    return json.loads(text, parse_float=fraction, parse_int=whole)


def read_lightly(text: str) -> Any:
    """The same for matching, where numbers are doubles if these have the same digits."""
    try:
        return json.loads(text, parse_float=read_fraction)
    except ValueError:
        return read_exactly(text)


def _read_whole(text: str) -> int | Decimal:
    return int(text) if len(text) < 4_000 else Decimal(text)
