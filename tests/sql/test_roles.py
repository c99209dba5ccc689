"""`signalbox db roles` and `signalbox db password`."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from click.testing import CliRunner, Result
from flask.cli import ScriptInfo
from psycopg2 import errors

from app import create_app
from app.cli.commands import group
from app.db.migrate import upgrade
from app.services import startup_checks
from app.services.context import AppContext
from tests.sql.conftest import NAMES, Connect, query
from tests.support.builders import Sender, a_sender, an_event

Run = Callable[..., Result]
OTHER = f"{NAMES.prefix}_other"


def _run(context: AppContext, line: str, sent: str = "") -> Result:
    flask_app = create_app(context.settings)
    return CliRunner().invoke(group, line.split(), obj=ScriptInfo(create_app=lambda: flask_app), input=sent)


@pytest.fixture
def run(sql_context: AppContext, with_roles: None) -> Run:
    """`run("db roles")` is what a person types after `signalbox`, as the owner of the database."""
    return lambda line, sent="": _run(sql_context, f"{line} --prefix {NAMES.prefix}" if "roles" in line else line, sent)


def _as_role(context: AppContext, role: str) -> AppContext:
    parts = urlsplit(context.settings.database_url)
    url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
    return AppContext(replace(context.settings, database_url=url))


def test_a_second_run_creates_nothing_and_leaves_all_as_it_is(run: Run, connect: Connect) -> None:
    rights = "SELECT relname, relacl::text FROM pg_class UNION ALL SELECT attname, attacl::text FROM pg_attribute ORDER BY 1, 2"
    before = query(connect(""), rights)
    result = run("db roles")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "created" not in result.stdout
    assert "row-level security" not in result.stdout
    assert query(connect(""), rights) == before


def test_it_says_what_it_has_done(run: Run, senders: tuple[Sender, Sender]) -> None:
    lines = run(f"db roles --account {senders[0].slug}").stdout.splitlines()
    name = NAMES.of_account(senders[0].account_id)
    assert f"{NAMES.processes}: reads and writes all tables, also those of later migrations; no DDL" in lines
    assert f"{name}: sees the rows of account {senders[0].account_id} only" in lines


def test_the_role_of_the_processes_accepts_events_and_has_no_ddl(
    sql_context: AppContext, with_roles: None, connect: Connect
) -> None:
    processes = _as_role(sql_context, NAMES.processes)
    startup_checks.check_settings(processes)
    sender = a_sender(processes, create_app(processes.settings).test_client(), "third")
    assert sender.post(an_event()).status_code == 200
    assert query(connect(NAMES.processes), f"SELECT count(*) FROM events WHERE account_id = {sender.account_id}") == [
        {"count": 1}
    ]
    with pytest.raises(errors.InsufficientPrivilege):
        query(connect(NAMES.processes), "CREATE TABLE own (note text)")
    with pytest.raises(errors.InsufficientPrivilege):
        query(connect(NAMES.processes), "ALTER TABLE events DISABLE ROW LEVEL SECURITY")
    with connect("") as owner, owner.cursor() as cursor:
        cursor.execute("DELETE FROM events WHERE account_id = %s", (sender.account_id,))
        cursor.execute("DELETE FROM accounts WHERE id = %s", (sender.account_id,))


def test_people_read_the_rows_of_all_accounts_and_write_none(connect: Connect, senders: tuple[Sender, Sender]) -> None:
    reader = connect(NAMES.read)
    for table in ("events", "runs", "ops.events_recent", "ops.runs_stuck"):
        found = query(reader, f"SELECT DISTINCT account_id FROM {table} ORDER BY 1")
        assert [row["account_id"] for row in found] == [sender.account_id for sender in senders]
    with reader, reader.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
    for statement in (
        "DELETE FROM events",
        "UPDATE jobs SET attempts = 1",
        "TRUNCATE runs",
        "CREATE TABLE own (note text)",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            query(reader, statement)


def test_every_table_and_view_but_partitions_can_be_read(connect: Connect) -> None:
    hidden = query(
        connect(NAMES.read),
        "SELECT relname FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'ops'::regnamespace) "
        "AND relkind IN ('r', 'p', 'v') AND NOT relispartition AND NOT has_any_column_privilege(oid, 'SELECT')",
    )
    assert hidden == []


# Another database


@pytest.fixture
def second(database_url: str) -> Iterator[str]:
    """The URL of a second migrated database on the same server."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE DATABASE {OTHER}")
        try:
            url = urlunsplit(urlsplit(database_url)._replace(path=f"/{OTHER}"))
            upgrade(url)
            yield url
        finally:
            cursor.execute(f"DROP DATABASE {OTHER} WITH (FORCE)")


def test_roles_of_another_database_are_left_alone(second: str, sql_context: AppContext, with_roles: None) -> None:
    context = AppContext(replace(sql_context.settings, database_url=second))
    result = _run(context, f"db roles --prefix {NAMES.prefix}")
    assert result.exit_code == 1
    assert f"belongs to the database {NAMES.prefix} on this server: choose another --prefix" in result.stderr


