"""`make run`: starts database, web process and worker on one machine, and supervises them until Ctrl-C.

The data are in `.data` of the current folder.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import sqlalchemy as sa

from app.cli.devserver import preflight
from app.cli.devserver.child_process import StartError
from app.cli.devserver.echo_server import start_echo_server
from app.cli.devserver.embedded_postgres import EmbeddedPostgres, make_data_folder, psql
from app.cli.devserver.preflight import ROOT, Address, without_password
from app.cli.devserver.supervisor import Command, StopRequest, Supervisor, stop_together
from app.core.config import DATA_DIRECTORY, Settings, SettingsError, from_environment
from app.core.errors import Problem, Unavailable

if TYPE_CHECKING:
    from app.cli.devserver.demo import Demo

WEB = ("gunicorn", "-c", str(ROOT / "deploy" / "gunicorn.conf.py"), "wsgi:app")
WORKER = ("app.cli", "worker")
# gunicorn waits BODY_TIMEOUT + 5 s for requests in progress.
STOP_TIMEOUT = 30.0
HEALTH_TIMEOUT = 60.0
EXAMPLE_EVENT = (
    '{"distinct_id": "915673412780", "phone": "+915673412780", "event": "product_view", '
    '"data": {"product_id": "65432", "product_name": "Cool Sneakers", "price": 1999}}'
)
LAST_EVENTS = "select received_at, event, distinct_id, phone, data from events order by received_at desc limit 5"


class Stopped(Exception):
    """A stop was requested during the start."""


def main() -> int:
    """Run until a stop is requested. Returns the exit code: 0, or 1 when something could not be started."""
    stop = StopRequest()
    stop.install()
    try:
        Up(stop).run()
    except (StartError, SettingsError) as exc:
        print(f"signalbox: {exc}", file=sys.stderr, flush=True)
        return 1
    except (Stopped, KeyboardInterrupt):
        pass
    return 0


def say(line: str) -> None:
    """Print a line. A closed standard output is not an error."""
    with suppress(OSError):
        # One write: several threads print.
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class Up:
    """One run of `make run`."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._supervisor = Supervisor(stop, say)
        self._postgres: EmbeddedPostgres | None = None
        self._commands: list[Command] = []

    def run(self) -> None:
        """Start everything, supervise it, stop it. Raises StartError, SettingsError and Stopped."""
        preflight.check_python()
        address = preflight.listening_address(os.environ)
        preflight.check_web_concurrency(os.environ)
        _make_data_folder()
        with preflight.exclusive_lock(DATA_DIRECTORY / "lock"):
            preflight.check_port(address)
            try:
                self._start(address)
                self._supervisor.watch()
            except StartError:
                if self._stop.requested:
                    raise Stopped from None
                raise
            finally:
                self._end()

    def _start(self, address: Address) -> None:
        """Prepare the environment; start web process, database and worker; migrate; create the demo; print the message."""
        embedded = not os.environ.get("DATABASE_URL", "").strip()
        notes = preflight.prepare_environment(address, embedded=embedded)
        if not os.environ.get("ENCRYPTION_KEY", "").strip():
            preflight.make_encryption_key(DATA_DIRECTORY / "encryption.key")
        settings = from_environment()
        if not embedded:
            preflight.check_database(settings.database_url)
        say("Starting the web process, the worker and the database …")
        # The web process takes longest to start, and connects to the database only for a request.
        self._start_command("web process", *WEB)
        if embedded:
            self._postgres = EmbeddedPostgres(DATA_DIRECTORY, say=say, should_stop=lambda: self._stop.requested)
            self._supervisor.supervise("postgres", self._postgres)
        self._check_start()
        _migrate(settings.database_url)
        self._check_start()
        self._start_command("worker", *WORKER)
        demo = _create_demo(settings)
        if demo.key_replaced:
            notes.append("The API key of the previous start was revoked; the key above replaces it.")
        if demo.echo_url and not start_echo_server(demo.echo_url, say):
            notes.append(
                f"The port of {demo.echo_url} is in use: the example workflow calls the program that listens there."
            )
        self._wait_for_health(address)
        for line in _start_message(address.url(), demo, settings.database_url, embedded=embedded, notes=notes):
            say(line)

    def _start_command(self, name: str, *arguments: str) -> None:
        command = Command([sys.executable, "-m", *arguments], os.environ)
        self._commands.append(command)
        self._supervisor.supervise(name, command)

    def _wait_for_health(self, address: Address) -> None:
        deadline = time.monotonic() + HEALTH_TIMEOUT
        while not is_healthy(address.local()):
            self._check_start()
            if time.monotonic() > deadline:
                raise StartError(f"{address.url()}/health does not respond with 200; see the log above")
            time.sleep(0.05)

    def _check_start(self) -> None:
        """Raises Stopped when a stop is requested, and StartError when the web process has ended."""
        if self._stop.requested:
            raise Stopped
        for web in self._commands[:1]:
            if not web.running():
                raise StartError(f"the web process ended at once ({web.exit_reason()}); see the log above")

    def _end(self) -> None:
        """Stop web process and worker, then the database that they need. A second Ctrl-C kills all of them."""
        self._stop.requested = True
        try:
            stop_together(self._commands, STOP_TIMEOUT)
            if self._postgres is not None:
                self._postgres.stop()
        except KeyboardInterrupt:
            stop_together(self._commands, 1, signal_number=signal.SIGKILL)
            if self._postgres is not None:
                self._postgres.stop(at_once=True)


