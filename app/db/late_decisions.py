"""Decisions of an event that a worker makes later: the only part of an event's row that is ever updated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg2.extensions import connection as RawConnection

from app.core.ids import timestamp_of
from app.core.models import Decision
from app.db.connection import Database, execute, fetch_all
from app.db.event_writes import decisions_json

# The reason of a decision that a worker replaces.
LATE = "not_evaluated: time (a worker evaluates it)"
_LATE = json.dumps([{"reason": LATE}])
_EVENT = "account_id = %s AND id = %s AND received_at = %s"


def has_late_decisions(database: Database, account_id: int, event_id: UUID) -> bool:
    """Whether an event has late decisions. Raises Unavailable."""
    query = f"SELECT FROM events WHERE {_EVENT} AND decisions @> %s::jsonb"
    return bool(database.fetch_all(query, (*_values(account_id, event_id), _LATE)))


def lock_decisions(connection: RawConnection, account_id: int, event_id: UUID) -> list[Mapping[str, Any]]:
    """The decisions of an event; its row is locked until the transaction ends."""
    query = f"SELECT decisions FROM events WHERE {_EVENT} FOR UPDATE"
    rows = fetch_all(connection, query, _values(account_id, event_id))
    return list(rows[0][0] or ()) if rows else []


def replace_late(
    connection: RawConnection,
    account_id: int,
    event_id: UUID,
    stored: Sequence[Mapping[str, Any]],
    made: Sequence[Decision],
) -> None:
    """Write the decisions that were made in place of the late ones among the `stored`."""
    by_workflow = {row["workflow"]: row for row in json.loads(decisions_json(made) or "[]")}
    rows = [by_workflow.get(row["workflow"], row) if row["reason"] == LATE else row for row in stored]
    execute(
        connection,
        f"UPDATE events SET decisions = %s WHERE {_EVENT}",
        (json.dumps(rows), *_values(account_id, event_id)),
    )


def _values(account_id: int, event_id: UUID) -> tuple[Any, ...]:
    return account_id, str(event_id), timestamp_of(event_id)
