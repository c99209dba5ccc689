"""Starts what is measured: a PostgreSQL and a Redis of its own, gunicorn with ours or with an empty view, nginx; all on
127.0.0.1 or on sockets in their folder.

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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psycopg2
from cryptography.fernet import Fernet

from app.cli.devserver.child_process import Program, end_all, start_program
from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.core import config
from app.core.config import Settings
from app.db.migrate import upgrade

import signal  # isort: skip

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Backends:
    """Postgres and Redis, running: their settings as an environment, their process ids by part."""

    environment: Mapping[str, str]
    processes: Mapping[str, tuple[int, ...]]
    folder: Path

    @property
    def settings(self) -> Settings:
        """The same as settings of the product."""
        return config.from_environment(self.environment)

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.environment["DATABASE_URL"]

    def query(self, question: str, *values: Any) -> int:
        """The number that a query answers with."""
        with psycopg2.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(question, values)
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def stored(self, account: int) -> int:
        """How many events of an account are in the table."""
        return self.query("SELECT count(*) FROM events WHERE account_id = %s", account)


@contextmanager
def backends(*, migrated: bool = True) -> Iterator[Backends]:
    """PostgreSQL (durable: fsync and synchronous_commit on), migrated by default, and Redis."""
    folder = Path(tempfile.mkdtemp(prefix="signalbox-bench-"))
    folder.chmod(0o711)
    postgres = EmbeddedPostgres(folder, durable=True, say=lambda line: None)
    redis: Program | None = None
    try:
        postgres.start()
        if migrated:
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
        yield Backends(environment, {"postgres": (postmaster,), "redis": (redis.pid,)}, folder)
    finally:
        if redis is not None:
            end_all([redis], signal.SIGTERM, 5)
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _redis(folder: Path) -> tuple[Program, str]:
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("The benchmarks need Redis: `apt install redis-server`.")
    socket_path = folder / "redis.sock"
    command = [
        program,
        "--port",
        "0",
        "--unixsocket",
        str(socket_path),
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    redis = start_program(command, death_signal=signal.SIGTERM, stdout=subprocess.DEVNULL)
    _until(socket_path.exists, "Redis")
    return redis, f"unix://{socket_path}"


@contextmanager
def gunicorn(
    application: str,
    arguments: list[str],
    environment: Mapping[str, str],
    folder: Path = ROOT,
    log: BinaryIO | None = None,
) -> Iterator[tuple[str, int]]:
    """gunicorn with `arguments` on a free port, started in `folder`: its URL and process id. It writes to `log`, or where this
    process writes."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *arguments, application]
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    program = start_program(command, death_signal=signal.SIGTERM, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _until(lambda: _answers(port), "gunicorn")
        yield f"http://127.0.0.1:{port}", program.pid
    finally:
        end_all([program], signal.SIGTERM, 30)


def ours(
    base: Backends, *more: str, log: BinaryIO | None = None, **environment: str
) -> AbstractContextManager[tuple[str, int]]:
    """What is measured, as it is deployed: two web processes."""
    arguments = ["-c", "deploy/gunicorn.conf.py", *more]
    return gunicorn("wsgi:app", arguments, {**base.environment, "WEB_CONCURRENCY": "2", **environment}, log=log)


def empty(base: Backends, arguments: list[str]) -> AbstractContextManager[tuple[str, int]]:
    """The reference, in a folder where gunicorn does not find our settings."""
    arguments = ["--log-level", "warning", "--no-control-socket", *arguments]
    return gunicorn("bench.empty:app", arguments, base.environment, base.folder)


@contextmanager
def nginx(
    parent: Path, web: int | Path, changes: Mapping[str, str] | None = None, *, certificate: Path | None = None
) -> Iterator[int]:
    """nginx with deploy/nginx.conf in a folder of its own, in front of the port or the socket of web processes; its port.

    It speaks TLS where there is a certificate. Addresses are replaced, and each text of `changes` by another one. The server
    for plain HTTP has the socket `plain.sock` in the folder.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        sys.exit("nginx is missing: `apt install nginx-light`.")
    folder, port = parent / "nginx", free_port()
    folder.mkdir(mode=0o755)
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    upstream = f"127.0.0.1:{web}" if isinstance(web, int) else f"unix:{web}"
    chain, key = (f"ssl_certificate{kind} {certificate};" if certificate else "" for kind in ("", "_key"))
    for there, here in {
        "listen 80 default_server;": f"listen unix:{folder}/plain.sock;",
        "listen [::]:80 default_server;": "",
        "listen 443 ssl http2 default_server;": f"listen 127.0.0.1:{port}{' ssl http2' if certificate else ''};",
        "listen [::]:443 ssl http2 default_server;": "",
        "ssl_certificate /etc/signalbox/tls/fullchain.pem;": chain,
        "ssl_certificate_key /etc/signalbox/tls/privkey.pem;": key,
        "server unix:/run/signalbox/web.sock;": f"server {upstream};",
        "pid /run/nginx.pid;": f"pid {folder}/pid;",
        "http {": "http {" + "".join(f"{kind}_temp_path {folder}/{kind};" for kind in _TEMPORARY),
        **(changes or {}),
    }.items():
        if there not in text:
            raise ValueError(f"deploy/nginx.conf has no line `{there}` any more")
        text = text.replace(there, here)
    (folder / "nginx.conf").write_text("daemon off;\n" + text)
    command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    running = start_program(command, death_signal=signal.SIGTERM)
    try:
        _until(lambda: _listens(port), "nginx")
        yield port
    finally:
        end_all([running], signal.SIGTERM, 10)


_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(happened: object, what: str) -> None:
    deadline = time.monotonic() + 30
    while not happened():  # type: ignore[operator]
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not start.")
        time.sleep(0.05)


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
