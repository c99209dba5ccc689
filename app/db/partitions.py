"""The monthly partitions of `events`: made ahead of time, so that none of them ever has to be made under load."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

MONTHS_AHEAD = 3


def ensure_partitions(connection: sa.Connection, now: datetime) -> list[str]:
    """Make the partitions of this month and the next ones that are missing; their names.

    A partition is made as a table of its own, comments included, and then attached: attaching locks out neither readers
    nor writers of `events`, but for the moment in which it looks through the default partition, which is empty. Two
    processes that do this at once are serialised by an advisory lock.
    """
    return [name for ahead in range(MONTHS_AHEAD + 1) if (name := _ensure_month(connection, _month(now, ahead)))]


def ensure_partitions_of(connection: sa.Connection, moments: Iterable[datetime]) -> list[str]:
    """The same for the months of these moments."""
    months = sorted({_month(moment, 0) for moment in moments})
    return [name for month in months if (name := _ensure_month(connection, month))]


def _ensure_month(connection: sa.Connection, first: datetime) -> str | None:
    """Make the partition of the month that begins at `first`; its name, None where it was there."""
    after = _month(first, 1)
    name = f"events_{first:%Y_%m}"
    if _exists(connection, name):
        return None
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('signalbox partitions'))"))
    if _exists(connection, name):
        return None
    # Identifiers and bounds are made of digits above; DDL takes no parameters.
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE events INCLUDING ALL)")
    # Its rows never change: frozen by the first vacuum that sees them, they are no work for the next ones.
    connection.exec_driver_sql(f"ALTER TABLE {name} SET (autovacuum_freeze_min_age = 0)")
    connection.exec_driver_sql(f"COMMENT ON TABLE {name} IS 'events received in {first:%B %Y} (UTC)'")
    # Events that came while their month had no partition lie in the default one, and would forbid the attaching.
    connection.exec_driver_sql(
        f"WITH moved AS (DELETE FROM events_default WHERE received_at >= '{first:%Y-%m-%d} 00:00+00' "  # noqa: S608
        f"AND received_at < '{after:%Y-%m-%d} 00:00+00' RETURNING *) INSERT INTO {name} SELECT * FROM moved"
    )
    connection.exec_driver_sql(
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{first:%Y-%m-%d} 00:00+00') "
        f"TO ('{after:%Y-%m-%d} 00:00+00')"
    )
    return name


def _month(now: datetime, ahead: int) -> datetime:
    """The first moment of the month that is `ahead` months after that of `now`."""
    year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
    return now.replace(year=year, month=month + 1, day=1, hour=0, minute=0, second=0, microsecond=0)


def _exists(connection: sa.Connection, name: str) -> bool:
    return bool(connection.execute(sa.text("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}).scalar())
