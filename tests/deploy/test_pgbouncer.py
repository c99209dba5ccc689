"""The product through PgBouncer: docs/deploying.md says in which mode it works, and what fails in the other one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from cryptography.fernet import Fernet
from psycopg2.extensions import parse_dsn

from app.cli.devserver.child_process import end_all, start_program
from app.core.errors import Unavailable
from app.db import workers
from app.db.connection import Database
from app.db.migrate import upgrade
from app.services import workflows
from app.services.context import AppContext
from tests.support.action_contexts import the_settings
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.polling import until
from tests.support.server import ROOT, START_TIMEOUT, clean_environment, running_server

TIMEOUT = 60
EVENTS = 100
CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 60
{more}
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _server_of(dsn: dict[str, str]) -> str:
    return " ".join(f"{name}={dsn[name]}" for name in ("host", "port", "user", "password") if dsn.get(name))


def _user_of(host: str) -> list[str]:
    """PgBouncer does not run as root: then it runs as the owner of the server's socket."""
    if os.geteuid() != 0:
        return []
    uid = os.stat(host).st_uid if host.startswith("/") else 0
    return ["--user", pwd.getpwuid(uid or 65534).pw_name]


@contextmanager
def _pooler(url: str, mode: str, more: str = "ignore_startup_parameters = options") -> Iterator[str]:
    """A PgBouncer in front of the server of `url`; the URL of the same database through it."""
    binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert binary, "PgBouncer is not installed; this test needs it (apt install pgbouncer)"
    dsn, port = parse_dsn(url), _free_port()
    with tempfile.TemporaryDirectory(prefix="signalbox-pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(CONFIGURATION.format(server=_server_of(dsn), port=port, mode=mode, more=more))
        command = [binary, "--quiet", *_user_of(dsn["host"]), str(configuration)]
        program = start_program(command, death_signal=signal.SIGKILL, env=clean_environment())
        try:
            pooled = f"postgresql://{dsn['user']}@127.0.0.1:{port}/{dsn['dbname']}"
            until(lambda: program.poll() is not None or _listens(port), timeout=START_TIMEOUT)
            assert program.poll() is None
            yield pooled
        finally:
            end_all([program], signal.SIGTERM, 10)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _settings(url: str) -> dict[str, str]:
    return {"DATABASE_URL": url, "ENCRYPTION_KEY": Fernet.generate_key().decode()}


@contextmanager
def _context(environment: dict[str, str]) -> Iterator[AppContext]:
    keys = (environment["ENCRYPTION_KEY"],)
    context = AppContext(replace(the_settings(), database_url=environment["DATABASE_URL"], encryption_keys=keys))
    yield context
    context.database.close()


def _post_many(sender: Sender) -> list[int]:
    """The statuses of concurrent events."""

    def post(number: int) -> int:
        return sender.post(an_event(distinct_id=f"person-{number}")).status_code

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(post, range(EVENTS)))


def _count(context: AppContext, query: str) -> int:
    with context.database.transaction() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


def test_in_session_mode_tables_are_made_events_stored_and_runs_executed(empty_database: str) -> None:
    with _pooler(empty_database, "session") as pooled:
        upgrade(pooled)
        environment = _settings(pooled)
        with _context(environment) as context, running_server(**environment) as server:
            sender = a_sender(context, server)
            workflows.apply_workflow(context, sender.account_id, a_workflow())
            assert set(_post_many(sender)) == {200}
            worker = start_program(
                [sys.executable, "-m", "app.cli", "worker"],
                death_signal=signal.SIGKILL,
                cwd=ROOT,
                env=clean_environment(**environment),
            )
            try:
                until(lambda: _count(context, "SELECT count(*) FROM runs WHERE status = 'done'") == EVENTS)
                with context.database.transaction() as connection:
                    assert workers.count_alive(connection) == 1
            finally:
                end_all([worker], signal.SIGKILL, 10)


def test_in_transaction_mode_an_event_that_is_not_answered_503_is_stored_once(empty_database: str) -> None:
    upgrade(empty_database)
    environment = _settings(empty_database)
    with _pooler(empty_database, "transaction") as pooled, _context(environment) as context:
        with running_server(**{**environment, "DATABASE_URL": pooled}) as server:
            sender = a_sender(context, server)
            statuses = _post_many(sender)
        assert set(statuses) <= {200, 503}
        assert _count(context, "SELECT count(*) FROM events") == statuses.count(200)


def test_people_may_query_in_transaction_mode(empty_database: str) -> None:
    upgrade(empty_database)
    with _pooler(empty_database, "transaction") as pooled, closing(psycopg2.connect(pooled)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM ops.events_recent")
        assert cursor.fetchone() == (0,)


def test_without_its_setting_a_pooler_refuses_the_connections_and_says_why(empty_database: str) -> None:
    with _pooler(empty_database, "session", more="") as pooled:
        settings = replace(the_settings(), database_url=pooled)
        with closing(Database(settings)) as database, pytest.raises(Unavailable) as caught:
            database.execute("SELECT 1", ())
        assert "unsupported startup parameter: options" in str(caught.value.__cause__ or caught.value)
