"""Checks and preparations of `make run` before it starts anything. Errors are StartError, printed as one line."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import psycopg2
from cryptography.fernet import Fernet

from app.cli.devserver.child_process import StartError

ROOT = Path(__file__).resolve().parents[3]
LOOPBACK = "127.0.0.0/8,::1"


@dataclass(frozen=True, slots=True)
class Address:
    """The address at which the web process listens."""

    host: str
    port: int

    def bind(self) -> str:
        """The address in the format of gunicorn."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def local(self) -> Address:
        """The address for a client on this machine."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)  # noqa: S104 - the user asked for it

    def url(self) -> str:
        """The URL for a client on this machine."""
        return "http://" + self.local().bind()


def check_python() -> None:
    """Raises StartError for an unsupported Python."""
    if sys.version_info < (3, 11):  # noqa: UP036 - may be started without the Makefile
        raise StartError(f"Python 3.11 or newer is required, this is {sys.version.split()[0]}")


def listening_address(env: Mapping[str, str]) -> Address:
    """The address of BIND (`HOST:PORT` or `HOST`) and PORT. Default: 127.0.0.1, port 8000. Raises StartError."""
    bind = env.get("BIND", "").strip() or "127.0.0.1"
    match = re.fullmatch(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]/]*))(?::(?P<port>[^:]*))?", bind)
    if match is None:
        raise StartError(f"BIND={bind!r} cannot be used: expected HOST:PORT, such as 0.0.0.0:8000 or [::]:8000")
    in_bind = match["port"] is not None
    text = match["port"] if in_bind else env.get("PORT", "").strip() or "8000"
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        name, value = ("BIND", bind) if in_bind else ("PORT", text)
        raise StartError(f"{name}={value!r} cannot be used: expected a port from 1 to 65535")
    return Address(match["six"] or match["host"] or "0.0.0.0", int(text))  # noqa: S104 - the user asked for it


def check_web_concurrency(env: Mapping[str, str]) -> None:
    """Raises StartError for a WEB_CONCURRENCY for which gunicorn, which reads it itself, would write a traceback."""
    text = env.get("WEB_CONCURRENCY", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text.strip()):
        raise StartError(f"WEB_CONCURRENCY={text!r} cannot be used: expected a whole number above 0")


def check_port(address: Address) -> None:
    """Raises StartError when the address cannot be listened at."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*found[:3]) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(found[4])
            trial.listen(1)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            command = f"make run PORT={address.port + 1 if address.port < 65535 else 8000}"
            raise StartError(
                f"port {address.port} is in use by another program: stop it, or choose another port: {command}"
            ) from None
        raise StartError(f"cannot listen at {address.bind()}: {exc.strerror or exc}") from None


@contextmanager
def exclusive_lock(lock: Path) -> Iterator[None]:
    """Hold a lock file. Raises StartError when another process holds it."""
    try:
        file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError as exc:
        raise StartError(f"cannot write {lock}: {exc.strerror}; run as the owner of {lock.parent}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = file.read(20).strip() or "unknown"
            raise StartError(f"already running in this folder (process {holder})") from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def check_database(url: str) -> None:
    """Raises StartError, without the password, when the database at `url` does not respond within 3 seconds."""
    try:
        psycopg2.connect(url, connect_timeout=3).close()
    except psycopg2.Error as exc:
        lines = str(exc).strip().splitlines()
        reason = _hide_secrets(url, lines[0] if lines else type(exc).__name__)
        raise StartError(f"DATABASE_URL ({without_password(url)}) does not respond: {reason}") from None


def without_password(url: str) -> str:
    """`url` without its passwords. psql accepts it."""
    shown = re.sub(r"(://[^:@/]*):.*@", r"\1@", url)
    return re.sub(r"(?i)([?&])[a-z]*password=[^&]*&?", r"\1", shown).rstrip("?&")


def _hide_secrets(url: str, text: str) -> str:
    for secret in re.findall(r"://[^:@/]*:(.*)@|password=([^&]*)", url):
        for form in filter(None, {*secret, *map(unquote, secret)}):
            text = text.replace(form, "***")
    return text


def make_encryption_key(file: Path) -> None:
    """Write a new Fernet key to `file`, readable by its owner only, unless it has one."""
    if file.exists() and file.stat().st_size > 0:
        return
    descriptor, unfinished = tempfile.mkstemp(dir=file.parent)
    with open(descriptor, "wb") as writer:
        writer.write(Fernet.generate_key() + b"\n")
        writer.flush()
        os.fsync(descriptor)
    os.replace(unfinished, file)


def prepare_environment(address: Address, *, embedded: bool) -> list[str]:
    """Set the environment of the child processes. Returns notes for the start message."""
    notes = []
    if embedded:
        # They are meant for another server.
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]
    if not os.environ.get("ALLOWED_PRIVATE_TARGETS", "").strip():
        os.environ["ALLOWED_PRIVATE_TARGETS"] = LOOPBACK
        notes.append(f"Workflows may call this machine (ALLOWED_PRIVATE_TARGETS={LOOPBACK}).")
    os.environ["BIND"] = address.bind()
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ["FLASK_SKIP_DOTENV"] = "1"
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return notes
