"""Partitions of `events`: made ahead, also by a role without DDL; a filled default partition becomes one of its months."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from app.core.errors import NotMigrated, Problem
from app.core.models import PLANS
from app.db import accounts
from app.db.migrate import upgrade
from app.services import expiry, retention, startup_checks, workflows
from app.services.context import AppContext
from app.services.partitions import drop_partition, make_partitions
from app.services.roles import make_roles, plan_roles
from tests.support.action_contexts import the_settings
from tests.support.builders import a_workflow

NOW = datetime(2031, 7, 10, 12, tzinfo=UTC)
COMING = ["events_2031_07", "events_2031_08", "events_2031_09", "events_2031_10"]
EVENTS = (
    "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) SELECT 1, gen_random_uuid(), 'e', 'd', "
    "'{}', CAST(%s AS timestamptz) + number * interval '1 second' FROM generate_series(1, %s) AS number"
)


@pytest.fixture(scope="module")
def template(database_url: str) -> Iterator[str]:
    """The name of a migrated database to which nobody is connected."""
    name = f"partitions_template_{os.getpid()}"
    _alone(database_url, f"CREATE DATABASE {name}")
    upgrade(_database(database_url, name))
    yield name
    _alone(database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str, template: str) -> Iterator[str]:
    """A migrated database, whose partitions are those of the present months, years before NOW."""
    name = f"partitions_{os.getpid()}"
    _alone(database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _database(database_url, name)
    _alone(database_url, f"DROP DATABASE {name} WITH (FORCE)")


def _database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _alone(url: str, statement: str) -> None:
    """Execute one statement outside of a transaction."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)


def _context(url: str, **changes: Any) -> AppContext:
    return AppContext(replace(the_settings(), database_url=url, **changes), clock=lambda: NOW)


def _query(url: str, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []


def _partitions(url: str) -> dict[str, int]:
    """The partitions since 2031 and the default one, and how many events each has."""
    names = _query(
        url, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
    )
    return {name: _query(url, f"SELECT count(*) FROM {name}")[0][0] for (name,) in names if name > "events_2031"}


def _file_of(url: str, table: str) -> int:
    found: int = _query(url, "SELECT pg_relation_filenode(%s)", (table,))[0][0]
    return found


def test_the_coming_months_get_partitions(database: str) -> None:
    make_partitions(_context(database))
    assert _partitions(database) == {**dict.fromkeys(COMING, 0), "events_default": 0}


def test_events_of_the_default_partition_become_a_partition_without_being_moved(database: str) -> None:
    _query(database, EVENTS, ("2031-07-01", 50_000))
    before = _file_of(database, "events_default")
    make_partitions(_context(database))
    assert _partitions(database) == {**dict.fromkeys(COMING, 0), "events_2031_07": 50_000, "events_default": 0}
    assert _file_of(database, "events_2031_07") == before
    _query(database, EVENTS, ("2031-07-11", 1))
    assert _partitions(database)["events_2031_07"] == 50_001


def test_the_new_partition_has_the_indexes_and_the_comment_of_the_others(database: str) -> None:
    _query(database, EVENTS, ("2031-07-01", 1))
    make_partitions(_context(database))
    described = (
        "SELECT indisunique, indisvalid, substring(pg_get_indexdef(indexrelid) FROM 'USING.*') FROM pg_index "
        "WHERE indrelid = %s::regclass ORDER BY 3"
    )
    expected = _query(database, described, ("events_2031_08",))
    assert len(expected) > 3
    for name in ("events_2031_07", "events_default"):
        assert _query(database, described, (name,)) == expected
    named = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'events_2031_07'::regclass"
    assert [name for (name,) in _query(database, named) if not name.startswith("events_2031_07_")] == []
    comment = "SELECT obj_description('events_2031_07'::regclass)"
    assert _query(database, comment) == [("events received from 2031-07-01 until 2031-08-01 (UTC)",)]
    assert _query(database, "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'events_default_from%'") == [(0,)]


def test_several_months_without_partitions_become_one_partition(database: str) -> None:
    for first in ("2031-04-30 23:00+00", "2031-05-31 23:59:59+00", "2031-07-01 00:00+00"):
        _query(database, EVENTS, (first, 1))
    make_partitions(_context(database))
    assert _partitions(database) == {
        "events_2031_04_to_2031_07": 3,
        **dict.fromkeys(COMING[1:], 0),
        "events_default": 0,
    }


def test_events_on_both_sides_of_a_partition_are_moved_month_by_month(database: str) -> None:
    make_partitions(_context(database), [datetime(2031, 6, 1, tzinfo=UTC)])
    for first in ("2031-04-01", "2031-05-01", "2031-07-01"):
        _query(database, EVENTS, (first, 10))
    make_partitions(_context(database))
    assert _partitions(database) == {
        "events_2031_04": 10,
        "events_2031_05": 10,
        "events_2031_06": 0,
        "events_2031_07": 10,
        **dict.fromkeys(COMING[1:], 0),
        "events_default": 0,
    }


def test_past_events_do_not_widen_the_partition_up_to_now(database: str) -> None:
    make_partitions(_context(database))
    _query(database, EVENTS, ("2031-03-01", 1))
    make_partitions(_context(database))
    assert _partitions(database)["events_2031_03"] == 1


def test_an_interrupted_conversion_is_continued_and_refuses_no_event_meanwhile(database: str) -> None:
    _query(database, EVENTS, ("2031-07-01", 10))
    for _ in range(2):
        # Bounded, then checked.
        assert _query(database, "SELECT clear_events_default(%s)", (NOW,)) != [(None,)]
        _query(database, EVENTS, ("2031-07-10 12:00", 1))
    make_partitions(_context(database))
    assert _partitions(database)["events_2031_07"] == 12


def test_bounds_that_are_left_over_do_not_refuse_events(database: str) -> None:
    _query(database, EVENTS, ("2031-07-01", 10))
    _query(database, "SELECT clear_events_default(%s)", (NOW,))
    constraints = "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'events_default_from%'"
    assert _query(database, constraints) == [(1,)]
    # The month ends before the next step, or all events are erased.
    _query(database, "SELECT clear_events_default('2031-07-31 23:30+00')")
    assert _query(database, constraints) == [(0,)]
    _query(database, "SELECT clear_events_default(%s)", (NOW,))
    _query(database, "DELETE FROM events_default")
    make_partitions(_context(database))
    assert _query(database, constraints) == [(0,)]


def test_processes_that_make_partitions_at_the_same_time_make_each_once(database: str) -> None:
    _query(database, EVENTS, ("2031-07-01", 1_000))
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(make_partitions, _context(database)) for _ in range(4)]:
            done.result()
    # Who found another process at it left the month out.
    make_partitions(_context(database))
    assert _partitions(database) == {**dict.fromkeys(COMING, 0), "events_2031_07": 1_000, "events_default": 0}


