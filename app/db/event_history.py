"""Events of the past in Postgres: whatever is not there yet.

Comes in: events with ids that are the same whenever the same is imported. Goes out: how many were new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from app.core.models import Event
from app.db.event_bulk import Claim, Rows, claim_keys, facts_of
from app.db.event_writes import EarlierEvent


def insert_past(connection: sa.Connection, account_id: int, events: Sequence[Event]) -> int:
    """Store the events that are not there yet; how many. No workflow has looked at them: they have no decisions."""
    raw: Any = connection.connection.driver_connection
    rows = Rows(raw, account_id, may_be_there=True)
    for event in events:
        rows.add(event.id, event.received_at, None, facts_of(event))
    rows.flush()
    return rows.written


def claim_keys_of_past(
    connection: sa.Connection, account_id: int, claims: Iterable[Claim]
) -> dict[str, EarlierEvent | None]:
    """`claim_keys` for events of the past."""
    raw: Any = connection.connection.driver_connection
    return claim_keys(raw, account_id, claims)
