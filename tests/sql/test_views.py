"""The schema `ops` is a promise: names and types of its views and columns stay, and everything is commented."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from app.core.ids import first_id_at
from app.db.migrate import upgrade
from tests.sql.conftest import Connect, query
from tests.support.builders import Sender

# Each file lists the columns of one version, `view.column type`. Files of released versions never change.
VERSIONS = {int(file.stem.rpartition("_")[2]): file for file in Path(__file__).parent.glob("ops_version_*.txt")}
COLUMNS = """
SELECT format('%s.%s %s', relname, attname, format_type(atttypid, atttypmod)) AS line
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
WHERE relnamespace = 'ops'::regnamespace AND relkind = 'v' ORDER BY relname, attnum
"""
VIEWS = sorted({line.partition(".")[0] for line in VERSIONS[max(VERSIONS)].read_text().splitlines()})


def test_the_columns_are_those_of_the_version(connect: Connect) -> None:
    owner = connect("")
    (version,) = query(owner, "SELECT version FROM ops.version")
    assert version["version"] == max(VERSIONS)
    assert [row["line"] for row in query(owner, COLUMNS)] == VERSIONS[max(VERSIONS)].read_text().splitlines()


def test_a_version_has_all_columns_of_the_one_before() -> None:
    for version in VERSIONS.keys() - {1}:
        before, after = (set(VERSIONS[number].read_text().splitlines()) for number in (version - 1, version))
        assert before < after


def test_every_view_column_and_function_has_a_comment(connect: Connect) -> None:
    found = query(
        connect(""),
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 "
        "WHERE relnamespace = 'ops'::regnamespace AND relkind = 'v' "
        "AND (obj_description(pg_class.oid, 'pg_class') IS NULL OR col_description(pg_class.oid, attnum) IS NULL) "
        "UNION ALL SELECT proname, NULL FROM pg_proc WHERE pronamespace = 'ops'::regnamespace "
        "AND obj_description(oid, 'pg_proc') IS NULL",
    )
    assert found == []


def test_every_view_has_the_rights_of_its_reader(connect: Connect) -> None:
    found = query(
        connect(""),
        "SELECT relname FROM pg_class WHERE relnamespace = 'ops'::regnamespace AND relkind = 'v' "
        "AND NOT coalesce(reloptions, '{}') && '{security_invoker=true,security_invoker=on}' AND relname <> 'version'",
    )
    assert found == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_a_row_to_show(view: str, connect: Connect) -> None:
    assert query(connect(""), f"SELECT * FROM ops.{view}")


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_the_rows_of_each_account(view: str, connect: Connect, senders: tuple[Sender, Sender]) -> None:
    owner = connect("")
    if "account_id bigint" not in VERSIONS[max(VERSIONS)].read_text().partition(f"{view}.")[2].splitlines()[0]:
        assert view in ("backlog", "table_growth", "table_sizes", "version", "workers")
        return
    rows = query(owner, f"SELECT account_id, account FROM ops.{view}")
    assert {(row["account_id"], row["account"]) for row in rows} == {(one.account_id, one.slug) for one in senders}


TIMESTAMPS = [
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2026, 11, 29, 1, 2, 3, 456_789, tzinfo=UTC),
    *(
        datetime(2031, 2, 28, 23, 59, 59, tzinfo=UTC) + timedelta(microseconds=number)
        for number in (0, 1, 999, 999_999)
    ),
]


@pytest.mark.parametrize("timestamp", TIMESTAMPS, ids=str)
def test_the_first_id_of_a_time_is_that_of_the_processes(timestamp: datetime, connect: Connect) -> None:
    (row,) = query(connect(""), "SELECT ops.first_id_at(%s)::text AS id", (timestamp,))
    assert row["id"] == str(first_id_at(timestamp))


def test_a_schema_ops_that_is_there_is_used(empty_database: str) -> None:
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE SCHEMA ops")
        upgrade(empty_database)
        cursor.execute("SELECT count(*) FROM ops.runs_failed")
        assert cursor.fetchone() == (0,)


def test_old_words_are_in_no_comment(connect: Connect) -> None:
    found = query(
        connect(""),
        "SELECT objoid::regclass::text AS name, description FROM pg_description "
        "JOIN pg_class ON pg_class.oid = objoid AND classoid = 'pg_class'::regclass "
        "WHERE relnamespace IN ('public'::regnamespace, 'ops'::regnamespace) "
        r"AND description ~* '\m(moment|was told about|said|says it|stands|asked|settled|moved?|place|state_json)\M'",
    )
    assert found == []
