"""The checks of /readyz: what each finds, that they are bounded in time, and that any number of callers shares one round."""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from structlog.testing import CapturingLogger

from app.core import metrics
from app.core.config import from_environment
from app.core.errors import Unavailable
from app.core.models import PLANS
from app.db import job_queue, startup
from app.db.connection import run_sql
from app.db.job_queue import PRESENCE
from app.db.migrate import upgrade
from app.services import accounts, monitoring, readiness
from app.services.context import AppContext
from app.services.monitoring import Monitor
from app.services.readiness import CheckFailed, Readiness, Report

KEY = Fernet.generate_key().decode()
AN_ALIVE_WORKER = (
    "INSERT INTO workers (id, host, pid, version, started_at, seen_at) "
    "VALUES (gen_random_uuid(), 'h', 1, '1', now(), now()) RETURNING id"
)


def _execute(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


def _context(url: str, key: str = KEY) -> AppContext:
    return AppContext(from_environment({"DATABASE_URL": url, "ENCRYPTION_KEY": key}))


@contextmanager
def _a_worker(url: str) -> Iterator[None]:
    """What a worker does to show that it is alive."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(AN_ALIVE_WORKER)
        (worker,) = cursor.fetchone()
        cursor.execute("SELECT set_config('application_name', %s, false)", (f"{PRESENCE}{worker}",))
        yield


@pytest.fixture
def healthy(empty_database: str) -> Iterator[AppContext]:
    """A database with an account and a worker that lives."""
    upgrade(empty_database)
    context = _context(empty_database)
    accounts.create_account(context, "acme", PLANS["standard"])
    with _a_worker(empty_database):
        yield context
    context.database.close()


def _found(report: Report) -> dict[str, tuple[str, str]]:
    return {check.name: (check.state, check.detail) for check in report.checks}


def test_where_all_is_well_each_check_says_what_it_found(healthy: AppContext) -> None:
    report = Readiness(healthy, lambda: "Redis answers").check()
    found = _found(report)
    assert report.status == "ok"
    assert [*found] == list(readiness.NAMES)
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["workers"][1] == "1 alive"
    assert found["encryption_key"][1] == "1 secrets decrypted"
    assert found["jobs"][1] == "no job is due"


def test_without_postgres_the_other_checks_are_unknown_and_events_cannot_be_stored() -> None:
    report = Readiness(_context("postgresql://nobody@127.0.0.1:1/none")).check()
    found = _found(report)
    assert (report.status, report.can_store) == ("unavailable", False)
    assert found.pop("postgres")[0] == "failing"
    assert set(found.values()) == {("unknown", "not checked")}


@pytest.mark.parametrize(
    ("statement", "name", "detail", "status"),
    [
        (
            "UPDATE alembic_version SET version_num = '0014'",
            "migrations",
            "the database is at migration 0014",
            "unavailable",
        ),
        ("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on", "writable", "read-only", "unavailable"),
        ("UPDATE workers SET stopped_at = now()", "workers", "no worker is alive", "degraded"),
        ("UPDATE workers SET seen_at = now() - interval '2 minutes'", "workers", "no worker is alive", "degraded"),
        (
            "INSERT INTO jobs (kind, payload, due_at) VALUES ('run', '1:2:3', now() - interval '90 seconds')",
            "jobs",
            "the oldest due job is 90 seconds late",
            "degraded",
        ),
    ],
)
def test_what_fails_is_named(healthy: AppContext, statement: str, name: str, detail: str, status: str) -> None:
    _execute(healthy.database.url, statement)
    # Open connections keep the settings of their role.
    fresh = _context(healthy.database.url)
    try:
        report = Readiness(fresh).check()
    finally:
        fresh.database.close()
        _execute(healthy.database.url, "SET transaction_read_only = off; ALTER ROLE CURRENT_USER RESET ALL")
    assert report.status == status
    assert [check.name for check in report.failing] == [name]
    assert detail in report.failing[0].detail


@pytest.mark.parametrize("key", [base64.urlsafe_b64encode(bytes(32)).decode(), ""], ids=["wrong", "missing"])
def test_a_wrong_or_missing_key_is_found_and_events_are_stored_all_the_same(healthy: AppContext, key: str) -> None:
    report = Readiness(_context(healthy.database.url, key)).check()
    assert report.status == "degraded"
    assert [check.name for check in report.failing] == ["encryption_key"]
    assert "ENCRYPTION_KEY" in report.failing[0].detail


def test_an_unused_redis_is_not_checked_and_one_that_is_gone_degrades(healthy: AppContext) -> None:
    def gone() -> str:
        raise CheckFailed("Redis does not answer")

    assert "redis" not in _found(Readiness(healthy).check())
    report = Readiness(healthy, gone).check()
    assert (report.status, _found(report)["redis"]) == ("degraded", ("failing", "Redis does not answer"))


def test_any_number_of_callers_shares_one_round_of_checks(healthy: AppContext) -> None:
    rounds = []
    checks = Readiness(healthy, lambda: rounds.append(1) or "", monotonic=lambda: 7.0)  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(20) as threads:
        reports = list(threads.map(lambda _: checks.check(), range(200)))
    assert len(rounds) == 1
    assert {report.status for report in reports} == {"ok"}


def test_a_report_is_made_again_when_it_is_too_old(healthy: AppContext) -> None:
    rounds, now = [], 7.0
    checks = Readiness(healthy, lambda: rounds.append(1) or "", monotonic=lambda: now)  # type: ignore[func-returns-value]
    checks.check()
    now = 8.9
    checks.check()
    assert len(rounds) == 1
    now = 9.1
    checks.check()
    assert len(rounds) == 2


def test_a_check_that_does_not_end_fails_and_delays_no_caller(
    healthy: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "MAX_WAIT", 0.05)
    monkeypatch.setattr(readiness, "MAX_CHECK", 0.0)
    hangs = threading.Event()

    def hang() -> str:
        hangs.wait(30)
        return "after all"

    checks = Readiness(healthy, hang)
    found = _found(checks.check())
    assert found["redis"][0] == "failing"
    assert re.fullmatch(r"no answer in \d+\.\d seconds", found["redis"][1])
    assert found["postgres"] == ("unknown", "not checked")
    hangs.set()
    monkeypatch.setattr(readiness, "MAX_WAIT", 30)
    assert _found(checks.check())["redis"] == ("ok", "after all")


def test_a_check_that_has_just_begun_when_the_others_took_long_does_not_fail(
    healthy: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "MAX_WAIT", 0.05)
    monkeypatch.setattr(readiness, "MAX_CHECK", 3600.0)
    hangs = threading.Event()
    checks = Readiness(healthy, lambda: str(hangs.wait(30)))
    report = checks.check()
    assert (report.status, _found(report)["redis"]) == ("ok", ("unknown", "not checked"))
    hangs.set()
    monkeypatch.setattr(readiness, "MAX_WAIT", 30)
    assert checks.check().status == "ok"


def test_the_disk_check_needs_no_right(healthy: AppContext) -> None:
    role = f"plain_{os.getpid()}"
    _execute(healthy.database.url, f"CREATE ROLE {role} LOGIN")
    parts = urlsplit(healthy.database.url)
    url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
    checks = Readiness(AppContext(replace(healthy.settings, database_url=url)))
    try:
        found = _found(checks.check())
    finally:
        checks.database.close()
        _execute(healthy.database.url, f"DROP ROLE {role}")
    assert found["disk"] == ("ok", "Postgres can write to its disk")
    assert found["workers"][0] == "failing"


def test_a_role_that_may_not_insert_events_cannot_write(healthy: AppContext) -> None:
    role = f"reader_{os.getpid()}"
    _execute(healthy.database.url, f"CREATE ROLE {role} LOGIN")
    _execute(healthy.database.url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    parts = urlsplit(healthy.database.url)
    url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
    checks = Readiness(AppContext(replace(healthy.settings, database_url=url)))
    try:
        report = checks.check()
        _execute(healthy.database.url, f"GRANT INSERT ON events TO {role}")
        granted = checks.check(max_age=0)
    finally:
        checks.database.close()
        _execute(healthy.database.url, f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert _found(report)["writable"] == ("failing", "the role of DATABASE_URL lacks INSERT on events")
    assert report.status == "unavailable"
    assert _found(granted)["writable"][0] == "ok"
    assert granted.can_store


@pytest.mark.parametrize(
    ("setting", "detail"),
    [("temp_file_limit = '100kB'", "temp_file_limit"), ("statement_timeout = 1", "statement timeout")],
)
def test_what_stops_the_disk_check_and_no_event_is_not_a_full_disk(
    healthy: AppContext, monkeypatch: pytest.MonkeyPatch, setting: str, detail: str
) -> None:
    write = startup.write_temporary_file

    def limited(connection: sa.Connection) -> None:
        run_sql(connection, f"SET LOCAL {setting}")
        write(connection)

    monkeypatch.setattr(startup, "write_temporary_file", limited)
    report = Readiness(healthy).check()
    state, said = _found(report)["disk"]
    assert (report.status, state) == ("ok", "unknown")
    assert detail in said


def test_a_full_disk_is_known_by_its_code(healthy: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(connection: sa.Connection) -> None:
        run_sql(connection, "DO $$ BEGIN RAISE 'kein Platz' USING ERRCODE = '53100'; END $$")

    monkeypatch.setattr(startup, "write_temporary_file", fill)
    report = Readiness(healthy).check()
    assert (report.status, _found(report)["disk"]) == ("unavailable", ("failing", "kein Platz"))


def test_a_slow_disk_check_is_unknown(healthy: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()

    def hang(context: AppContext, connection: object) -> str:
        hangs.wait(30)
        return ""

    monkeypatch.setitem(readiness._PROBES, "disk", hang)
    monkeypatch.setattr(readiness, "MAX_CHECK", 0.0)
    checks = Readiness(healthy)
    report = checks.check()
    hangs.set()
    assert re.fullmatch(r"no answer in \d+\.\d seconds", _found(report)["disk"][1])
    assert (report.can_store, _found(report)["disk"][0]) == (True, "unknown")


def test_the_disk_check_writes_a_temporary_file_and_leaves_nothing(healthy: AppContext) -> None:
    with healthy.database.transaction() as connection:
        startup.write_temporary_file(connection)
        run_sql(connection, "SELECT pg_stat_force_next_flush()")
    with healthy.database.transaction() as connection:
        query = "SELECT temp_files, temp_bytes FROM pg_stat_database WHERE datname = current_database()"
        files, size = run_sql(connection, query).one()
        assert files == 1
        assert 100_000 < size < 2_000_000
        assert run_sql(connection, "SELECT count(*) FROM pg_ls_tmpdir()").scalar() == 0


def test_the_checks_need_no_connection_of_the_pools(healthy: AppContext) -> None:
    small = AppContext(replace(healthy.settings, database_pool=1))
    with small.database.transaction(), small.database.autocommit_connection():
        assert Readiness(small).check().status == "ok"
    small.database.close()


def test_a_server_that_takes_no_connection_since_its_disk_is_full_is_both(
    healthy: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(context: AppContext, connection: object) -> str:
        raise Unavailable("could not write init file: No space left on device")

    monkeypatch.setitem(readiness._PROBES, "postgres", refuse)
    report = Readiness(healthy).check()
    assert [check.name for check in report.failing] == ["postgres", "disk"]


# The monitor


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    capturing = CapturingLogger()
    monkeypatch.setattr(monitoring, "_log", capturing)
    return capturing


def _changes(log: CapturingLogger) -> list[tuple[str, str]]:
    return [(call.method_name, call.args[0]) for call in log.calls]


def test_the_monitor_logs_one_line_when_the_failing_checks_change(
    healthy: AppContext, log: CapturingLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "INTERVAL", 0)
    monitor = Monitor(healthy)
    monitor.refresh()
    assert _changes(log) == []
    _execute(healthy.database.url, "UPDATE workers SET stopped_at = now()")
    monitor.refresh()
    monitor.refresh()
    assert _changes(log) == [("warning", "degraded: checks of /readyz fail")]
    assert log.calls[0].kwargs["failing"] == {"workers": "no worker is alive"}
    _execute(healthy.database.url, "UPDATE alembic_version SET version_num = '0014'")
    monitor.refresh()
    _execute(healthy.database.url, f"UPDATE alembic_version SET version_num = '{readiness.migrate.head()}'")
    with _a_worker(healthy.database.url):
        monitor.refresh()
    assert _changes(log)[1:] == [
        ("error", "events cannot be stored: checks of /readyz fail"),
        ("info", "all checks of /readyz pass again"),
    ]


def _gauge(name: str) -> Callable[..., float]:
    def read(*labels: str) -> float:
        gauge = getattr(metrics, name)
        found: float = (gauge.labels(*labels) if labels else gauge)._value.get()
        return found

    return read


def test_the_monitor_shows_checks_queue_and_partitions_as_gauges(healthy: AppContext) -> None:
    url = healthy.database.url
    _execute(
        url,
        "INSERT INTO jobs (kind, payload, due_at) SELECT 'event', '1:2', now() - number * interval '1 second' "
        "FROM generate_series(40, 42) AS number UNION ALL SELECT 'run', '1:2:3', now() + interval '1 hour' "
        "UNION ALL SELECT 'map', '1:2', now()",
    )
    Monitor(healthy).refresh()
    assert _gauge("workers_alive")() == 1
    assert _gauge("can_store")() == 1
    assert _gauge("check_failing")("workers") == 0
    assert [_gauge("jobs_due")(kind) for kind in job_queue.KINDS] == [0, 3, 0, 0, 1, 0]
    assert 42 <= _gauge("job_lateness")("event") < 60
    assert _gauge("partitions_ahead")() == 3
    assert _gauge("connections_max")("events") == healthy.settings.database_pool
    _execute(url, "UPDATE workers SET stopped_at = now()")
    _execute(url, "UPDATE alembic_version SET version_num = '0014'")
    Monitor(healthy).refresh()
    assert _gauge("can_store")() == 0
    assert (_gauge("check_failing")("workers"), _gauge("check_failing")("migrations")) == (1, 1)


def test_the_due_jobs_are_counted_to_a_limit(healthy: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.job_queue.MAX_COUNTED", 5)
    _execute(
        healthy.database.url,
        "INSERT INTO jobs (kind, payload, due_at) SELECT 'run', '1:2:3', now() FROM generate_series(1, 9)",
    )
    Monitor(healthy).refresh()
    assert _gauge("jobs_due")("run") == 5
