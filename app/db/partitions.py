"""The partitions of `events`, one a month, and the default partition, which takes the events of months without one.

The functions that are called here are defined by migrations 0013 and 0019. They run with the rights of the role that ran these:
the role of the processes needs no DDL.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from app.db.connection import run_sql
from app.db.shared_sql import find_accounts_with_rows

MONTHS_AHEAD = 3


def make_partitions(connection: sa.Connection, timestamps: Iterable[datetime]) -> list[str]:
    """Create the missing partitions of the months of these timestamps; their names.

    Months of which the default partition has events are left out; `clear_default_partition` removes these events. Attaching a
    partition stops neither readers nor writers. Concurrent calls wait for each other.
    """
    names: list[str] | None = run_sql(
        connection,
        "SELECT make_events_partitions(CAST(:timestamps AS timestamptz[]))",
        {"timestamps": list(timestamps)},
    ).scalar()
    return names or []


def clear_default_partition(connection: sa.Connection, now: datetime) -> str | None:
    """Do the next step of emptying the default partition, each in a transaction of its own; what was done, or None when there
    is nothing to do or another process is at it.

    1. Add a CHECK constraint with the months of its events, which covers the events that come meanwhile.
    2. Validate the constraint: reads all events, and stops neither readers nor writers.
    3. Attach the table as the partition of these months and create an empty default partition. No event is read or moved,
       so this takes no longer for many events than for few.

    When there is a partition between the oldest and the latest event, the events of the oldest month are moved first.
    """
    return run_sql(connection, "SELECT clear_events_default(:now)", {"now": now}).scalar()


class Partition(NamedTuple):
    """A partition: from when until before when its events were received."""

    name: str
    begin: datetime
    end: datetime


_PARTITIONS = """
SELECT relname, bounds[1]::timestamptz, bounds[2]::timestamptz, pg_has_role(relowner, 'USAGE')
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid,
    regexp_match(pg_get_expr(relpartbound, pg_class.oid), 'FROM \\(''([^'']+)''\\) TO \\(''([^'']+)''\\)') AS bounds
WHERE inhparent = CAST('events' AS regclass) AND bounds IS NOT NULL
"""


def list_partitions(connection: sa.Connection) -> list[Partition]:
    """All partitions except for the default partition, the oldest first."""
    return [Partition(*row[:3]) for row in run_sql(connection, _PARTITIONS + "ORDER BY 2")]


def find_partition(connection: sa.Connection, name: str) -> tuple[datetime, datetime, bool] | None:
    """From when until before when the events of a partition were received, and whether this role owns it; None when there is no
    such partition."""
    row = run_sql(connection, _PARTITIONS + "AND relname = :name", {"name": name}).one_or_none()
    return None if row is None else (row[1], row[2], row[3])


def find_accounts(connection: sa.Connection, partition: Partition) -> set[int]:
    """The accounts that have events in a partition."""
    condition = "received_at >= :begin AND received_at < :end"
    return set(
        find_accounts_with_rows(connection, "events", condition, {"begin": partition.begin, "end": partition.end})
    )


def find_lock_holders(connection: sa.Connection, name: str) -> set[str]:
    """The transactions, by PostgreSQL's names for them, that use `events` or this partition now."""
    query = (
        "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE granted AND pid <> pg_backend_pid() "
        "AND relation IN (CAST('events' AS regclass), to_regclass(:name)) "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return set(run_sql(connection, query, {"name": name}).scalars())


def drop_ended_partition(connection: sa.Connection, name: str, now: datetime) -> bool:
    """Drop a partition whose months have ended, by a function with the rights of its owner; False when it is in use. Waits for
    the lock for at most 0.3 seconds, since events wait behind it meanwhile."""
    dropped: bool = run_sql(
        connection, "SELECT drop_events_partition(:name, :now)", {"name": name, "now": now}
    ).scalar_one()
    return dropped


def drop_partition(connection: sa.Connection, name: str) -> None:
    """Drop a partition that `find_partition` has found, with its events. Waits for its lock for at most five seconds, since
    events wait behind it meanwhile."""
    connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
    connection.exec_driver_sql(f'DROP TABLE "{name}"')


def count_months_ahead(connection: sa.Connection, now: datetime) -> int:
    """How many of the months after this one have a partition, up to the first that has none; at most MONTHS_AHEAD."""
    found = list_partitions(connection)
    covered = [any(one.begin <= month < one.end for one in found) for month in coming_months(now)[1:]]
    return [*covered, False].index(False)


def coming_months(now: datetime) -> list[datetime]:
    """The starts of this month and the next MONTHS_AHEAD."""
    months = [divmod(now.year * 12 + now.month - 1 + ahead, 12) for ahead in range(MONTHS_AHEAD + 1)]
    return [
        now.replace(year=year, month=month + 1, day=1, hour=0, minute=0, second=0, microsecond=0)
        for year, month in months
    ]
