"""Runs the missing migrations and creates the partitions of the coming months; checks whether a database is up to date."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import psycopg2
import sqlalchemy as sa

from app.core.errors import NotMigrated
from app.db.connection import run_sql
from app.db.partitions import ensure_partitions

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
            number = _number(connection)
            # Migrations have transactions of their own; some have several.
            connection.commit()
            if number <= newest():
                command.upgrade(config, target)
            connection.commit()
            if target == "head":
                ensure_partitions(connection, datetime.now(UTC))
                connection.commit()
    finally:
        engine.dispose()


@cache
def newest() -> int:
    """The number of this release's newest migration."""
    return max(int(file.name[:4]) for file in (DIRECTORY / "versions").glob("[0-9]*.py"))


def check_migrated(connection: sa.Connection) -> None:
    """Raise NotMigrated unless all migrations of this release have been run. A newer release may have run more."""
    found = connection.exec_driver_sql("SELECT max(version_num) FROM alembic_version").scalar()
    if int(found or 0) < newest():
        raise NotMigrated(f"the database is at migration {found}, this release needs {newest():04}")


def _number(connection: sa.Connection) -> int:
    """The number of the newest migration that has been run; 0: none."""
    if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar() is None:
        return 0
    return int(connection.exec_driver_sql("SELECT max(version_num) FROM alembic_version").scalar() or 0)