def _make_data_folder() -> None:
    try:
        make_data_folder(DATA_DIRECTORY)
    except OSError as exc:
        raise StartError(f"cannot create {DATA_DIRECTORY.absolute()}: {exc.strerror}") from None


def _create_demo(settings: Settings) -> Demo:
    from app.cli.devserver.demo import create_demo

    try:
        return create_demo(settings)
    except (Problem, Unavailable) as exc:
        raise StartError(f"the demo account cannot be created: {exc}") from None


def _migrate(url: str) -> None:
    from app.db.connection import error_message
    from app.db.migrate import upgrade

    try:
        upgrade(url)
    except (sa.exc.DBAPIError, psycopg2.Error) as exc:
        raise StartError(f"the database cannot be migrated: {error_message(exc)}") from None


def _start_message(url: str, demo: Demo, database_url: str, *, embedded: bool, notes: list[str]) -> list[str]:
    """The message once everything runs: the addresses, and two commands to paste. Lines with `=` can be parsed."""
    return [
        "",
        f"url={url}",
        f"account={demo.account_id}",
        f"token={demo.key}",
        f"database={without_password(database_url)}",
        "",
        "Post an event:",
        _curl(url, demo.account_id, demo.key),
        "",
        "See it in Postgres:",
        _psql_command(database_url, embedded=embedded),
        "",
        "See it in the browser:",
        _console_line(url, demo),
        "",
        *notes,
        "Ctrl-C stops everything; .data keeps the data."
        if embedded
        else "Ctrl-C stops everything except the database.",
        "",
    ]


def _console_line(url: str, demo: Demo) -> str:
    """Where the console is, and who can sign in."""
    from app.cli.devserver.demo import EMAIL

    if demo.password is None:
        program = shlex.quote(_short(Path(sys.executable).with_name("signalbox")))
        return f"{url}/console, as {EMAIL} (a new password: {program} user password {EMAIL})"
    return f"{url}/console, as {EMAIL} with the password {demo.password}"


def _curl(url: str, account_id: int, key: str) -> str:
    """A shell command that posts the example event."""
    return (
        f"curl -i '{url}/api/v1/cvf-events' -H 'Content-Type: application/json' -H 'x-limechat-uat: {key}' "
        f"-H 'x-fb-account-id: {account_id}' -d '{EXAMPLE_EVENT}'"
    )


def _psql_command(database_url: str, *, embedded: bool) -> str:
    """A shell command that shows the latest events. Uses the psql of the wheel when none is installed."""
    if not embedded:
        return f'psql "$DATABASE_URL" -c {shlex.quote(LAST_EVENTS)}'
    program = "psql" if shutil.which("psql") else _short(psql())
    return f"{shlex.quote(program)} {shlex.quote(database_url)} -c {shlex.quote(LAST_EVENTS)}"


def _short(program: Path) -> str:
    """The path relative to the current folder, if it is below it."""
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)


def is_healthy(address: Address) -> bool:
    """Whether `GET /health` responds with 200."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
