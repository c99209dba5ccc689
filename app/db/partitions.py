"""The monthly partitions of `events`, created ahead of time so that none is created under load."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from app.db.connection import run_sql

MONTHS_AHEAD = 3


def ensure_partitions(connection: sa.Connection, now: datetime) -> list[str]:
    """Create the missing partitions of this month and the next MONTHS_AHEAD; their names.

    A partition is created as a table of its own, with comments, and then attached. Attaching blocks readers and writers
    only while it scans the default partition, which is empty. An advisory lock serialises concurrent processes.
    """
    return [name for ahead in range(MONTHS_AHEAD + 1) if (name := _ensure_month(connection, _month(now, ahead)))]


def ensure_partitions_of(connection: sa.Connection, timestamps: Iterable[datetime]) -> list[str]:
    """Create the missing partitions of the months of these timestamps; their names."""
    months = sorted({_month(timestamp, 0) for timestamp in timestamps})
    return [name for month in months if (name := _ensure_month(connection, month))]


def _ensure_month(connection: sa.Connection, first: datetime) -> str | None:
    """Create the partition of the month that begins at `first`; its name, or None when it exists."""
    after = _month(first, 1)
    name = f"events_{first:%Y_%m}"
    if _exists(connection, name):
        return None
    run_sql(connection, "SELECT pg_advisory_xact_lock(hashtext('signalbox partitions'))")
    if _exists(connection, name):
        return None
    # Identifiers and bounds are made of digits above; DDL takes no parameters.
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE events INCLUDING ALL)")
    # Its rows never change: the first vacuum freezes them, and later ones skip them.
    connection.exec_driver_sql(f"ALTER TABLE {name} SET (autovacuum_freeze_min_age = 0)")
    connection.exec_driver_sql(f"COMMENT ON TABLE {name} IS 'events received in {first:%B %Y} (UTC)'")
    # Events that came while their month had no partition are in the default one; they would make attaching fail.
    connection.exec_driver_sql(
        f"WITH moved AS (DELETE FROM events_default WHERE received_at >= '{first:%Y-%m-%d} 00:00+00' "
        f"AND received_at < '{after:%Y-%m-%d} 00:00+00' RETURNING *) INSERT INTO {name} SELECT * FROM moved"
    )
    connection.exec_driver_sql(
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{first:%Y-%m-%d} 00:00+00') "
        f"TO ('{after:%Y-%m-%d} 00:00+00')"
    )
    return name


def _month(now: datetime, ahead: int) -> datetime:
    """The start of the month that is `ahead` months after that of `now`."""
    year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
    return now.replace(year=year, month=month + 1, day=1, hour=0, minute=0, second=0, microsecond=0)


def _exists(connection: sa.Connection, name: str) -> bool:
    return bool(run_sql(connection, "SELECT to_regclass(:name) IS NOT NULL", {"name": name}).scalar())
