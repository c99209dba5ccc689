"""When connections end: when all slots are taken, after `keepalive`, with the process, and after `max_requests`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.gunicorn import ECHO, Gunicorn, response, running_gunicorn
from tests.support.server import ROOT

HOST = b"Host: x\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
WAITING = """
import time

def app(environ, start_response):
    time.sleep(float(environ["PATH_INFO"][1:] if environ["PATH_INFO"][1:].isdigit() else 0))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_silent_clients_in_all_slots_keep_nobody_out(tmp_path: Path) -> None:
    # As many as deploy/gunicorn.conf.py allows, and some more.
    with running_gunicorn(tmp_path) as server, ExitStack() as stack:
        silent = []
        for _ in range(1_005):
            silent.append(stack.enter_context(closing(server.connect())))
            silent[-1].sendall(GET)
            assert response(silent[-1])
        began = time.monotonic()
        for _ in range(20):
            assert server.exchange(GET).startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - began < 5
        # Only as many as necessary are closed.
        silent[500].sendall(GET)
        assert response(silent[500]).startswith(b"HTTP/1.1 200 OK")


def test_the_connection_that_is_silent_for_the_longest_time_makes_room(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path, settings="\nworker_connections = 3\n") as server, ExitStack() as stack:
        first, second = (stack.enter_context(closing(server.connect())) for _ in range(2))
        for connection in (first, second, first):
            connection.sendall(GET)
            assert response(connection)
        assert server.exchange(GET).startswith(b"HTTP/1.1 200 OK")
        assert second.recv(1) == b""
        first.sendall(GET)
        assert response(first).startswith(b"HTTP/1.1 200 OK")


def test_clients_that_are_never_silent_give_way_after_a_response(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path, WAITING, "\nworker_connections = 2\n") as server, ExitStack() as stack:
        busy = []
        for _ in range(2):
            # The second one takes the last slot, for which the server would close the first one while that is silent.
            busy.append(stack.enter_context(closing(server.connect())))
            busy[-1].sendall(b"GET /1 HTTP/1.1\r\n\r\n" * 10)
        time.sleep(0.3)
        began = time.monotonic()
        assert server.exchange(GET).startswith(b"HTTP/1.1 200 OK")
        assert time.monotonic() - began < 5
        # Responses that were sent before the server accepted both connections do not say so.
        assert any(b"Connection: close" in response(connection) for _ in range(10) for connection in busy)


def test_a_silent_connection_is_kept_for_keepalive_seconds(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path, settings="\nkeepalive = 2\n") as server, closing(server.connect()) as connection:
        connection.sendall(GET)
        response(connection)
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 1.5 < time.monotonic() - began < 10


def stop(server: Gunicorn) -> None:
    server.program.send_signal(signal.SIGTERM)


def test_stopping_does_not_wait_for_connections_without_a_request(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path) as server, closing(server.connect()), closing(server.connect()) as kept:
        kept.sendall(GET)
        response(kept)
        time.sleep(0.2)
        stop(server)
        assert server.program.wait(15) == 0
        assert '"level": "error"' not in server.output.read_text()


def until_refused(server: Gunicorn) -> None:
    """Wait until nobody can connect any more: its processes know that they are to stop."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=20).close()
        except OSError:
            return
        time.sleep(0.02)
    raise AssertionError("it still takes connections")


def test_a_request_that_arrives_while_stopping_is_answered_as_the_last_one(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path, BODY_TIMEOUT="20") as server, closing(server.connect()) as sender:
        sender.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhel")
        # It is being read, since a later one is answered.
        assert server.exchange(GET)
        stop(server)
        until_refused(server)
        sender.sendall(b"lo")
        answer = response(sender)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"hello")
        assert server.program.wait(15) == 0


def test_a_request_on_a_kept_connection_that_arrives_while_stopping_is_answered(tmp_path: Path) -> None:
    # A proxy does not know yet that the process stops, and it never sends a POST again.
    with running_gunicorn(tmp_path) as server, closing(server.connect()) as kept:
        kept.sendall(GET)
        response(kept)
        stop(server)
        until_refused(server)
        kept.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello")
        answer = response(kept)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert server.program.wait(15) == 0


def test_a_response_that_is_being_computed_while_stopping_is_sent(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path, WAITING) as server, closing(server.connect()) as sender:
        sender.sendall(b"GET /2 HTTP/1.1\r\n\r\n")
        time.sleep(0.5)
        stop(server)
        answer = response(sender)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert server.program.wait(15) == 0


def test_a_process_that_has_served_its_requests_ends_after_the_response(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path, settings="\nmax_requests = 4\nmax_requests_jitter = 0\n") as server:
        received = server.exchange_all(GET * 6)
        # The first request is the one by which the test waited for the server.
        assert received.count(b"HTTP/1.1 200 OK") == 3
        assert received.count(b"Connection: close") == 1
        assert server.exchange(GET).count(b"HTTP/1.1 200 OK") == 1


def test_requests_are_logged_where_there_is_an_access_log(tmp_path: Path) -> None:
    with running_gunicorn(tmp_path, settings="\naccesslog = '-'\n") as server:
        server.exchange(b"GET /logged HTTP/1.1\r\n" + HOST + b"\r\n")
        deadline = time.monotonic() + 10
        while not re.search(r'"GET /logged HTTP/1.1" 200', server.output.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_more_than_one_process_without_redis_is_refused(tmp_path: Path) -> None:
    done = started_with(tmp_path, WEB_CONCURRENCY="2")
    assert done.stderr.strip().splitlines()[-1].startswith("Refused to start 2 web processes without REDIS_URL")


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1e9"])
def test_a_body_timeout_that_cannot_be_used_is_refused(tmp_path: Path, value: str) -> None:
    assert (
        f"BODY_TIMEOUT='{value}' cannot be used: expected seconds" in started_with(tmp_path, BODY_TIMEOUT=value).stderr
    )


def started_with(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A gunicorn that refuses to start."""
    (folder / "served.py").write_text(ECHO)
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "deploy/gunicorn.conf.py"), "served:app"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BIND": f"unix:{folder}/socket", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done
