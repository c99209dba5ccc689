"""`make run`: everything on one machine with one command, watched over until Ctrl-C.

Comes in: the environment and the folder it is started in, which keeps the data under `.data`. Goes out: a banner with
what a newcomer needs, then one line whenever something ended and was started again, or a call of the example arrived.
"""

from __future__ import annotations

import http.client
import os
import signal
import sys
import time
from contextlib import suppress

import psycopg2
import sqlalchemy as sa

from app.cli.devserver import preflight
from app.cli.devserver.banner import banner
from app.cli.devserver.child_process import StartError
from app.cli.devserver.echo_server import listen
from app.cli.devserver.embedded_postgres import EmbeddedPostgres, make_data_folder
from app.cli.devserver.preflight import ROOT, Address
from app.cli.devserver.supervisor import Command, StopRequest, Supervision, stop_together
from app.core.config import DATA_DIRECTORY, SettingsError, from_environment
from app.core.errors import Problem, Unavailable

WEB = ("gunicorn", "-c", str(ROOT / "deploy" / "gunicorn.conf.py"), "wsgi:app")
WORKER = ("flask", "--app", "wsgi", "worker")
# gunicorn gives requests that are on their way BODY_TIMEOUT + 5 s.
STOP_PATIENCE = 30.0
HEALTH_PATIENCE = 60.0


class Stopped(Exception):
    """Somebody asked to stop while things were being started."""


def main() -> int:
    """Run until somebody asks to stop; the exit code is 0 then, and 1 when something could not be started."""
    stop = StopRequest()
    stop.listen()
    try:
        Up(stop).run()
    except (StartError, SettingsError) as wrong:
        print(f"signalbox: {wrong}", file=sys.stderr, flush=True)
        return 1
    except (Stopped, KeyboardInterrupt):
        pass
    return 0


def say(line: str) -> None:
    """One line for people; that nobody reads any more is no reason to stop."""
    with suppress(OSError):
        # In one piece: several threads have something to say.
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class Up:
    """One run of everything."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop
        self._supervision = Supervision(stop, say)
        self._postgres: EmbeddedPostgres | None = None
        self._commands: list[Command] = []

    def run(self) -> None:
        """Start everything, watch over it, stop it; raises StartError, SettingsError, Stopped."""
        preflight.check_python()
        address = preflight.listening_address(os.environ)
        _make_data_folder()
        with preflight.only_one(DATA_DIRECTORY / "lock"):
            preflight.check_port(address)
            try:
                self._start(address)
                self._supervision.watch()
            except StartError:
                if self._stop.asked:
                    raise Stopped from None
                raise
            finally:
                self._end()

    def _start(self, address: Address) -> None:
        """Environment and keys, the database and its tables, web process and worker, the demo, the banner."""
        embedded = not os.environ.get("DATABASE_URL", "").strip()
        notes = preflight.prepare_environment(address, embedded=embedded)
        if not os.environ.get("ENCRYPTION_KEY", "").strip():
            preflight.make_encryption_key(DATA_DIRECTORY / "encryption.key")
        settings = from_environment()
        if not embedded:
            preflight.check_database(settings.database_url)
        # The web process takes longest to load, and asks for the database only when it is asked itself.
        self._start_command("web process", *WEB)
        if embedded:
            self._postgres = EmbeddedPostgres(DATA_DIRECTORY, say=say, give_up=lambda: self._stop.asked)
            self._supervision.keep("postgres", self._postgres)
        self._go_on()
        _migrate(settings.database_url)
        self._go_on()
        self._start_command("worker", *WORKER)
        from app.cli.devserver.demo import provide

        try:
            demo = provide(settings)
        except (Problem, Unavailable) as trouble:
            raise StartError(f"the account for the demo cannot be made: {trouble}") from None
        if demo.listener_url and not listen(demo.listener_url, say):
            notes.append(
                f"The port of {demo.listener_url} is taken: calls of the example go to whatever listens there."
            )
        self._wait_for_health(address)
        for line in banner(
            url=address.url(),
            account_id=demo.account_id,
            token=demo.token,
            database_url=settings.database_url,
            embedded=embedded,
            notes=notes,
        ):
            say(line)

    def _start_command(self, name: str, *arguments: str) -> None:
        command = Command([sys.executable, "-m", *arguments], os.environ)
        self._commands.append(command)
        self._supervision.keep(name, command)

    def _wait_for_health(self, address: Address) -> None:
        deadline = time.monotonic() + HEALTH_PATIENCE
        while not is_healthy(address.from_here()):
            self._go_on()
            if time.monotonic() > deadline:
                raise StartError(f"{address.url()}/health does not answer with 200; the log above may say why")
            time.sleep(0.05)

    def _go_on(self) -> None:
        """Between two steps of the start: raises Stopped when asked to stop, StartError when all is in vain."""
        if self._stop.asked:
            raise Stopped
        for web in self._commands[:1]:
            if not web.running():
                raise StartError(f"the web process ended at once ({web.how_it_ended()}); it says why above")

    def _end(self) -> None:
        """Web process and worker first, since they need the database; a second Ctrl-C ends all at once."""
        self._stop.asked = True
        try:
            stop_together(self._commands, STOP_PATIENCE)
            if self._postgres is not None:
                self._postgres.stop()
        except KeyboardInterrupt:
            stop_together(self._commands, 1, number=signal.SIGKILL)
            if self._postgres is not None:
                self._postgres.stop(at_once=True)


def _make_data_folder() -> None:
    try:
        make_data_folder(DATA_DIRECTORY)
    except OSError as failure:
        raise StartError(f"cannot make {DATA_DIRECTORY.absolute()}: {failure.strerror}") from None


def _migrate(url: str) -> None:
    from app.db.connection import error_message
    from app.db.migrate import upgrade

    try:
        upgrade(url)
    except (sa.exc.DBAPIError, psycopg2.Error) as trouble:
        raise StartError(f"the database cannot be migrated: {error_message(trouble)}") from None


def is_healthy(address: Address) -> bool:
    """Whether `GET /health` there answers with 200."""
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
