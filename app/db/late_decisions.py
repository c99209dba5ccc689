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
# In place of the decisions of all workflows that look at an event.
ALL_LATE = Decision(None, "all workflows", None, started=False, contributing=False, reason=LATE)
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


def find_late(stored: Sequence[Mapping[str, Any]]) -> set[str]:
    """The workflows whose decisions are late. That of ALL_LATE stands for all."""
    return {name for row in stored if row["reason"] == LATE for name in row.get("workflows") or (row["workflow"],)}


def replace_late(
    connection: RawConnection,
    account_id: int,
    event_id: UUID,
    stored: Sequence[Mapping[str, Any]],
    made: Sequence[Decision],
) -> None:
    """Write the decisions that were made in place of the late ones among the `stored`: each at its place, those of groups at the
    end."""
    by_workflow = {decision.workflow: decision for decision in made}
    rows: list[Any] = []
    for row in stored:
        if row["reason"] != LATE:
            rows.append(row)
        elif row["workflow"] in by_workflow:
            rows += _rows([by_workflow.pop(row["workflow"])])
    rows += _rows(list(by_workflow.values()))
    execute(
        connection,
        f"UPDATE events SET decisions = %s WHERE {_EVENT}",
        (json.dumps(rows), *_values(account_id, event_id)),
    )


def _rows(decisions: Sequence[Decision]) -> list[Any]:
    return list(json.loads(decisions_json(decisions) or "[]"))


def _values(account_id: int, event_id: UUID) -> tuple[Any, ...]:
    return account_id, str(event_id), timestamp_of(event_id)