def test_events_are_stored_while_the_default_partition_is_cleared(database: str) -> None:
    _query(database, EVENTS, ("2031-07-01", 20_000))
    with ThreadPoolExecutor(2) as threads:
        making = threads.submit(make_partitions, _context(database))
        stored = 0
        while not making.done() or stored < 20:
            _query(database, EVENTS, ("2031-07-10", 1))
            stored += 1
        making.result()
    assert sum(_partitions(database).values()) == 20_000 + stored


def test_the_name_of_a_detached_partition_is_not_taken(database: str) -> None:
    _query(database, "CREATE TABLE events_2031_07 (note text)")
    make_partitions(_context(database))
    assert "events_2031_07_more" in _partitions(database)


@pytest.fixture
def runtime_role(database: str) -> Iterator[str]:
    """The URL of the role that `signalbox db roles` makes for the processes; it has no DDL."""
    prefix = f"runtime_{urlsplit(database).path[1:]}"
    context = _context(database)
    list(make_roles(context, prefix, plan_roles(context, prefix, [])))
    try:
        parts = urlsplit(database)
        yield urlunsplit(parts._replace(netloc=f"{prefix}_processes@{parts.netloc.rpartition('@')[2]}"))
    finally:
        for role in (f"{prefix}_processes", f"{prefix}_read"):
            _query(database, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_without_ddl_makes_partitions(database: str, runtime_role: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        _query(runtime_role, "CREATE TABLE own (note text)")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        _query(runtime_role, "ALTER TABLE events DETACH PARTITION events_default")
    _query(runtime_role, EVENTS, ("2031-07-01", 10))
    startup_checks.check_settings(_context(runtime_role))
    make_partitions(_context(runtime_role))
    assert _partitions(database) == {**dict.fromkeys(COMING, 0), "events_2031_07": 10, "events_default": 0}
    _query(runtime_role, EVENTS, ("2031-07-11", 1))
    assert _query(runtime_role, "SELECT count(*) FROM events WHERE received_at > '2031-01-01'") == [(11,)]


def test_a_role_without_ddl_drops_a_partition_past_its_retention(database: str, runtime_role: str) -> None:
    make_partitions(_context(database), [datetime(2021, 5, 1, tzinfo=UTC)])
    _query(database, "INSERT INTO accounts (slug, plan, signing_secret) VALUES ('acme', 'trial', '')")
    retention.change_retention(_context(runtime_role), 1, "acme", {"events": timedelta(days=90)})
    _query(database, EVENTS, ("2021-05-03", 10))
    assert expiry.delete_expired(_context(runtime_role), lambda seconds: False)["partitions"] > 0
    assert _query(database, "SELECT to_regclass('events_2021_05'), count(*) FROM events") == [(None, 0)]


def test_only_who_was_granted_it_may_call_the_functions(database: str, runtime_role: str) -> None:
    _query(database, f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM {urlsplit(runtime_role).username}")
    for call in ("make_events_partitions('{2031-07-01}')", "clear_events_default(now())"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            _query(runtime_role, f"SELECT {call}")


def test_functions_with_the_owner_s_rights_find_tables_only_in_their_own_schema(database: str) -> None:
    unsafe = (
        "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace "
        "AND NOT proconfig @> ARRAY['search_path=public, pg_temp']"
    )
    assert _query(database, unsafe) == []
    with_rights = "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace ORDER BY 1"
    assert [name for (name,) in _query(database, with_rights)] == [
        "clear_events_default",
        "delete_audit_log",
        "drop_events_partition",
        "erase_from_audit_log",
        "make_events_partitions",
    ]


def test_the_functions_work_in_another_schema(empty_database: str) -> None:
    name = urlsplit(empty_database).path[1:]
    _query(
        empty_database,
        f'CREATE SCHEMA "Own schema"; ALTER ROLE current_user IN DATABASE {name} SET search_path = "Own schema"',
    )
    try:
        upgrade(empty_database)
        make_partitions(_context(empty_database))
        found = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'events_2031_07'"
        assert _query(empty_database, found) == [('"Own schema"',)]
    finally:
        _query(empty_database, f"ALTER ROLE current_user IN DATABASE {name} RESET ALL")


def test_before_the_first_migration_the_database_is_not_migrated(empty_database: str) -> None:
    with pytest.raises(NotMigrated):
        make_partitions(_context(empty_database))


# Retention

RUN = (
    "INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, "
    "status, at, wake_at, created_at, updated_at) SELECT 1, gen_random_uuid(), gen_random_uuid(), 1, 'k', id, received_at, "
    "ARRAY[id], 's', %s, 'steps[0]', received_at, received_at, received_at FROM events LIMIT 1"
)

PROGRESS = """
INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, deadline, last_event_at)
SELECT account_id, id, 's', enablement,
    '{"events": {"1": ["…", "2031-04-30T00:00:00+00:00"], "2": ["…", "2031-05-04T00:00:00+00:00"]},
      "deadline": {"at": "2031-08-04T00:00:00+00:00", "used": [2]}}', '2031-08-04', '2031-05-04'
FROM workflows
"""


def _refused(database: str, name: str) -> str:
    with pytest.raises(Problem) as caught:
        drop_partition(_context(database), name)
    return str(caught.value)


def test_a_past_partition_is_dropped_with_its_events(database: str) -> None:
    make_partitions(_context(database), [datetime(2031, 5, 1, tzinfo=UTC)])
    _query(database, EVENTS, ("2031-05-03", 10))
    _query(database, RUN, ("done",))
    drop_partition(_context(database), "events_2031_05")
    assert "events_2031_05" not in _partitions(database)
    assert _query(database, "SELECT count(*) FROM events") == [(0,)]


def test_a_partition_that_a_pending_deadline_needs_is_kept(database: str) -> None:
    context = _context(database)
    make_partitions(context, [datetime(2031, month, 1, tzinfo=UTC) for month in (4, 5)])
    with context.database.transaction() as connection:
        account = accounts.create_account(connection, "acme", PLANS["standard"], "unused", NOW)
    assert account is not None
    workflows.apply_workflow(context, account, a_workflow(on={"seq": ["ordered", {"none": "paid", "for": "90d"}]}))
    _query(database, PROGRESS)
    assert "one that a pending deadline will start" in _refused(database, "events_2031_05")
    # The first event is only used by another partial match.
    drop_partition(context, "events_2031_04")
    workflows.disable_workflow(context, account, "watch")
    drop_partition(context, "events_2031_05")


def test_a_partition_that_a_running_run_needs_is_kept(database: str) -> None:
    make_partitions(_context(database), [datetime(2031, 5, 1, tzinfo=UTC)])
    _query(database, EVENTS, ("2031-05-03", 10))
    _query(database, RUN, ("running",))
    assert "a running run needs an event of events_2031_05" in _refused(database, "events_2031_05")
    assert _partitions(database)["events_2031_05"] == 10


def test_only_past_partitions_of_events_are_dropped(database: str) -> None:
    make_partitions(_context(database))
    assert "have not ended" in _refused(database, "events_2031_07")
    for name in ("events_default", "runs", "events_2001_01", 'x"; DROP TABLE runs; --'):
        assert "events has no partition" in _refused(database, name)
    assert _query(database, "SELECT count(*) FROM runs") == [(0,)]


def test_another_role_than_the_owner_drops_nothing(database: str, runtime_role: str) -> None:
    make_partitions(_context(database), [datetime(2031, 5, 1, tzinfo=UTC)])
    assert "only the owner" in _refused(runtime_role, "events_2031_05")
