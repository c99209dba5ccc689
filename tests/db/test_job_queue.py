"""Jobs that the previous release enqueued for PgQueuer come to the table `jobs`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest

from app.db import erasure, job_queue
from app.db.connection import Database
from app.db.migrate import upgrade
from tests.support.action_contexts import the_settings

ENQUEUE = (
    "INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload, execute_after, heartbeat) "
    "VALUES (0, %s, %s, %s, convert_to(%s, 'UTF8'), now() + %s * interval '1 second', now() - %s * interval '1 second')"
)
OVERDUE_RUN = (
    "INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, "
    "status, at, wake_at, created_at, updated_at) SELECT 1, %s, %s, 1, 'k', %s, now(), '{}', 's', 'running', 'steps[0]', "
    "at, at, at FROM (SELECT now() - interval '90 seconds') AS overdue (at)"
)


class Upgraded:
    """A database that the previous release has used, migrated to this one."""

    def __init__(self, url: str) -> None:
        upgrade(url, target="0009")
        self.url = url
        self.execute("INSERT INTO accounts (slug, plan, signing_secret) VALUES ('acme', 'trial', '')")
        self.enqueue("run", "1:r:1")
        upgrade(url)
        self.database = Database(replace(the_settings(), database_url=url))

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []

    def enqueue(self, kind: str, payload: str, *, status: str = "queued", due: float = 0, heartbeat: float = 0) -> None:
        """As the previous release does."""
        self.execute(ENQUEUE, kind, status, payload if kind == "run" else None, payload, due, heartbeat)

    def move(self) -> int:
        with self.database.transaction() as connection:
            return job_queue.move_previous_jobs(connection, datetime.now(UTC))

    def add_overdue_run(self) -> UUID:
        run, workflow = uuid4(), uuid4()
        self.execute(
            "INSERT INTO workflows (account_id, id, name, latest_version) VALUES (1, %s, 'w', 1)", str(workflow)
        )
        self.execute(
            "INSERT INTO workflow_versions (account_id, workflow_id, version, source, document) VALUES (1, %s, 1, '', '{}')",
            str(workflow),
        )
        self.execute(OVERDUE_RUN, str(run), str(workflow), str(uuid4()))
        return run

    def enqueue_orphans(self) -> int:
        with self.database.transaction() as connection:
            return job_queue.enqueue_orphans(connection, datetime.now(UTC))

    def left(self) -> list[str]:
        return [row[0] for row in self.execute("SELECT convert_from(payload, 'UTF8') FROM pgqueuer ORDER BY id")]


@pytest.fixture
def upgraded(empty_database: str) -> Iterator[Upgraded]:
    found = Upgraded(empty_database)
    yield found
    found.database.close()


def test_jobs_of_the_previous_release_are_moved_with_their_times(upgraded: Upgraded) -> None:
    upgraded.enqueue("event", "1:e")
    upgraded.enqueue("deadline", "1:w:cw==", due=3600)
    assert upgraded.move() == 3
    assert upgraded.left() == []
    assert upgraded.execute(
        "SELECT kind, payload, dedupe_key, due_at > now() + interval '59 minutes', worker_id FROM jobs ORDER BY due_at, id"
    ) == [
        ("run", "1:r:1", "1:r:1", False, None),
        ("event", "1:e", None, False, None),
        ("deadline", "1:w:cw==", None, True, None),
    ]


def test_a_job_that_a_worker_of_the_previous_release_runs_is_left_to_it(upgraded: Upgraded) -> None:
    upgraded.enqueue("run", "1:living:1", status="picked")
    upgraded.enqueue("run", "1:dead:1", status="picked", heartbeat=120)
    assert upgraded.move() == 2
    assert upgraded.left() == ["1:living:1"]


def test_processes_of_the_previous_release_may_still_enqueue_jobs(upgraded: Upgraded) -> None:
    assert upgraded.move() == 1
    upgraded.enqueue("run", "1:later:1")
    upgraded.enqueue("run", "1:r:1")
    upgraded.move()
    assert upgraded.left() == []
    assert upgraded.execute("SELECT payload FROM jobs ORDER BY id") == [("1:r:1",), ("1:later:1",)]


@pytest.mark.parametrize("status", ["queued", "picked"])
def test_a_run_whose_job_the_previous_release_holds_is_no_orphan(upgraded: Upgraded, status: str) -> None:
    upgraded.execute("DELETE FROM pgqueuer")
    run = upgraded.add_overdue_run()
    upgraded.enqueue("run", f"1:{run}:1", status=status)
    assert upgraded.enqueue_orphans() == 0
    assert upgraded.execute("SELECT payload FROM jobs") == []
    upgraded.execute("DELETE FROM pgqueuer")
    assert upgraded.enqueue_orphans() == 1
    assert upgraded.execute("SELECT payload FROM jobs") == [(f"1:{run}:1",)]


def test_deadlines_of_an_erased_subject_that_are_not_moved_yet_are_deleted(upgraded: Upgraded) -> None:
    upgraded.enqueue("deadline", "1:w:cw==", due=3600)
    upgraded.enqueue("deadline", "1:w:b3RoZXI=", due=3600)
    upgraded.enqueue("deadline", "2:w:cw==", due=3600)
    with upgraded.database.transaction() as connection:
        erasure.erase_events(connection, 1, "s")
    assert upgraded.left() == ["1:r:1", "1:w:b3RoZXI=", "2:w:cw=="]


def test_the_log_of_the_previous_release_is_kept_for_a_week(upgraded: Upgraded) -> None:
    for days in (6, 8):
        upgraded.execute(
            "INSERT INTO pgqueuer_log (created, job_id, status, priority, entrypoint) "
            "VALUES (now() - %s * interval '1 day', 1, 'successful', 0, 'run')",
            days,
        )
    for deleted in (1, 0):
        with upgraded.database.transaction() as connection:
            assert job_queue.forget_previous_log(connection, datetime.now(UTC)) == deleted


def test_a_new_database_has_none_of_the_tables_of_pgqueuer(context: Any) -> None:
    with context.database.transaction() as connection:
        assert connection.exec_driver_sql("SELECT to_regclass('pgqueuer')").scalar() is None
        assert job_queue.move_previous_jobs(connection, datetime.now(UTC)) == 0
        assert job_queue.forget_previous_log(connection, datetime.now(UTC)) == 0
