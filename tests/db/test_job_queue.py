"""Jobs that a release with PgQueuer has enqueued come to the table `jobs`; PgQueuer's tables are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from app.db.migrate import upgrade
from app.services.context import AppContext

ENQUEUE = (
    "INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload, execute_after, attempts) "
    "VALUES (0, %s, %s, %s, convert_to(%s, 'UTF8'), now() + %s * interval '1 second', 2)"
)
LEFT = "SELECT relname FROM pg_class WHERE relname ~ 'pgqueuer' UNION SELECT typname FROM pg_type WHERE typname ~ 'pgqueuer'"


@pytest.fixture
def previous(empty_database: str) -> Iterator[Cursor]:
    """A database at the migration before the tables are dropped, that a release with PgQueuer has used."""
    upgrade(empty_database, target="0009")
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("INSERT INTO accounts (slug, plan, signing_secret) VALUES ('acme', 'trial', '')")
        upgrade(empty_database, target="0032")
        yield cursor


def _upgrade(cursor: Cursor) -> None:
    upgrade(cursor.connection.dsn)


def _jobs(cursor: Cursor) -> list[tuple[Any, ...]]:
    cursor.execute(
        "SELECT kind, payload, dedupe_key, due_at > now() + interval '59 minutes', attempts, worker_id FROM jobs ORDER BY id"
    )
    return cursor.fetchall()


def test_jobs_that_are_left_are_moved_with_their_times_and_attempts(previous: Cursor) -> None:
    for kind, payload, due in (("deadline", "1:w:cw==", 3600), ("run", "1:r:1", 0), ("event", "1:e", 1)):
        previous.execute(ENQUEUE, (kind, "queued", payload if kind == "run" else None, payload, due))
    _upgrade(previous)
    assert _jobs(previous) == [
        ("run", "1:r:1", "1:r:1", False, 2, None),
        ("event", "1:e", None, False, 2, None),
        ("deadline", "1:w:cw==", None, True, 2, None),
    ]


def test_a_job_whose_worker_has_stopped_without_it_is_moved(previous: Cursor) -> None:
    previous.execute(ENQUEUE, ("run", "picked", "1:r:1", "1:r:1", 0))
    _upgrade(previous)
    assert _jobs(previous) == [("run", "1:r:1", "1:r:1", False, 2, None)]


def test_a_job_that_has_been_enqueued_again_is_moved_once(previous: Cursor) -> None:
    previous.execute("INSERT INTO jobs (kind, payload, dedupe_key) VALUES ('run', '1:r:1', '1:r:1')")
    previous.execute(ENQUEUE, ("run", "queued", "1:r:1", "1:r:1", 0))
    _upgrade(previous)
    assert _jobs(previous) == [("run", "1:r:1", "1:r:1", False, 0, None)]


def test_nothing_of_pgqueuer_is_left(previous: Cursor) -> None:
    previous.execute(LEFT)
    assert ("pgqueuer_log",) in previous.fetchall()
    _upgrade(previous)
    previous.execute(LEFT)
    assert previous.fetchall() == []


def test_a_new_database_has_nothing_of_pgqueuer(context: AppContext) -> None:
    with context.database.transaction() as connection:
        assert connection.exec_driver_sql(LEFT).all() == []
