"""Restarts, an upgrade with its migrations, and a roll-back at 300 events a second through nginx: no request fails.

The gunicorns are started as by the units in deploy/systemd: by the command in `ExecStart`, with a listening socket that this
process keeps open, as systemd does, and a socket to which they report that they are ready. nginx has deploy/nginx.conf.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from app.cli.devserver.child_process import Program, end_all, start_program
from bench.measuring import median, p99
from bench.rows import Row, row
from bench.sending import Sent, post_steadily
from bench.servers import ROOT, Backends, backends, nginx
from bench.single import BODY, PATH, provide

RATE = 300
# Restarts of each kind in one measurement.
ROUNDS = int(os.environ.get("ROUNDS", "5"))
_READY_TIMEOUT = 60.0
# Starts a program as systemd does: with the listening socket as file descriptor 3.
_ACTIVATE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); "
    "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execvp(sys.argv[2], sys.argv[2:])"
)


def unit_command(name: str) -> list[str]:
    """The command of a unit in deploy/systemd, with the program of this Python's environment."""
    text = (ROOT / "deploy" / "systemd" / name).read_text("utf-8")
    found = re.search(r"^ExecStart=(.+)$", text, re.MULTILINE)
    program, *arguments = shlex.split(found[1] if found else "")
    return [str(Path(sys.executable).parent / Path(program).name), *arguments]


