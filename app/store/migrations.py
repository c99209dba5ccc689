"""Brings a database up to date: all migrations that it has not seen, then the partitions of the coming months."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from app.store.partitions import ensure_partitions

DIRECTORY = Path(__file__).resolve().parents[2] / "migrations"


def upgrade(database_url: str, *, target: str = "head") -> None:
    """Run the migrations up to `target`; two at the same time wait for each other, and a second call does nothing.

    Raises sqlalchemy.exc.OperationalError when Postgres does not answer, or when a lock that a migration needs is not to
    be had within 5 seconds (then nothing has changed: call again).
    """
    engine = sa.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(database_url))
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(hashtext('signalbox migrations'))"))
            connection.execute(sa.text("SET lock_timeout = '5s'"))
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(DIRECTORY))
            config.attributes["connection"] = connection
            command.upgrade(config, target)
            connection.commit()
            if target == "head":
                ensure_partitions(connection, datetime.now(UTC))
                connection.commit()
    finally:
        engine.dispose()
