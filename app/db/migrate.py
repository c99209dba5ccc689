"""Runs the missing migrations and creates the partitions of the coming months; checks whether a database is up to date."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import psycopg2
import sqlalchemy as sa

from app.core.errors import NotMigrated
from app.db.connection import run_sql

DIRECTORY = Path(__file__).resolve().parents[2] / "migrations"


def upgrade(database_url: str, *, target: str = "head") -> None:
    """Run the migrations up to `target`. Concurrent calls wait for each other, and a second call does nothing.

    Does nothing either when a newer release has run more migrations. Raises sqlalchemy.exc.OperationalError when Postgres
    does not respond, or when a migration does not get a lock within 5 seconds (nothing has changed then: call again).
    """
    # Slow to import, and web processes run no migrations.
    from alembic import command
    from alembic.config import Config

    engine = sa.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(database_url))
    try:
        with engine.connect() as connection:
            run_sql(connection, "SELECT pg_advisory_lock(hashtext('signalbox migrations'))")
            run_sql(connection, "SET lock_timeout = '5s'")
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(DIRECTORY))
            config.attributes["connection"] = connection
            version = _version(connection)
            # Migrations have transactions of their own; some have several.
            connection.commit()
            if version is None or version in predecessors():
                command.upgrade(config, target)
            connection.commit()
            if target == "head":
                ensure_partitions(connection, datetime.now(UTC))
                connection.commit()
    finally:
        engine.dispose()


@cache
def predecessors() -> dict[str, str]:
    """Each migration of this release, and the one before it (empty: none). Their order may differ from that of the numbers."""
    found = re.compile(r'^revision = "(\d+)"\ndown_revision = (?:"(\d+)"|None)$', re.MULTILINE)
    texts = (file.read_text("utf-8") for file in (DIRECTORY / "versions").glob("[0-9]*.py"))
    return {match[1]: match[2] or "" for match in map(found.search, texts) if match}


@cache
def head() -> str:
    """The last migration of this release."""
    (last,) = predecessors().keys() - predecessors().values()
    return last


def check_migrated(connection: sa.Connection) -> None:
    """Raise NotMigrated unless all migrations of this release have been run. A newer release may have run more."""
    found = connection.exec_driver_sql("SELECT max(version_num) FROM alembic_version").scalar()
    if found is None or (found != head() and found in predecessors()):
        raise NotMigrated(f"the database is at migration {found}, this release needs {head()}")


def _version(connection: sa.Connection) -> str | None:
    """The last migration that has been run; None: none."""
    if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar() is None:
        return None
    found: str | None = connection.exec_driver_sql("SELECT max(version_num) FROM alembic_version").scalar()
    return found


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
