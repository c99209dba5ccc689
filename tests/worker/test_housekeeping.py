"""The tasks of housekeeping are independent: one that fails is logged and counted, and the others run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from structlog.testing import CapturingLogger

from app.core import metrics
from app.core.errors import Unavailable
from app.db import table_sizes
from app.db.connection import run_sql
from app.db.migrate import upgrade
from app.services.context import AppContext
from app.worker import housekeeping
from app.worker.housekeeping import sweep
from tests.support.action_contexts import the_settings

NOW = datetime(2031, 7, 10, 12, tzinfo=UTC)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """What the sweep logs."""
    capturing = CapturingLogger()
    monkeypatch.setattr(housekeeping, "_log", capturing)
    return capturing


def _failures(task: str) -> float:
    found: float = metrics.housekeeping_failures.labels(task)._value.get()
    return found


def _divide_by_zero(connection: sa.Connection, now: datetime) -> None:
    run_sql(connection, "SELECT 1 / 0")


def _wait_for_a_lock(connection: sa.Connection, now: datetime) -> None:
    run_sql(connection, "SET LOCAL lock_timeout = '1ms'")
    run_sql(connection, "LOCK TABLE accounts")


def _fail(connection: sa.Connection, now: datetime) -> None:
    raise ValueError("915673412780 is not valid")


@pytest.mark.parametrize("failing", [_divide_by_zero, _wait_for_a_lock, _fail])
def test_a_task_that_fails_is_logged_and_counted_once_and_stops_no_other(
    context: AppContext,
    log: CapturingLogger,
    monkeypatch: pytest.MonkeyPatch,
    failing: Callable[[sa.Connection, datetime], None],
) -> None:
    done: list[str] = []

    def note(connection: sa.Connection, now: datetime) -> None:
        done.append("noted")

    monkeypatch.setattr(housekeeping, "TASKS", (failing, note))
    before = _failures(failing.__name__)
    with closing(psycopg2.connect(context.database.url)) as other:
        other.cursor().execute("LOCK TABLE accounts IN ACCESS SHARE MODE")
        sweep(context)
    assert done == ["noted"]
    assert _failures(failing.__name__) == before + 1
    (call,) = log.calls
    assert (call.method_name, call.args, call.kwargs["task"]) == (
        "error",
        ("a housekeeping task failed",),
        failing.__name__,
    )
    assert "\n" not in call.kwargs["error"]
    assert "915673412780" not in str(call)


def test_a_task_has_a_time_out_of_its_own(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def note(connection: sa.Connection, now: datetime) -> None:
        found.append(run_sql(connection, "SHOW statement_timeout").scalar())

    monkeypatch.setattr(housekeeping, "TASKS", (note,))
    sweep(context)
    assert context.settings.statement_timeout == 5
    assert found == ["30s"]


def test_while_postgres_is_gone_the_sweep_ends_at_its_first_task(log: CapturingLogger) -> None:
    gone = AppContext(replace(the_settings(), database_url="postgresql://nobody@127.0.0.1:1/none"))
    with pytest.raises(Unavailable):
        sweep(gone)
    assert log.calls == []


def test_a_filled_default_partition_stops_no_task(empty_database: str, log: CapturingLogger) -> None:
    upgrade(empty_database)
    settings = replace(the_settings(), database_url=empty_database, statement_timeout=0.1)
    context = AppContext(settings, clock=lambda: NOW)
    with closing(psycopg2.connect(empty_database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) SELECT 1, gen_random_uuid(), 'e', "
            "'d', '{}', '2031-07-01' FROM generate_series(1, 50000)"
        )
        cursor.execute("INSERT INTO idempotency_keys VALUES (1, 'old', '', gen_random_uuid(), '2031-01-01')")
    sweep(context)
    assert log.calls == []
    with closing(psycopg2.connect(empty_database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM idempotency_keys), (SELECT count(*) FROM events_default), "
            "(SELECT count(*) FROM events_2031_07), to_regclass('events_2031_10') IS NOT NULL"
        )
        assert cursor.fetchone() == (0, 0, 50_000, True)


def test_the_sizes_of_tables_are_recorded_once_a_day(empty_database: str) -> None:
    upgrade(empty_database)
    database = AppContext(replace(the_settings(), database_url=empty_database)).database

    def record(day: datetime) -> int:
        with database.transaction() as connection:
            return table_sizes.record_table_sizes(connection, day)

    first = record(NOW)
    assert first > 30
    assert (record(NOW + timedelta(hours=11)), record(NOW + timedelta(days=7))) == (0, first)
    with database.transaction() as connection:
        run_sql(connection, "UPDATE table_sizes_daily SET bytes = bytes - 8192 WHERE day = '2031-07-10'")
        grown = run_sql(
            connection, "SELECT table_name, bytes, growth_7_days, growth_30_days FROM ops.table_growth"
        ).all()
        sizes = {row.table_name: row.bytes for row in grown}
    # The table of sizes itself has grown meanwhile.
    assert {row[2:] for row in grown if row.table_name in ("accounts", "events", "runs")} == {(8192, None)}
    assert sizes["events"] == sum(size for name, size in sizes.items() if name.startswith("events_"))
    assert record(NOW + timedelta(days=420)) == first
    with database.transaction() as connection:
        assert run_sql(connection, "SELECT count(DISTINCT day) FROM table_sizes_daily").scalar() == 1
    database.close()
