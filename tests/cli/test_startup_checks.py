"""A process whose settings do not fit the database ends with one line, before it serves or works."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from cryptography.fernet import Fernet
from structlog.testing import CapturingLogger

from app import create_app
from app.core import config
from app.core.config import SettingsError
from app.core.errors import Unavailable
from app.core.models import PLANS
from app.db.migrate import upgrade
from app.services import accounts, integrations, startup_checks
from app.services.context import AppContext
from tests.support.server import clean_environment, running_redis, running_server

ROOT = Path(__file__).resolve().parents[2]
KEY, OTHER_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()
WORKER = (sys.executable, "-m", "app.cli", "worker")
GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "wsgi:app")
ACCOUNT = (sys.executable, "-m", "app.cli", "account", "create", "initech")


def _context(url: str, keys: str = KEY) -> AppContext:
    return AppContext(config.from_environment({"DATABASE_URL": url, "ENCRYPTION_KEY": keys}))


def _execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)


def _database(url: str, name: str, role: str | None = None) -> str:
    parts = urlsplit(url)
    netloc = parts.netloc if role is None else f"{role}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{name}"))


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[str]:
    """A database with an account, whose secret is encrypted with KEY."""
    name = f"startup_{os.getpid()}"
    _execute(database_url, f"CREATE DATABASE {name}")
    url = _database(database_url, name)
    upgrade(url)
    accounts.create_account(_context(url), "acme", PLANS["standard"])
    _execute(url, "CREATE ROLE reads_only LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reads_only")
    _execute(url, "CREATE ROLE has_nothing LOGIN")
    _execute(
        url, "CREATE ROLE is_read_only LOGIN SUPERUSER; ALTER ROLE is_read_only SET default_transaction_read_only = on"
    )
    yield url
    _execute(url, "DROP OWNED BY reads_only")
    _execute(database_url, f"DROP DATABASE {name} WITH (FORCE)")
    _execute(database_url, "DROP ROLE reads_only, has_nothing, is_read_only")


def _run(program: tuple[str, ...], **settings: str) -> subprocess.CompletedProcess[str]:
    """The program, which has to end by itself."""
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port = trial.getsockname()[1]
    environment = clean_environment(**{"BIND": f"127.0.0.1:{port}", **settings})
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _check_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("program", [WORKER, GUNICORN, ACCOUNT], ids=["worker", "web", "command"])
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "ENCRYPTION_KEY is not set"),
        (OTHER_KEY, "ENCRYPTION_KEY is not the key with which the secrets in the database are encrypted"),
    ],
    ids=["missing", "wrong"],
)
def test_a_missing_or_wrong_key_is_one_line(database: str, program: tuple[str, ...], key: str, message: str) -> None:
    _check_line(_run(program, DATABASE_URL=database, ENCRYPTION_KEY=key), message)
    assert [row.slug for row in accounts.list_accounts(_context(database), limit=10)] == ["acme"]


@pytest.mark.parametrize("program", [WORKER, GUNICORN], ids=["worker", "web"])
@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("reads_only", "DATABASE_URL cannot be used: its role lacks INSERT on "),
        ("has_nothing", "DATABASE_URL cannot be used: permission denied for table alembic_version"),
        ("is_read_only", "DATABASE_URL cannot be used: its role or database is read-only"),
        ("nobody_at_all", "DATABASE_URL cannot be used: "),
    ],
)
def test_a_role_that_cannot_write_is_one_line(database: str, program: tuple[str, ...], role: str, message: str) -> None:
    url = _database(database, urlsplit(database).path[1:], role)
    _check_line(_run(program, DATABASE_URL=url, ENCRYPTION_KEY=KEY), message)


def test_a_command_without_a_right_is_one_line(database: str) -> None:
    url = _database(database, urlsplit(database).path[1:], "has_nothing")
    done = _run((*ACCOUNT[:-2], "list"), DATABASE_URL=url, ENCRYPTION_KEY=KEY)
    _check_line(done, "the role of DATABASE_URL lacks a right: permission denied for table accounts")


def test_a_database_that_does_not_exist_is_one_line(database: str) -> None:
    done = _run(WORKER, DATABASE_URL=_database(database, "nowhere"), ENCRYPTION_KEY=KEY)
    _check_line(done, "DATABASE_URL cannot be used: connection to server")
    assert 'database "nowhere" does not exist' in done.stderr


def test_a_host_that_does_not_exist_is_one_line() -> None:
    done = _run(WORKER, DATABASE_URL="postgresql://a@nowhere.invalid/d", ENCRYPTION_KEY=KEY)
    _check_line(done, 'DATABASE_URL cannot be used: could not translate host name "nowhere.invalid"')


def test_a_worker_without_a_migration_is_one_line(empty_database: str) -> None:
    done = _run(WORKER, DATABASE_URL=empty_database, ENCRYPTION_KEY=KEY)
    _check_line(done, "the database is not up to date, run `")


def test_a_port_of_metrics_that_is_taken_is_one_line(database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = _run(WORKER, DATABASE_URL=database, ENCRYPTION_KEY=KEY, WORKER_METRICS_PORT=port)
    _check_line(done, f"WORKER_METRICS_PORT={port} cannot be used on 127.0.0.1: Address already in use")


@pytest.mark.parametrize("program", [WORKER, GUNICORN, ACCOUNT], ids=["worker", "web", "command"])
def test_a_missing_metrics_folder_is_one_line(database: str, program: tuple[str, ...], tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    done = _run(program, DATABASE_URL=database, ENCRYPTION_KEY=KEY, PROMETHEUS_MULTIPROC_DIR=missing)
    _check_line(done, f"PROMETHEUS_MULTIPROC_DIR='{missing}' cannot be used: expected a folder that exists")


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("127.0.0.1:99999", "BIND='127.0.0.1:99999' cannot be used: expected a port from 1 to 65535\n"),
        ("[::1]:0", "BIND='[::1]:0' cannot be used: expected a port from 1 to 65535\n"),
        ("unix:/nowhere/socket", "BIND='unix:/nowhere/socket' cannot be used: its folder does not exist"),
    ],
)
def test_an_address_that_cannot_be_listened_at_is_one_line(bind: str, message: str) -> None:
    done = _run(GUNICORN, DATABASE_URL="postgresql://a@127.0.0.1:1/d", BIND=bind)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_database_that_redis_refuses_is_one_line(database: str) -> None:
    with running_redis() as redis:
        done = _run(GUNICORN, DATABASE_URL=database, ENCRYPTION_KEY=KEY, REDIS_URL=f"{redis.url}?db=99")
    _check_line(done, "REDIS_URL cannot be used: DB index is out of range")


def test_a_web_process_starts_while_the_database_and_redis_are_gone() -> None:
    settings = {"DATABASE_URL": "postgresql://a@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1/0"}
    with running_server(healthy=False, **settings) as server:
        assert server.open("/health").status_code == 503


# What fits


def test_the_previous_key_may_be_the_second_one(database: str) -> None:
    startup_checks.check_settings(_context(database, f"{OTHER_KEY},{KEY}"))


def test_a_database_without_accounts_fits_every_key(empty_database: str) -> None:
    upgrade(empty_database)
    for keys in (KEY, OTHER_KEY, ""):
        startup_checks.check_settings(_context(empty_database, keys))


def test_some_secrets_that_cannot_be_decrypted_stop_nobody(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr("app.services.startup_checks._log", log)
    upgrade(empty_database)
    accounts.create_account(_context(empty_database), "acme", PLANS["standard"])
    accounts.create_account(_context(empty_database, f"{OTHER_KEY},{KEY}"), "globex", PLANS["standard"])
    startup_checks.check_settings(_context(empty_database))
    assert [(call.method_name, call.kwargs) for call in log.calls] == [("warning", {"failed": 1, "tried": 2})]


def test_a_wrong_key_stores_no_secret(database: str) -> None:
    other = _context(database, OTHER_KEY)
    with pytest.raises(SettingsError, match="ENCRYPTION_KEY is not the key"):
        integrations.set_integration(other, 1, integrations.find_kind("twilio"), {"account_sid": "AC1"})
    assert integrations.list_integrations(_context(database), 1) == []


def test_a_database_that_comes_later_is_checked_by_health(database: str) -> None:
    settings = {"DATABASE_URL": database, "ENCRYPTION_KEY": OTHER_KEY, "LOG_LEVEL": "error"}
    answer = create_app(config.from_environment(settings)).test_client().get("/health")
    assert answer.status_code == 503
    assert answer.get_json()["detail"] == "A setting of the server does not fit the database; its log says which."


def test_the_check_is_not_repeated_once_it_has_passed(database: str) -> None:
    context = _context(database)
    with pytest.raises(Unavailable):
        startup_checks.check_settings(_context("postgresql://a@127.0.0.1:1/d"))
    startup_checks.check_settings(context)
    context.database.close()
    context.settings = config.from_environment({"DATABASE_URL": "postgresql://a@127.0.0.1:1/d"})
    startup_checks.check_settings(context)