def test_the_sql_of_a_dry_run_does_the_same(second: str, sql_context: AppContext) -> None:
    context = AppContext(replace(sql_context.settings, database_url=second))
    account = a_sender(context, create_app(context.settings).test_client()).account_id
    line = f"db roles --prefix {OTHER} --account {account}"
    printed = _run(context, f"{line} --dry-run").stdout
    rights = "SELECT relname, relacl::text, relrowsecurity FROM pg_class ORDER BY 1, 2"
    with closing(psycopg2.connect(second)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_roles WHERE starts_with(rolname, %s)", (OTHER,))
        assert cursor.fetchone() == (0,)
        cursor.execute(printed)
        cursor.execute(rights)
        by_hand = cursor.fetchall()
        connection.rollback()
        result = _run(context, line)
        assert result.exit_code == 0, result.output
        cursor.execute(rights)
        assert cursor.fetchall() == by_hand


def test_a_schema_of_another_name_works(empty_database: str, sql_context: AppContext) -> None:
    name = urlsplit(empty_database).path[1:]
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f'CREATE SCHEMA "Own schema"; ALTER DATABASE {name} SET search_path = "Own schema"')
        upgrade(empty_database)
        context = AppContext(replace(sql_context.settings, database_url=empty_database))
        account = a_sender(context, create_app(context.settings).test_client()).account_id
        prefix = f"{NAMES.prefix}_schema"
        try:
            assert _run(context, f"db roles --prefix {prefix} --account {account}").exit_code == 0
            with closing(
                psycopg2.connect(_as_role(context, f"{prefix}_account_{account}").settings.database_url)
            ) as own:
                assert own.cursor().execute("SELECT FROM ops.events_recent, events") is None
        finally:
            cursor.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (prefix,))
            for (role,) in cursor.fetchall():
                cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# What is refused


@pytest.mark.parametrize("prefix", ["x; DROP TABLE runs", 'x"y', "9x", "Signalbox", "x" * 33])
def test_a_prefix_that_is_no_name_is_refused(prefix: str, sql_context: AppContext) -> None:
    flask_app = create_app(sql_context.settings)
    result = CliRunner().invoke(
        group, ["db", "roles", "--prefix", prefix], obj=ScriptInfo(create_app=lambda: flask_app)
    )
    assert (result.exit_code, "is no prefix" in result.stderr) == (1, True)


def test_a_role_that_bypasses_row_level_security_is_refused(
    run: Run, connect: Connect, senders: tuple[Sender, Sender]
) -> None:
    name = NAMES.of_account(senders[0].account_id)
    with connect("") as owner, owner.cursor() as cursor:
        cursor.execute(f"ALTER ROLE {name} BYPASSRLS")
    try:
        result = run(f"db roles --account {senders[0].slug}")
    finally:
        with connect("") as owner, owner.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {name} NOBYPASSRLS")
    assert (result.exit_code, f"{name} is a superuser or has BYPASSRLS" in result.stderr) == (1, True)


def test_a_role_without_createrole_is_sent_to_a_superuser(sql_context: AppContext, with_roles: None) -> None:
    result = _run(_as_role(sql_context, NAMES.processes), "db roles --prefix fresh")
    assert result.exit_code == 1
    assert "permission denied to create role" in result.stderr
    assert "`signalbox db roles --dry-run`" in result.stderr


def test_an_owner_who_is_no_superuser_makes_roles_and_says_what_is_left_out(
    empty_database: str, sql_context: AppContext
) -> None:
    owner, prefix, name = f"{NAMES.prefix}_owner", f"{NAMES.prefix}_plain", urlsplit(empty_database).path[1:]
    context = _as_role(AppContext(replace(sql_context.settings, database_url=empty_database)), owner)
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE ROLE {owner} LOGIN CREATEROLE; ALTER DATABASE {name} OWNER TO {owner}")
        cursor.execute(f"ALTER SCHEMA public OWNER TO {owner}")
        try:
            upgrade(context.settings.database_url)
            account = a_sender(context, create_app(context.settings).test_client()).account_id
            result = _run(context, f"db roles --prefix {prefix} --account {account}")
            assert (result.exit_code, result.stderr) == (0, "")
            assert "no advisory locks and no large objects: left out, which takes a superuser\n" in result.stdout
            with closing(
                psycopg2.connect(_as_role(context, f"{prefix}_account_{account}").settings.database_url)
            ) as own:
                cursor_of_account = own.cursor()
                cursor_of_account.execute("SELECT id FROM accounts")
                assert cursor_of_account.fetchall() == [(account,)]
        finally:
            cursor.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (prefix,))
            for (role,) in cursor.fetchall():
                cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
            cursor.execute(f"REASSIGN OWNED BY {owner} TO current_user; DROP OWNED BY {owner}; DROP ROLE {owner}")


# Passwords


def _is_password(stored: str, password: str) -> bool:
    """Whether `stored` is the SCRAM-SHA-256 hash (RFC 5803) of a password."""
    scheme, rounds_and_salt, keys = stored.split("$")
    rounds, salt = rounds_and_salt.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return scheme == "SCRAM-SHA-256" and base64.b64decode(keys.split(":")[0]) == key


@pytest.mark.parametrize("source", ["standard input", "a file"])
def test_a_password_is_stored_as_its_hash(source: str, run: Run, connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"hush of {source}\nsecond line\n")
    text = file.read_text()
    line = f"db password {NAMES.read}"
    result = run(line, text) if source == "standard input" else run(f"{line} {file}")
    assert (result.exit_code, result.stdout) == (0, f"{NAMES.read}: the password is set\n")
    (row,) = query(connect(""), f"SELECT rolpassword FROM pg_authid WHERE rolname = '{NAMES.read}'")
    assert _is_password(row["rolpassword"], f"hush of {source}")


def test_only_roles_that_were_made_get_a_password(run: Run) -> None:
    for role in ("postgres", "nobody"):
        result = run(f"db password {role}", "hush\n")
        assert (result.exit_code, "is no role that" in result.stderr) == (1, True)


def test_an_empty_password_is_refused(run: Run) -> None:
    assert run(f"db password {NAMES.read}", "\n").stderr == "Error: the password is empty\n"
