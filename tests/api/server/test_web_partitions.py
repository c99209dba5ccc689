"""Web processes create the partitions of the coming months: an installation without workers needs them, too."""

from __future__ import annotations

import time
from contextlib import closing

import psycopg2

from app.db.migrate import upgrade
from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.server import running_server

LAST = "SELECT max(inhrelid::regclass::text) FILTER (WHERE inhrelid::regclass::text ~ '[0-9]$') FROM pg_inherits"


def test_a_web_process_creates_missing_partitions_when_it_starts(context: AppContext, empty_database: str) -> None:
    upgrade(empty_database)
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(LAST + " WHERE inhparent = 'events'::regclass")
        (last,) = cursor.fetchone() or (None,)
        cursor.execute(f"DROP TABLE {last}")
        with running_server(**settings_of(context) | {"DATABASE_URL": empty_database}):
            deadline = time.monotonic() + 30
            found = None
            while not found and time.monotonic() < deadline:
                cursor.execute("SELECT to_regclass(%s)", (last,))
                (found,) = cursor.fetchone() or (None,)
                time.sleep(0.05)
    assert found == last
