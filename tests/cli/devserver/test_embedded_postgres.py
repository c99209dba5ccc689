"""The embedded PostgreSQL, started, killed and recovered."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest

from app.cli.devserver.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError

ROOT = Path(__file__).resolve().parents[3]
ON_ITS_OWN = """
import pathlib, sys, time
from app.cli.devserver.embedded_postgres import EmbeddedPostgres
EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False, say=lambda line: None).start()
print("up", flush=True)
time.sleep(600)
"""


def _quiet(_line: str) -> None:
    pass


def _query_value(url: str, question: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        row = cursor.fetchone()
        assert row is not None
        return row[0]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="signalbox-tests-") as name:
        yield Path(name)


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "data", durable=False, say=_quiet)
    server.start()
    yield server
    server.stop()


def _server(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0]))


def test_it_uses_utf8_sorts_by_code_point_and_listens_on_no_port(postgres: EmbeddedPostgres) -> None:
    assert _query_value(postgres.url, "show server_encoding") == "UTF8"
    assert (
        _query_value(postgres.url, "select datlocale from pg_database where datname = current_database()") == "C.UTF-8"
    )
    assert _query_value(postgres.url, "show listen_addresses") == ""
    assert _query_value(postgres.url, "select lower('ÄÖ')") == "äö"


def test_only_its_owner_reaches_data_and_socket(postgres: EmbeddedPostgres, folder: Path) -> None:
    for path in ("postgres", "socket"):
        assert stat.S_IMODE((folder / "data" / path).stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "data" / "socket" / ".s.PGSQL.5432").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "data" / "postgres.log").stat().st_mode) == 0o600


def test_a_restart_after_a_kill_keeps_all_committed_rows(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder / "data", say=_quiet)
    postgres.start()
    with closing(psycopg2.connect(postgres.url)) as busy, busy.cursor() as cursor:
        cursor.execute("create table kept (n int)")
        busy.commit()
        # A backend that looks at nothing for a long time outlives its server, and holds its memory.
        backend = psutil.Process(busy.info.backend_pid)
        backend.suspend()
        _server(folder).kill()
        deadline = time.monotonic() + 10
        while postgres.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert postgres.exit_reason() == "signal 9"
        postgres.start()
    assert _query_value(postgres.url, "select count(*) from kept") == 0
    postgres.stop()


def test_a_database_that_was_dropped_is_made_again(postgres: EmbeddedPostgres) -> None:
    with closing(psycopg2.connect(postgres.url.replace("/signalbox?", "/postgres?"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("drop database signalbox")
    postgres.stop()
    postgres.start()
    assert _query_value(postgres.url, "select 1") == 1


def test_a_lock_file_with_the_number_of_another_program_is_cleared(folder: Path) -> None:
    first = EmbeddedPostgres(folder / "data", durable=False, say=_quiet)
    first.start()
    lock = (folder / "data" / "postgres" / "postmaster.pid").read_text()
    first.stop()
    with subprocess.Popen(["sleep", "600"], user=(folder / "data" / "postgres").stat().st_uid) as other:
        (folder / "data" / "postgres" / "postmaster.pid").write_text(lock.replace(lock.split()[0], str(other.pid), 1))
        second = EmbeddedPostgres(folder / "data", durable=False, say=_quiet)
        second.start()
        assert _query_value(second.url, "select 1") == 1
        assert other.poll() is None
        second.stop()
        other.kill()


def test_an_interrupted_first_start_is_repeated(folder: Path) -> None:
    (folder / "data" / "postgres.unfinished" / "base").mkdir(parents=True)
    server = EmbeddedPostgres(folder / "data", durable=False, say=_quiet)
    server.start()
    assert _query_value(server.url, "select 1") == 1
    server.stop()
    assert not (folder / "data" / "postgres.unfinished").exists()


def test_data_of_another_version_are_left_alone(folder: Path) -> None:
    (folder / "data" / "postgres").mkdir(parents=True)
    (folder / "data" / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedPostgresError, match="was written by PostgreSQL 15"):
        EmbeddedPostgres(folder / "data", say=_quiet).start()


def test_a_socket_folder_of_another_user_is_refused(folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "socket").symlink_to("/tmp")
    with pytest.raises(EmbeddedPostgresError, match="belongs to another user"):
        EmbeddedPostgres(data, say=_quiet).start()


if sys.platform == "linux":  # Only there do children end with their parent.

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_it_ends_with_the_process_that_started_it(folder: Path, number: signal.Signals) -> None:
        command = [sys.executable, "-c", ON_ITS_OWN, str(folder / "data")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as starter:
            assert starter.stdout is not None
            assert starter.stdout.readline() == b"up\n"
            server = _server(folder)
            starter.send_signal(number)
        deadline = time.monotonic() + 20
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
