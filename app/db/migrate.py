"""Runs the missing migrations and creates the partitions of the coming months; checks whether a database is up to date."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import psycopg2
import sqlalchemy as sa

from app.core.config import SettingsError
from app.core.errors import NotMigrated
from app.db import partitions
from app.db.connection import run_sql

DIRECTORY = Path(__file__).resolve().parents[2] / "migrations"


def upgrade(database_url: str, *, target: str = "head") -> None:
    """Run the migrations up to `target`. Concurrent calls wait for each other, and a second call does nothing.

    Does nothing either when a newer release has run more migrations. Raises sqlalchemy.exc.OperationalError when Postgres
    does not respond, or when a migration does not get a lock within 5 seconds (nothing has changed then: call again), and
    SettingsError when the database cannot hold all texts.
    """
    # Slow to import, and web processes run no migrations.
    from alembic import command
    from alembic.config import Config

    engine = sa.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(database_url))
    try:
        with engine.connect() as connection:
            _check_encoding(connection)
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
                _make_partitions(connection, datetime.now(UTC))
    finally:
        engine.dispose()


def _check_encoding(connection: sa.Connection) -> None:
    """A cluster that was made without a locale has databases without an encoding."""
    encoding = run_sql(connection, "SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise SettingsError(
            f"DATABASE_URL cannot be used: its database has the encoding {encoding}; "
            "create one with ENCODING 'UTF8' TEMPLATE template0"
        )


def _make_partitions(connection: sa.Connection, now: datetime) -> None:
    while partitions.clear_default_partition(connection, now):
        connection.commit()
    partitions.make_partitions(connection, partitions.coming_months(now))
    connection.commit()


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
