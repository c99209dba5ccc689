"""Starts what is measured: a PostgreSQL and a Redis of its own, gunicorn with ours or with an empty view, all on 127.0.0.1.

Everything lives in a temporary folder and ends with the benchmark.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet

from app import settings
from app.operate.children import Program, end_all, spawn
from app.operate.embedded import EmbeddedPostgres
from app.settings import Settings
from app.store.migrations import upgrade

import signal  # isort: skip

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ground:
    """Postgres and Redis, running: their settings as an environment, their process ids."""

    environment: Mapping[str, str]
    processes: tuple[int, ...]
    folder: Path

    @property
    def settings(self) -> Settings:
        """The same as settings of the product."""
        return settings.from_environment(self.environment)


@contextmanager
def ground() -> Iterator[Ground]:
    """PostgreSQL (durable: fsync and synchronous_commit on), migrated, and Redis."""
    folder = Path(tempfile.mkdtemp(prefix="signalbox-bench-"))
    folder.chmod(0o711)
    postgres = EmbeddedPostgres(folder, durable=True, say=lambda line: None)
    redis: Program | None = None
    try:
        postgres.start()
        upgrade(postgres.url)
        redis, redis_url = _redis(folder)
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis_url,
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "LOG_LEVEL": "error",
            "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
        }
        postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        yield Ground(environment, (postmaster, redis.pid), folder)
    finally:
        if redis is not None:
            end_all([redis], signal.SIGTERM, 5)
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _redis(folder: Path) -> tuple[Program, str]:
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("The benchmarks need Redis: `apt install redis-server`.")
    place = folder / "redis.sock"
    command = [
        program,
        "--port",
        "0",
        "--unixsocket",
        str(place),
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    redis = spawn(command, death_signal=signal.SIGTERM, stdout=subprocess.DEVNULL)
    _until(place.exists, "Redis")
    return redis, f"unix://{place}"


@contextmanager
def gunicorn(application: str, arguments: list[str], environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """gunicorn with `arguments` on a free port: its URL and process id."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *arguments, application]
    program = spawn(command, death_signal=signal.SIGTERM, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)})
    try:
        _until(lambda: _answers(port), "gunicorn")
        yield f"http://127.0.0.1:{port}", program.pid
    finally:
        end_all([program], signal.SIGTERM, 30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _until(happened: object, what: str) -> None:
    deadline = time.monotonic() + 30
    while not happened():  # type: ignore[operator]
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not start.")
        time.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
