"""Real processes for tests: gunicorn as it is deployed, and Redis. Each has a port of its own and is ended by its id.

`running_server(DATABASE_URL=…)` and `running_redis()` are context managers. Requests go over real sockets: `Server.open`
sends what an HTTP client would, `Server.exchange` sends any bytes at all.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.cli.devserver.child_process import Program, end_all, exit_reason, start_program

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "wsgi:app"]
START_TIMEOUT = 60.0
ANSWER_TIMEOUT = 30.0


@dataclass(frozen=True)
class Answer:
    """A response, with the names that Flask's test client uses."""

    status_code: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        return self.data.decode()


class Server:
    """A running gunicorn. An answer of status 500 fails the test at once and shows what the server wrote."""

    def __init__(self, port: int, program: Program, log: Path) -> None:
        self.port = port
        self.program = program
        self._log = log
        self._kept: dict[threading.Thread, http.client.HTTPConnection] = {}
        self._lock = threading.Lock()

    def output(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(errors="replace")

    def processes(self) -> list[int]:
        """The ids of its web processes."""
        return sorted(child.pid for child in psutil.Process(self.program.pid).children())

    def open(
        self, path: str, *, method: str = "GET", data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on the connection that the calling thread keeps; on a new one where the server closed it."""
        connection = self._kept_connection()
        try:
            return self.request_on(connection, path, method=method, data=data, headers=headers)
        except BaseException:
            self.hang_up()
            raise

    def _kept_connection(self) -> http.client.HTTPConnection:
        connection = self._kept.get(threading.current_thread())
        if connection is None or _is_closed(connection):
            self.hang_up()
            connection = self.connect()
            with self._lock:
                self._kept[threading.current_thread()] = connection
        return connection

    def post(self, path: str, *, data: bytes, headers: Mapping[str, str]) -> Answer:
        """As Flask's test client has it."""
        return self.open(path, method="POST", data=data, headers=headers)

    def connect(self) -> http.client.HTTPConnection:
        """A new connection; it opens with its first request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT)

    def request_on(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        *,
        method: str = "GET",
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a given connection."""
        connection.request(method, path, body=data, headers=dict(headers or {}))
        return self._taken(connection.getresponse())

    @contextmanager
    def connected_to_each(self, wanted: int = 1) -> Iterator[list[http.client.HTTPConnection]]:
        """`wanted` open connections to each of its processes."""
        found: dict[int, list[http.client.HTTPConnection]] = {pid: [] for pid in self.processes()}
        with ExitStack() as stack:
            for _ in range(500):
                connection = stack.enter_context(closing(self.connect()))
                self.request_on(connection, "/health")
                found[self._process_of(connection)].append(connection)
                if all(len(connections) >= wanted for connections in found.values()):
                    break
            else:
                raise AssertionError(f"one process takes all connections: {found}")
            yield [connection for connections in found.values() for connection in connections[:wanted]]

    def _process_of(self, connection: http.client.HTTPConnection) -> int:
        port = connection.sock.getsockname()[1]
        for pid in self.processes():
            if any(one.raddr and one.raddr.port == port for one in psutil.Process(pid).net_connections("tcp")):
                return pid
        raise AssertionError("no process has the connection")

    def metric(self, name: str) -> float:
        """The value of a counter without labels, or with its labels as part of the name."""
        for line in self.open("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def hang_up(self, *, all_threads: bool = False) -> None:
        """Close the connections that the calling thread, threads that have ended, or all threads keep."""
        with self._lock:
            for thread in list(self._kept):
                if all_threads or thread is threading.current_thread() or not thread.is_alive():
                    self._kept.pop(thread).close()

    def exchange(self, request: bytes, *, method: str = "POST", end: bool = False) -> Answer:
        """Send these bytes as they are on a connection of their own (`end`: and no more will follow); the answer.

        The answer may come, and the connection end, before all is sent.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_TIMEOUT) as client:
            with suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(request)
                if end:
                    client.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(client, method=method)
            response.begin()
            return self._taken(response)

    def _taken(self, response: http.client.HTTPResponse) -> Answer:
        with response:
            answer = Answer(response.status, response.headers, response.read())
        assert answer.status_code != 500, f"{answer.text}\nThe server wrote:\n{self.output()[-4000:]}"
        return answer


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed a connection on which nothing is under way."""
    client = connection.sock
    if client is None:
        return False
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        client.settimeout(ANSWER_TIMEOUT)


@contextmanager
def running_server(*, healthy: bool = True, **settings: str) -> Iterator[Server]:
    """The real gunicorn with these settings (and no others from outside) on a free port; ended with its block.

    It is waited for until /health is 200 (`healthy=False`: until it answers at all).
    """
    with tempfile.TemporaryDirectory(prefix="signalbox-server-") as folder:
        log = Path(folder) / "output"
        server = _started(log, settings)
        try:
            _wait_for_health(server, (200,) if healthy else (200, 503))
            _wait_for_processes(server, int(settings.get("WEB_CONCURRENCY", "1")))
            yield server
        finally:
            server.hang_up(all_threads=True)
            # Nothing is under way that would have to be waited for. It leads a group of its own.
            with suppress(ProcessLookupError):
                os.killpg(server.program.pid, signal.SIGKILL)
            server.program.wait()


def _started(log: Path, settings: Mapping[str, str]) -> Server:
    """gunicorn inherits the socket, so that nobody can take the port in between and requests wait until it is up."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener, log.open("wb") as output:
        program = start_program(
            COMMAND,
            death_signal=signal.SIGKILL,
            cwd=ROOT,
            env=clean_environment(BIND=f"fd://{listener.fileno()}", **settings),
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        return Server(listener.getsockname()[1], program, log)


def _wait_for_health(server: Server, statuses: tuple[int, ...]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        why = exit_reason(server.program) if server.program.poll() is not None else "no answer in time"
        if server.program.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                if server.open("/health").status_code in statuses:
                    return
        if server.program.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"gunicorn did not start ({why}):\n{server.output()}")
        server.hang_up()
        time.sleep(0.1)


def _wait_for_processes(server: Server, wanted: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while len(server.processes()) != wanted:
        assert time.monotonic() < deadline, f"{len(server.processes())} web processes:\n{server.output()}"
        time.sleep(0.05)


def clean_environment(**settings: str) -> dict[str, str]:
    """What a process needs to find its programs, and `settings`; nothing that the person who tests has set."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | settings


class Redis:
    """A Redis on a Unix socket, without persistence."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self._log = folder / "redis.log"
        self._program: Program | None = None
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        """Have it running and answering."""
        binary = shutil.which("redis-server")
        if binary is None:
            raise AssertionError("redis-server is not installed; these tests need it (apt install redis-server)")
        with self._log.open("ab") as output:
            self._program = start_program(
                [binary, "--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"],
                death_signal=signal.SIGKILL,
                cwd=self._socket.parent,
                env=clean_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._program.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"redis-server did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(5) == b"+PONG"
            except OSError:
                return False

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._program is not None
        end_all([self._program], signal.SIGKILL, 10.0)
        self._socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it hang: it takes connections and answers nothing."""
        assert self._program is not None
        self._program.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        assert self._program is not None
        self._program.send_signal(signal.SIGCONT)


@contextmanager
def running_redis() -> Iterator[Redis]:
    """A Redis of one's own; ended with its block."""
    with tempfile.TemporaryDirectory(prefix="signalbox-redis-") as folder:
        redis = Redis(Path(folder))
        redis.start()
        try:
            yield redis
        finally:
            redis.kill()
