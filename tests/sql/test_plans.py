"""No query of docs/sql.md and no view reads a tenth of a partition of `events`, or of runs: on 200,000 events of 75 days."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
import sqlalchemy as sa
from psycopg2 import errors
from psycopg2.extensions import connection as Connection

from app.db.deliveries import WAITING, DeliveryFilter, find_latest_deliveries
from app.db.migrate import upgrade
from app.services import roles
from app.services.context import AppContext
from bench import sql
from tests.sql.conftest import NAMES
from tests.sql.test_views import VIEWS
from tests.support.action_contexts import the_settings

EVENTS = 200_000
PREFIX = f"{NAMES.prefix}_volume"
# About the whole system, or about the queue: not for accounts.
NOT_FOR_ACCOUNTS = ("7. ", "16. ", "20. ", "23. ")
QUERIES = {**sql.questions(), **{f"ops.{name}": f"SELECT * FROM ops.{name}" for name in VIEWS}}


@pytest.fixture(scope="module")
def volume(database_url: str) -> Iterator[str]:
    """The URL of a database with many rows, and a role for the account that has most of them."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE DATABASE {PREFIX}")
        url = urlunsplit(urlsplit(database_url)._replace(path=f"/{PREFIX}"))
        try:
            upgrade(url)
            sql.load(url, EVENTS)
            context = AppContext(replace(the_settings(), database_url=url))
            list(roles.make_roles(context, PREFIX, roles.plan_roles(context, PREFIX, [1])))
            yield url
        finally:
            cursor.execute(f"DROP DATABASE {PREFIX} WITH (FORCE)")


@pytest.fixture(scope="module")
def owner(volume: str) -> Iterator[Connection]:
    with closing(psycopg2.connect(volume)) as connection:
        yield connection


@pytest.fixture(scope="module")
def account(volume: str) -> Iterator[Connection]:
    """A connection as the role of the account, under row-level security."""
    parts = urlsplit(volume)
    url = urlunsplit(parts._replace(netloc=f"{PREFIX}_account_1@{parts.netloc.rpartition('@')[2]}"))
    with closing(psycopg2.connect(url)) as connection:
        yield connection


def test_the_volume_has_rows_in_three_partitions(owner: Connection) -> None:
    sizes = sql.sizes(owner)
    assert len([name for name in sizes if name.startswith("events_")]) >= 3
    assert set(sql.LARGE) <= sizes.keys()


@pytest.mark.parametrize("title", QUERIES)
def test_a_query_reads_no_large_part_of_a_table(title: str, owner: Connection) -> None:
    assert sql.Plan(owner, QUERIES[title], sql.names(owner)).wholes(sql.sizes(owner)) == []


@pytest.mark.parametrize("title", [title for title in QUERIES if not title.startswith(NOT_FOR_ACCOUNTS)])
def test_neither_does_it_under_row_level_security(title: str, owner: Connection, account: Connection) -> None:
    try:
        plan = sql.Plan(account, QUERIES[title], sql.names(owner))
    except errors.InsufficientPrivilege:
        account.rollback()
        assert title in ("ops.backlog", "ops.runs_stuck", "ops.table_growth", "ops.table_sizes", "ops.workers")
    else:
        assert plan.wholes(sql.sizes(owner)) == []


@pytest.mark.parametrize("results", [["duplicate"], ["partly"], ["unmapped"]])
def test_a_list_of_deliveries_reads_no_large_part_of_them(results: list[str], volume: str, owner: Connection) -> None:
    assert _plan_of_deliveries(volume, owner, results, 51)[0].wholes(sql.sizes(owner)) == []


def test_the_planner_expects_as_many_waiting_deliveries_as_there_are(volume: str, owner: Connection) -> None:
    plan, found = _plan_of_deliveries(volume, owner, WAITING, 5_000)
    # Else it reads and sorts all of them for the first page.
    assert plan.root["Plan"]["Plan Rows"] == pytest.approx(found, rel=0.5)


def _plan_of_deliveries(volume: str, owner: Connection, results: Sequence[str], limit: int) -> tuple[sql.Plan, int]:
    """The plan of a list of deliveries with one of these results, and how many it has."""
    context = AppContext(replace(the_settings(), database_url=volume))
    statements: list[tuple[str, Any]] = []
    with context.database.transaction() as connection:
        sa.event.listen(
            connection,
            "before_cursor_execute",
            lambda conn, cursor, statement, values, context, many: statements.append((statement, values)),
        )
        found = find_latest_deliveries(connection, 1, DeliveryFilter(results=results), limit)
    context.database.close()
    ((statement, values),) = statements
    return sql.Plan(owner, statement, values), len(found)


def test_a_query_by_received_at_alone_is_found_to_read_a_partition(owner: Connection) -> None:
    period = "received_at BETWEEN now() - interval '40 days' AND now() - interval '40 days' + interval '1 hour'"
    query = f"SELECT count(*) FROM events WHERE account_id = 1 AND {period}"
    assert len(sql.Plan(owner, query, {}).wholes(sql.sizes(owner))) == 1
