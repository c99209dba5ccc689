"""gunicorn as it is deployed, with a small WSGI app in place of Signalbox, spoken to through raw sockets."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from app.cli.devserver.child_process import Program, start_program
from tests.support.server import ROOT, START_TIMEOUT, clean_environment

# States of a TCP connection in /proc/net/tcp.
_TIME_WAIT, _LISTENS = "06", "0A"

ECHO = """
import itertools

COUNT = itertools.count(1)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("<secret>")
    if environ["PATH_INFO"] == "/unread":
        body, status = b"unread", "401 Unauthorized"
    elif environ["PATH_INFO"] == "/count":
        body, status = b"%d" % next(COUNT), "200 OK"
    elif environ["PATH_INFO"] == "/large":
        body, status = b"x" * 50_000_000, "200 OK"
    else:
        try:
            body, status = environ["wsgi.input"].read(1_000_000), "200 OK"
        except TimeoutError:
            body, status = b"late", "408 Late"
        except OSError:
            body, status = b"broken", "400 Broken"
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]
"""


class Gunicorn:
    """A running gunicorn."""

    def __init__(self, port: int, program: Program, output: Path) -> None:
        self.port = port
        self.program = program
        self.output = output

    def connect(self) -> socket.socket:
        """A new connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, *packets: bytes) -> bytes:
        """Send these packets on a connection of their own; its first response, or all where the server closes it."""
        with closing(self.connect()) as connection:
            for number, packet in enumerate(packets):
                time.sleep(0.002 if number else 0)
                connection.sendall(packet)
            return response(connection)

    def exchange_all(self, *packets: bytes) -> bytes:
        """Send these packets and then say that no more will follow; all responses."""
        received = b""
        with closing(self.connect()) as connection, suppress(ConnectionResetError, BrokenPipeError):
            for number, packet in enumerate(packets):
                time.sleep(0.002 if number else 0)
                connection.sendall(packet)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        return received


@contextmanager
def running_gunicorn(folder: Path, app: str = ECHO, settings: str = "", **environment: str) -> Iterator[Gunicorn]:
    """gunicorn with deploy/gunicorn.conf.py and these further settings, serving the source text `app`."""
    (folder / "served.py").write_text(app)
    (folder / "conf.py").write_text((ROOT / "deploy/gunicorn.conf.py").read_text("utf-8") + settings)
    output = folder / "output"
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener, output.open("wb") as written:
        program = start_program(
            [sys.executable, "-m", "gunicorn", "-c", "conf.py", "served:app"],
            death_signal=signal.SIGKILL,
            cwd=folder,
            env=clean_environment(BIND=f"fd://{listener.fileno()}", **environment) | {"PYTHONPATH": str(ROOT)},
            pass_fds=[listener.fileno()],
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        server = Gunicorn(listener.getsockname()[1], program, output)
    try:
        _wait_until_it_serves(server)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def _wait_until_it_serves(server: Gunicorn) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(OSError):
            if server.exchange(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
                break
        assert server.program.poll() is None, server.output.read_text()
        assert time.monotonic() < deadline, server.output.read_text()
        time.sleep(0.05)
    # The connection of this question takes a slot until the server has closed it.
    while _is_connected(server.port):
        assert time.monotonic() < deadline, "the server keeps a closed connection"
        time.sleep(0.01)


def _is_connected(port: int) -> bool:
    """Whether the server has a connection that is not closed yet (/proc/net/tcp of Linux: proc_net_tcp(5))."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] not in (_LISTENS, _TIME_WAIT) for row in rows)


def response(connection: socket.socket) -> bytes:
    """The next response; where it says `Connection: close`, all up to the end of the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
        length = re.search(rb"Content-Length: (\d+)\r\n(?:.*\r\n)*?\r\n", received)
        if length and b"Connection: close" not in received and len(received) >= length.end() + int(length[1]):
            break
    return received


def responses_while_sending(connection: socket.socket, part: bytes) -> bytes:
    """All that the server sends to a client that sends this part again and again for as long as the connection is open."""
    received, sent = b"", 0
    connection.setblocking(False)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            part = part[(sent := connection.send(part)) :] + part[:sent]
        if select.select([connection], [], [], 0 if sent else 0.01)[0]:
            try:
                if not (came := connection.recv(65536)):
                    return received
            except ConnectionResetError:
                return received
            received += came
        sent = 0
    raise AssertionError("the connection stays open for ever")
