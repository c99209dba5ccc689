"""/health and the commands report a database that is unavailable or lacks a migration, and what to do."""

from __future__ import annotations

import socket
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from flask import Flask

from app import create_app
from app.core import config
from app.db import migrate
from app.db.migrate import upgrade
from tests.support.command_lines import SIGNALBOX
from tests.support.server import clean_environment

ROOT = Path(__file__).resolve().parents[2]


def _app(url: str) -> Flask:
    return create_app(config.from_environment({"DATABASE_URL": url, "LOG_LEVEL": "error", "CONNECT_TIMEOUT": "1"}))


def _set_revision(url: str, number: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE alembic_version SET version_num = %s", (number,))


def _health(app: Flask) -> tuple[int, str]:
    answer = app.test_client().get("/health")
    return answer.status_code, answer.get_json().get("detail", "")


def test_health_requires_the_migrations_of_this_release(empty_database: str) -> None:
    app = _app(empty_database)
    lacks = (
        503,
        "The database lacks a migration; the operator has to run `signalbox migrate`. Retry later.",
    )
    assert _health(app) == lacks
    upgrade(empty_database, target="0002")
    assert _health(app) == lacks
    upgrade(empty_database)
    assert _health(app) == (200, "")
    _set_revision(empty_database, "9999")
    assert _health(app) == (200, "")


def test_a_migration_counts_by_its_position_and_not_by_its_number(
    empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    for number, before in ("0001", "None"), ("0003", '"0001"'), ("0002", '"0003"'):
        (versions / f"{number}_name.py").write_text(f'revision = "{number}"\ndown_revision = {before}\n')
    upgrade(empty_database)
    monkeypatch.setattr(migrate, "DIRECTORY", tmp_path)
    migrate.predecessors.cache_clear()
    migrate.head.cache_clear()
    try:
        app = _app(empty_database)
        expected = {"0001": 503, "0003": 503, "0002": 200, "0004": 200}
        found = {}
        for number in expected:
            _set_revision(empty_database, number)
            found[number] = _health(app)[0]
    finally:
        migrate.predecessors.cache_clear()
        migrate.head.cache_clear()
    assert found == expected


def test_the_previous_release_works_with_a_newer_database(empty_database: str) -> None:
    upgrade(empty_database)
    _set_revision(empty_database, "9999")
    result = _app(empty_database).test_cli_runner().invoke(args=["migrate"])
    assert (result.exit_code, result.output) == (0, "the database is up to date\n")


def test_health_runs_one_query(app: Flask) -> None:
    """The pool's own check of the connection is not counted."""
    from sqlalchemy import event

    statements: list[str] = []
    engine = app.extensions["context"].database._engine

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    # The first one checks the settings, too.
    app.test_client().get("/health")
    event.listen(engine, "before_cursor_execute", note)
    try:
        app.test_client().get("/health")
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert statements == ["SELECT max(version_num) FROM alembic_version"]


def test_commands_say_that_the_database_is_to_be_migrated(empty_database: str) -> None:
    result = _app(empty_database).test_cli_runner().invoke(args=["account", "list"])
    assert result.exit_code == 3
    assert result.stderr == (
        'Error: the database is not up to date, run `signalbox migrate` (relation "accounts" does not exist)\n'
    )


@pytest.mark.parametrize("words", [["account", "list"], ["migrate"]])
def test_commands_say_that_a_database_does_not_answer(words: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port = trial.getsockname()[1]
    result = _app(f"postgresql://a:hush@127.0.0.1:{port}/d").test_cli_runner().invoke(args=words)
    assert result.exit_code == 3
    assert result.stderr.startswith('Error: the database does not respond: connection to server at "127.0.0.1"')
    assert "hush" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", ["account list", "migrate"])
def test_commands_say_that_the_embedded_database_is_not_running(words: str, tmp_path: Path) -> None:
    command = [*SIGNALBOX, *words.split()]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith(
        "Error: the embedded PostgreSQL of this folder is not running: start it with `make run`"
    )
    assert done.stderr.count("\n") == 1
