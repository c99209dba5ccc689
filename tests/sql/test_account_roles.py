"""The role of an account sees the rows of its account only, whatever it tries."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg2 import errors
from psycopg2.extensions import connection as Connection

from app.core.errors import Problem
from app.db.roles import SECRET_COLUMNS
from app.services import roles
from app.services.context import AppContext
from tests.sql.conftest import NAMES, Connect, query
from tests.support.builders import Sender

# bytea columns that are no secrets: what senders sent, its hash, and the hashes in receipts.
HARMLESS = {("idempotency_keys", "digest"), ("refusals", "body"), ("erasure_receipts", "subject_hash")}
HARMLESS |= {("deliveries", "body"), ("stored_answers", "request_digest")}
TABLES = """
SELECT relname AS name, relispartition AS is_partition, has_any_column_privilege(%s, pg_class.oid, 'SELECT') AS is_granted,
    EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'account_id') AS has_account
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S', 'v', 'm') ORDER BY relname
"""


@pytest.fixture
def owner(connect: Connect) -> Connection:
    return connect("")


@pytest.fixture
def acme(connect: Connect, senders: tuple[Sender, Sender]) -> Connection:
    """A connection as the role of the account acme, which has undone what it can of its limits."""
    connection = connect(NAMES.of_account(senders[0].account_id))
    with connection, connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off; SET statement_timeout = 0")
    return connection


@pytest.fixture
def own(senders: tuple[Sender, Sender]) -> int:
    return senders[0].account_id


@pytest.fixture
def other(senders: tuple[Sender, Sender]) -> int:
    """The id of globex, whose rows acme must never see."""
    return senders[1].account_id


def denied(connection: Connection, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        query(connection, statement)


@contextmanager
def temporary_objects(owner: Connection, role: str) -> Iterator[None]:
    """What somebody may do to a role: allow it temporary tables and functions."""
    with owner, owner.cursor() as cursor:
        cursor.execute(f"GRANT TEMPORARY ON DATABASE {NAMES.prefix} TO {role}")
    try:
        yield
    finally:
        with owner, owner.cursor() as cursor:
            cursor.execute(f"REVOKE TEMPORARY ON DATABASE {NAMES.prefix} FROM {role}")


# Tables, partitions and views


def test_a_table_shows_the_own_rows_and_other_relations_nothing(owner: Connection, acme: Connection, own: int) -> None:
    granted = 0
    for table in query(owner, TABLES, (NAMES.of_account(own),)):
        if table["is_granted"]:
            granted += 1
            column = "id" if table["name"] == "accounts" else "account_id"
            found = query(acme, f"SELECT DISTINCT {column} AS account FROM {table['name']}")
            assert {row["account"] for row in found} <= {own}, table["name"]
            assert not table["is_partition"]
        else:
            denied(acme, f"SELECT FROM {table['name']}")
            assert table["is_partition"] or not table["has_account"], f"{table['name']} is not granted"
    assert granted >= 25


@pytest.mark.parametrize("table", ["accounts", "events", "runs", "steps", "attempts", "workflows", "progress", "keys"])
def test_an_account_sees_its_rows(table: str, acme: Connection) -> None:
    assert query(acme, f"SELECT count(*) FROM {table}") != [{"count": 0}]


def test_partitions_are_not_read_by_their_own_names(owner: Connection, acme: Connection) -> None:
    partitions = query(
        owner, "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'events'::regclass"
    )
    assert len(partitions) == 5
    for partition in partitions:
        denied(acme, f"SELECT FROM {partition['name']}")
        denied(acme, f"COPY {partition['name']} TO STDOUT")


def test_a_view_shows_the_own_rows_or_nothing(owner: Connection, acme: Connection, own: int) -> None:
    views = query(owner, "SELECT viewname AS name FROM pg_views WHERE schemaname = 'ops'")
    hidden = set()
    for view in views:
        try:
            rows = query(acme, f"SELECT * FROM ops.{view['name']}")
        except errors.InsufficientPrivilege:
            hidden.add(view["name"])
        else:
            assert {row.get("account_id", own) for row in rows} <= {own}, view["name"]
    assert hidden == {"backlog", "runs_stuck", "table_growth", "table_sizes"} | {"workers"} & {
        view["name"] for view in views
    }


@pytest.mark.parametrize(
    ("table", "column"), [(table, name) for table, names in SECRET_COLUMNS.items() for name in sorted(names)]
)
def test_people_do_not_read_secrets(table: str, column: str, connect: Connect, acme: Connection) -> None:
    for connection in (acme, connect(NAMES.read)):
        denied(connection, f"SELECT {column} FROM {table}")
        denied(connection, f"SELECT * FROM {table}")
        denied(connection, f"SELECT {table} FROM {table}")
        denied(connection, f"SELECT FROM {table} WHERE {column} IS NOT NULL")


def test_every_column_of_bytes_or_hashes_is_secret_or_known_to_be_harmless(owner: Connection) -> None:
    found = query(
        owner,
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition "
        "AND (atttypid = 'bytea'::regtype OR attname LIKE '%hash')",
    )
    secret = {(table, name) for table, names in SECRET_COLUMNS.items() for name in names}
    assert secret <= {(row["relname"], row["attname"]) for row in found} <= secret | HARMLESS


# Becoming somebody else


def test_no_other_role_can_be_taken(owner: Connection, acme: Connection, other: int) -> None:
    (row,) = query(owner, "SELECT current_user AS name")
    for role in (NAMES.of_account(other), NAMES.read, NAMES.processes, row["name"]):
        denied(acme, f"SET ROLE {role}")
        denied(acme, f"SELECT set_config('role', '{role}', false)")
        denied(acme, f"SET SESSION AUTHORIZATION {role}")


def test_the_group_of_all_accounts_sees_nothing(acme: Connection) -> None:
    assert query(acme, f"SET ROLE {NAMES.accounts}; SELECT count(*) FROM events") == [{"count": 0}]
    assert query(acme, f"SET ROLE {NAMES.accounts}; SELECT count(*) FROM accounts") == [{"count": 0}]


@pytest.mark.parametrize("name", ["signalbox.account", "signalbox.account_id", "app.account_id", "session.account"])
def test_no_setting_changes_the_account(name: str, acme: Connection, own: int, other: int) -> None:
    found = query(acme, f"SELECT set_config('{name}', '{other}', false); SELECT DISTINCT account_id FROM events")
    assert found == [{"account_id": own}]


def test_row_level_security_cannot_be_switched_off(acme: Connection) -> None:
    denied(acme, "SET row_security = off; SELECT FROM events")
    denied(acme, "ALTER TABLE events DISABLE ROW LEVEL SECURITY")
    denied(acme, f"DROP POLICY {NAMES.accounts} ON events")
    denied(acme, "CREATE POLICY mine ON events USING (true)")
    denied(acme, f"ALTER ROLE {NAMES.accounts} BYPASSRLS")


def test_a_role_that_does_not_inherit_the_group_sees_nothing(owner: Connection, connect: Connect, other: int) -> None:
    role = f"{NAMES.prefix}_loose_{other}"
    with owner, owner.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN NOINHERIT; GRANT {NAMES.accounts} TO {role}")
    denied(connect(role), "SELECT FROM events")
    assert query(connect(role), f"SET ROLE {NAMES.accounts}; SELECT count(*) FROM events") == [{"count": 0}]


# Functions and operators that see rows before the policy does

LEAK = """
CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN RAISE NOTICE 'leaked %%', $1; RETURN true; END $$;
SET client_min_messages = notice;
"""
LEAKING = (
    "SELECT FROM accounts WHERE pg_temp.leak(slug)",
    "SELECT FROM events WHERE pg_temp.leak(account_id || ':' || event)",
    "SELECT FROM events JOIN accounts ON accounts.id = events.account_id WHERE pg_temp.leak(slug)",
    "SELECT FROM ops.events_recent WHERE pg_temp.leak(account)",
    "SELECT FROM ops.runs_waiting WHERE pg_temp.leak(account)",
    "SELECT FROM ops.usage_by_account WHERE pg_temp.leak(account)",
    "SELECT FROM workflows ORDER BY pg_temp.leak(account_id || ':' || name)",
)


@pytest.mark.parametrize("statement", LEAKING)
def test_a_function_with_side_effects_sees_no_other_row(
    statement: str, owner: Connection, acme: Connection, senders: tuple[Sender, Sender]
) -> None:
    mine, others = senders
    with temporary_objects(owner, NAMES.of_account(mine.account_id)):
        acme.notices.clear()
        query(acme, LEAK.replace("%%", "%") + statement)
        query(acme, LEAK.replace("%%", "%") + "EXPLAIN ANALYZE " + statement)
    said = " ".join(acme.notices)
    assert f"leaked {mine.slug}" in said or f"leaked {mine.account_id}:" in said
    assert f"leaked {others.slug}" not in said
    assert f"leaked {others.account_id}:" not in said


@pytest.mark.parametrize(
    "condition", ["1 / (account_id - {other}) = 1", "(CASE WHEN account_id = {other} THEN 'x' ELSE '1' END)::int = 1"]
)
@pytest.mark.parametrize("table", ["events", "runs", "workflows", "ops.runs_failed"])
def test_an_error_says_nothing_about_other_rows(table: str, condition: str, acme: Connection, other: int) -> None:
    query(acme, f"SELECT FROM {table} WHERE {condition.format(other=other)}")


def test_functions_with_the_rights_of_the_owner_cannot_be_called(acme: Connection, own: int) -> None:
    callable_ones = query(
        acme,
        "SELECT proname FROM pg_proc WHERE pronamespace IN ('public'::regnamespace, 'ops'::regnamespace) AND prosecdef "
        "AND has_function_privilege(oid, 'EXECUTE')",
    )
    assert callable_ones == []
    denied(acme, "SELECT make_events_partitions('{2040-01-01}')")
    denied(acme, "SELECT clear_events_default(now())")


# COPY, temporary tables, new objects


@pytest.mark.parametrize("source", ["events", "ops.events_recent"])
def test_copy_writes_the_own_rows_only(source: str, acme: Connection, own: int) -> None:
    written = io.StringIO()
    with acme.cursor() as cursor:
        cursor.copy_expert(f"COPY (SELECT account_id FROM {source}) TO STDOUT", written)
        assert set(written.getvalue().split()) == {str(own)}
        # Of a partitioned table by its name, Postgres copies nothing under row-level security.
        cursor.copy_expert("COPY events (account_id) TO STDOUT", written)
        cursor.copy_expert("COPY runs (account_id) TO STDOUT", written)
    acme.rollback()
    assert set(written.getvalue().split()) == {str(own)}


def test_copy_neither_reads_nor_writes_files(acme: Connection) -> None:
    denied(acme, "COPY events TO '/tmp/events'")
    denied(acme, "COPY events TO PROGRAM 'cat'")
    denied(acme, "COPY events FROM STDIN")
    denied(acme, "SELECT pg_read_file('/etc/passwd')")


def test_nothing_can_be_created(acme: Connection) -> None:
    denied(acme, "CREATE TEMPORARY TABLE mine AS SELECT * FROM events")
    denied(acme, "CREATE TABLE mine (account_id bigint)")
    denied(acme, "CREATE VIEW ops.mine AS SELECT * FROM events")
    denied(acme, "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    denied(acme, "CREATE SCHEMA mine")
    denied(acme, "CREATE ROLE mine")


def test_a_schema_in_which_everybody_may_create_is_closed(
    sql_context: AppContext, connect: Connect, owner: Connection, acme: Connection
) -> None:
    with owner, owner.cursor() as cursor:
        cursor.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    list(roles.make_roles(sql_context, NAMES.prefix, roles.plan_roles(sql_context, NAMES.prefix, [])))
    for connection in (acme, connect(NAMES.processes)):
        denied(connection, "CREATE TABLE public.mine (account_id bigint)")
    query(owner, "CREATE TABLE public.mine (account_id bigint)")


def test_temporary_tables_of_the_same_name_change_no_view(
    owner: Connection, acme: Connection, own: int, other: int
) -> None:
    shadow = (
        "CREATE TEMPORARY TABLE accounts AS SELECT id, slug FROM public.accounts; "
        f"INSERT INTO pg_temp.accounts VALUES ({other}, 'shadow'); "
    )
    with temporary_objects(owner, NAMES.of_account(own)):
        with pytest.raises(errors.InvalidTableDefinition, match="temporary tables may reference only temporary"):
            query(acme, "CREATE TEMPORARY TABLE probe (id bigint REFERENCES public.accounts)")
        for view in ("events_recent", "runs_failed", "usage_by_account"):
            rows = query(acme, f"{shadow}SET search_path = pg_temp, public; SELECT DISTINCT account_id FROM ops.{view}")
            assert rows == [{"account_id": own}]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO workflow_triggers (account_id, event, workflow_id, version) VALUES ({other}, 'e', gen_random_uuid(), 1)",
        "INSERT INTO accounts (slug, plan, signing_secret) VALUES ('x', 'trial', '')",
        "UPDATE events SET event = 'x'",
        "DELETE FROM runs",
        "TRUNCATE events",
        "SELECT FROM events FOR UPDATE",
        "LOCK TABLE events IN ACCESS EXCLUSIVE MODE",
    ],
)
def test_nothing_can_be_written_or_locked(statement: str, acme: Connection, other: int) -> None:
    denied(acme, statement.format(other=other))


@pytest.mark.parametrize(
    "call",
    [
        "pg_advisory_lock(1)",
        "pg_advisory_xact_lock(hashtext('signalbox migrations'))",
        "pg_try_advisory_lock_shared(1, 2)",
        "lo_create(0)",
        "lo_from_bytea(0, '')",
        "pg_logical_emit_message(false, 'any', 'noise')",
        "pg_logical_emit_message(true, 'any', 'noise')",
    ],
)
def test_neither_the_locks_of_the_processes_nor_the_disk_can_be_taken(
    call: str, connect: Connect, acme: Connection
) -> None:
    denied(acme, f"SELECT {call}")
    if "advisory" in call:
        query(connect(NAMES.processes), f"SELECT {call}")


def test_the_size_of_temporary_files_is_limited(acme: Connection) -> None:
    assert query(acme, "SHOW temp_file_limit") == [{"temp_file_limit": "1GB"}]
    denied(acme, "SET temp_file_limit = -1")


def test_a_session_is_read_only_and_ends_long_statements(connect: Connect, own: int) -> None:
    found = query(
        connect(NAMES.of_account(own)),
        "SELECT current_setting('transaction_read_only') AS read_only, current_setting('statement_timeout') AS timeout, "
        "(SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS connections",
    )
    assert found == [{"read_only": "on", "timeout": "1min", "connections": 5}]


# The catalog


def test_sequences_are_hidden(acme: Connection) -> None:
    for sequence in ("accounts_id_seq", "jobs_id_seq"):
        denied(acme, f"SELECT last_value FROM {sequence}")
        denied(acme, f"SELECT nextval('{sequence}')")
    assert query(acme, "SELECT sequencename FROM pg_sequences WHERE last_value IS NOT NULL") == []


def test_statistics_of_the_tables_are_hidden(owner: Connection, acme: Connection) -> None:
    with owner, owner.cursor() as cursor:
        cursor.execute("ANALYZE")
    assert query(owner, "SELECT tablename FROM pg_stats WHERE schemaname = 'public' AND tablename ~ '^events'") != []
    assert query(acme, "SELECT * FROM pg_stats WHERE schemaname = 'public'") == []
    denied(acme, "SELECT FROM pg_statistic")


def test_statements_of_others_are_hidden(owner: Connection, acme: Connection) -> None:
    with owner.cursor() as cursor:
        cursor.execute("SELECT 'a secret of the owner'")
    found = query(acme, "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query ~ 'secret of the'")
    owner.rollback()
    assert found == []


def test_plans_have_no_values_of_other_accounts(acme: Connection, senders: tuple[Sender, Sender]) -> None:
    for statement in ("SELECT * FROM accounts", "SELECT * FROM events WHERE event >= 'a'", "SELECT * FROM ops.latency"):
        statement = statement.replace("* FROM accounts", "slug FROM accounts")
        plan = str(query(acme, f"EXPLAIN (ANALYZE, VERBOSE) {statement}"))
        assert senders[1].slug not in plan
        assert NAMES.of_account(senders[1].account_id) not in plan


# What others do


def test_a_new_table_is_hidden_until_it_has_a_policy(
    sql_context: AppContext, owner: Connection, acme: Connection, own: int, other: int
) -> None:
    with owner, owner.cursor() as cursor:
        cursor.execute("CREATE TABLE later (account_id bigint)")
        cursor.execute(f"INSERT INTO later VALUES ({own}), ({other})")
    try:
        denied(acme, "SELECT FROM later")
        changes = roles.plan_roles(sql_context, NAMES.prefix, [])
        list(roles.make_roles(sql_context, NAMES.prefix, changes))
        assert query(acme, "SELECT account_id FROM later") == [{"account_id": own}]
    finally:
        with owner, owner.cursor() as cursor:
            cursor.execute("DROP TABLE later")


def test_a_grant_to_everybody_is_found(sql_context: AppContext, owner: Connection) -> None:
    for table in ("events_default", "jobs"):
        with owner, owner.cursor() as cursor:
            cursor.execute(f"GRANT SELECT ON {table} TO PUBLIC")
        try:
            with pytest.raises(Problem, match=f"can read all rows of {table}"):
                list(roles.make_roles(sql_context, NAMES.prefix, []))
        finally:
            with owner, owner.cursor() as cursor:
                cursor.execute(f"REVOKE SELECT ON {table} FROM PUBLIC")


def test_a_new_partition_is_hidden(sql_context: AppContext, owner: Connection, acme: Connection) -> None:
    with owner, owner.cursor() as cursor:
        cursor.execute("SELECT make_events_partitions('{2040-01-01}')")
    denied(acme, "SELECT FROM events_2040_01")
    with owner, owner.cursor() as cursor:
        cursor.execute("DROP TABLE events_2040_01")