class WebUnit:
    """An instance of signalbox-web@.service in a folder with a release. `listener` is its socket; without one, it makes that of
    BIND in its environment."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], state: Path, listener: socket.socket | None = None
    ) -> None:
        self._listener = listener
        self._folder = folder
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(state))
        self._notified.settimeout(_READY_TIMEOUT)
        # PWD: gunicorn starts its successor after SIGUSR2 in this folder, also where it is a symbolic link.
        self._environment = {**environment, "NOTIFY_SOCKET": str(state), "PWD": str(folder), "PYTHONPATH": str(folder)}
        self._program: Program | None = None
        self._master = 0

    def start(self) -> None:
        """Start gunicorn; returns when it is ready, as `systemctl start`."""
        command, fds = unit_command("signalbox-web@.service"), list[int]()
        if self._listener is not None:
            fds = [self._listener.fileno()]
            command = [sys.executable, "-c", _ACTIVATE, str(fds[0]), *command]
        self._program = start_program(
            command, death_signal=signal.SIGTERM, cwd=self._folder, env=self._environment, pass_fds=fds
        )
        self._wait_until_ready()
        self._master = self._program.pid

    def stop(self) -> None:
        """SIGTERM; returns when gunicorn has ended, as `systemctl stop`."""
        if self._program is None:
            return
        with suppress(psutil.NoSuchProcess):
            master = psutil.Process(self._master)
            master.send_signal(signal.SIGTERM)
            master.wait(45)
        end_all([self._program], signal.SIGTERM, 45)
        self._program = None

    def restart(self) -> None:
        """As `systemctl restart`."""
        self.stop()
        self.start()

    def replace(self) -> None:
        """SIGUSR2: gunicorn starts its successor with the code of the folder. It ends when that one serves."""
        os.kill(self._master, signal.SIGUSR2)
        self._wait_until_ready()
        successor = max(child.pid for child in psutil.Process(self._master).children() if _is_master(child))
        while not psutil.Process(successor).children():
            time.sleep(0.05)
        os.kill(self._master, signal.SIGTERM)
        psutil.Process(self._master).wait(45)
        self._master = successor
        # Until it has seen that it is alone, for a second at most, it ignores SIGUSR2.
        time.sleep(1.5)

    def _wait_until_ready(self) -> None:
        while b"READY=1" not in self._notified.recv(4096):
            pass

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        self._notified.close()


def _is_master(process: psutil.Process) -> bool:
    """A forked web process has the environment of its master; a new master has the id of the old one in it."""
    return "GUNICORN_PID" in process.environ()


@contextmanager
def two_units(base: Backends, release: Path, environment: Mapping[str, str]) -> Iterator[tuple[Path, list[WebUnit]]]:
    """Two instances that accept from one socket, started; the path of the socket, and the instances."""
    folder = base.folder / "units"
    folder.mkdir()
    folder.chmod(0o755)
    path = folder / "web.sock"
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(2048)
        units = []
        for name in ("1", "2"):
            unit = WebUnit(release, environment, folder / f"notify-{name}", listener)
            stack.callback(unit.close)
            unit.start()
            units.append(unit)
        yield path, units


def under_load(port: int, headers: Mapping[str, str], act: Callable[[], None], *, rate: float = RATE) -> Sent:
    """Events at a steady rate for as long as `act` takes, and a second before and after it."""
    ended = threading.Event()
    result: list[Sent] = []

    def bodies() -> Iterator[bytes]:
        body = json.dumps(BODY).encode()
        while not ended.is_set():
            yield body

    load = threading.Thread(
        target=lambda: result.append(asyncio.run(post_steadily(port, PATH, headers, bodies(), rate=rate)))
    )
    load.start()
    try:
        time.sleep(1)
        act()
        time.sleep(1)
    finally:
        ended.set()
        load.join()
    return result[0]


def restart() -> list[Row]:
    """Rolling restarts of two units, restarts by SIGUSR2, and an upgrade from the previous release with its roll-back."""
    return [_restart_units(), _restart_by_signal(), _upgrade()]


def _one_after_another(units: list[WebUnit]) -> None:
    for unit in units:
        unit.restart()


def _restart_units() -> Row:
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base)
        path, units = stack.enter_context(two_units(base, ROOT, base.environment))
        port = stack.enter_context(nginx(base.folder, path))

        def act() -> None:
            for _ in range(ROUNDS):
                _one_after_another(units)

        sent = under_load(port, headers, act)
        failures = sent.failures(base.stored(account))
    return _row("restart-units", sent, failures, restarts=2 * ROUNDS)


def _restart_by_signal() -> Row:
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        account, headers = provide(base)
        path = base.folder / "web.sock"
        unit = WebUnit(ROOT, {**base.environment, "BIND": f"unix:{path}"}, base.folder / "notify")
        stack.callback(unit.close)
        unit.start()
        port = stack.enter_context(nginx(base.folder, path))

        def act() -> None:
            for _ in range(2 * ROUNDS):
                unit.replace()

        sent = under_load(port, headers, act)
        failures = sent.failures(base.stored(account))
    return _row("restart-usr2", sent, failures, restarts=2 * ROUNDS)


def _upgrade() -> Row:
    """The previous release serves, the migrations of this one run, both units are restarted with it, and then rolled back."""
    with ExitStack() as stack:
        base = stack.enter_context(backends(migrated=False))
        previous = _previous_release(base.folder)
        _run(previous, base, "migrate")
        account, headers = _account(previous, base)
        current = base.folder / "current"
        _point(current, previous)
        path, units = stack.enter_context(two_units(base, current, base.environment))
        port = stack.enter_context(nginx(base.folder, path))
        migration = 0.0

        def act() -> None:
            nonlocal migration
            began = time.monotonic()
            _run(ROOT, base, "migrate")
            migration = time.monotonic() - began
            for release in (ROOT, previous):
                _point(current, release)
                _one_after_another(units)

        sent = under_load(port, headers, act)
        failures = sent.failures(base.stored(account))
    return _row("upgrade", sent, failures, restarts=4, **{"migration s": round(migration, 1)})


def _row(name: str, sent: Sent, failures: list[str], **more: Any) -> Row:
    late = sent.late.values()
    figures = {
        "requests": len(sent.due),
        **more,
        "p50 ms": round(median(late), 1),
        "p99 ms": round(p99(late), 1),
        "slowest ms": round(max(late), 1),
    }
    unit = f"failed requests, {RATE} events/s through nginx (open loop)"
    return row(name, ours=len(sent.refused), unit=unit, failures=failures, more=figures)


def _previous_release(folder: Path) -> Path:
    """The source of PREVIOUS (a commit), by default of the last commit before the newest migration."""
    commit = os.environ.get("PREVIOUS")
    if not commit:
        added = ["log", "-1", "--format=%H", "--diff-filter=A", "--", "migrations/versions"]
        commit = _git(*added).decode().strip() + "~1"
    release = folder / "previous"
    release.mkdir()
    subprocess.run(["tar", "-x", "-C", str(release)], input=_git("archive", commit), check=True)
    return release


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


def _run(release: Path, base: Backends, *words: str) -> str:
    """Run a command of a release; its output."""
    environment = {**base.environment, "PYTHONPATH": str(release)}
    command = [sys.executable, "-m", "app.cli", *words]
    return subprocess.run(command, cwd=release, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def _account(release: Path, base: Backends) -> tuple[int, dict[str, str]]:
    """An account of a release with two workflows, one of which each event starts, and the headers to send with."""
    _run(release, base, "account", "create", "bench", "--plan", "unlimited")
    for name, where in (("rich", "data.price > 1000"), ("every", "data.currency == 'INR'")):
        file = base.folder / f"{name}.yaml"
        on = {"event": BODY["event"], "where": where}
        file.write_text(json.dumps({"name": name, "on": on, "steps": [{"log": "hello"}]}))
        _run(release, base, "workflow", "apply", str(file))
    created = dict(
        line.split("=", 1) for line in _run(release, base, "key", "create", "bench").splitlines() if "=" in line
    )
    account, token = created["account"], created["token"]
    return int(account), {"x-limechat-uat": token, "x-fb-account-id": account, "Content-Type": "application/json"}


def _point(link: Path, release: Path) -> None:
    """Let a symbolic link point to a release, in one step."""
    link.with_suffix(".new").symlink_to(release)
    link.with_suffix(".new").replace(link)
