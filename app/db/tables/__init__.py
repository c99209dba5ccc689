"""The tables as the migrations leave them. The comment of each table and column says what it holds.

`tests/db/test_migrate.py` compares this model with all migrations replayed. No foreign keys lead to or from `events`, `runs`,
`steps` and `attempts`: each of their rows is written by a statement that has just read or changed the row that it belongs to,
and the check would lock a hot row per event.
"""

from __future__ import annotations

from app.db.tables import (
    accounts,
    audit,
    cxengage_resources,
    events,
    refusals,
    requests,
    retention,
    runs,
    sources,
    users,
    workflows,
)
from app.db.tables.columns import metadata

__all__ = [
    "accounts",
    "audit",
    "cxengage_resources",
    "events",
    "metadata",
    "refusals",
    "requests",
    "retention",
    "runs",
    "sources",
    "users",
    "workflows",
]
