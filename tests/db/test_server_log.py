"""The log of Postgres contains no statement and no value of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from app.cli.devserver import embedded_postgres
from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.db.connection import Database
from tests.support.action_contexts import the_settings

PHONE = "915673412780"
FAILING = (
    f"SELECT CAST('{PHONE}' AS uuid)",
    f"SELECT CAST('[{PHONE}' AS jsonb)",
    f"SELECT nothing, '{PHONE}'",
    f"INSERT INTO kept VALUES ('{PHONE}')",
    f"SET statement_timeout = 1; SELECT pg_sleep(1), '{PHONE}'",
)
USUAL = {"log_min_duration_statement": "0", "log_statement": "all", "listen_addresses": ""}
USUAL |= {name: embedded_postgres.SERVER_SETTINGS[name] for name in ("port", "unix_socket_permissions", "cluster_name")}


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="signalbox-tests-") as name:
        yield Path(name)


def _fail_in_every_way(connection: psycopg2.extensions.connection) -> None:
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS kept (subject text PRIMARY KEY)")
        cursor.execute("INSERT INTO kept VALUES (%s) ON CONFLICT DO NOTHING", (PHONE,))
        for statement in FAILING:
            with pytest.raises(psycopg2.Error):
                cursor.execute(statement)


def test_the_embedded_postgres_logs_no_personal_data(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "data", durable=False, say=lambda line: None)
    postgres.start()
    with closing(psycopg2.connect(postgres.url)) as connection:
        _fail_in_every_way(connection)
    postgres.stop()
    written = (folder / "data" / "postgres.log").read_text()
    assert "ready to accept connections" in written
    assert PHONE not in written


def test_sessions_that_may_keep_their_statements_out_of_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "SERVER_SETTINGS", USUAL)
    postgres = EmbeddedPostgres(folder / "data", durable=False, say=lambda line: None)
    postgres.start()
    with closing(psycopg2.connect(postgres.url)) as owner, owner, owner.cursor() as cursor:
        cursor.execute(
            "CREATE ROLE granted LOGIN; CREATE ROLE usual LOGIN; GRANT ALL ON SCHEMA public TO granted, usual"
        )
        cursor.execute(
            "GRANT SET ON PARAMETER log_min_error_statement, log_error_verbosity, log_min_duration_statement, "
            "log_min_duration_sample, log_statement, log_duration, log_parameter_max_length, "
            "log_parameter_max_length_on_error TO granted"
        )
    found = {}
    for role in ("signalbox", "granted", "usual"):
        before = (folder / "data" / "postgres.log").stat().st_size
        url = postgres.url.replace("signalbox@", f"{role}@")
        with closing(Database(replace(the_settings(), database_url=url)).dedicated_connection()) as connection:
            with suppress(psycopg2.Error):
                connection.cursor().execute(f"SELECT 1 / 0, '{PHONE}'")
            connection.cursor().execute(f"SELECT '{PHONE}'")
        found[role] = PHONE in (folder / "data" / "postgres.log").read_text()[before:]
    postgres.stop()
    # Others connect all the same: docs/deploying.md says what to grant.
    assert found == {"signalbox": False, "granted": False, "usual": True}
