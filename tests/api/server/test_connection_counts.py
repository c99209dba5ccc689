"""New connections go to the web process with the fewest, and never wait for one that is busy or gone."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from psutil import Process

from app.api.server.connection_counts import ConnectionCounts
from tests.support.gunicorn import Gunicorn, response, running_gunicorn
from tests.support.server import ANSWER_TIMEOUT, START_TIMEOUT

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PID = """
import os

def app(environ, start_response):
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gunicorn]:
    with running_gunicorn(tmp_path, PID, WEB_CONCURRENCY="2", REDIS_URL="redis://127.0.0.1:1") as server:
        seen, deadline = set[bytes](), time.monotonic() + START_TIMEOUT
        while len(seen) < 2:
            assert time.monotonic() < deadline, "only one process serves"
            seen.add(server.exchange(GET).rpartition(b"\r\n\r\n")[2])
        yield server


def _process_of(connection: socket.socket) -> int:
    connection.sendall(GET)
    return int(response(connection).rpartition(b"\r\n\r\n")[2])


def test_connections_are_spread_over_the_processes(server: Gunicorn) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(server.connect())) for _ in range(40)]
        counts = Counter(map(_process_of, opened))
        # A process may be late once in a while.
        assert len(counts) == 2
        assert min(counts.values()) >= 15
        # When those of one process have ended, it gets the next ones.
        first = min(counts)
        for connection in opened:
            if _process_of(connection) == first:
                connection.close()
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while len(Process(first).net_connections("tcp")) > 2:
            assert time.monotonic() < deadline, "the process keeps closed connections"
            time.sleep(0.01)
        found = list[int]()
        for _ in range(10):
            found.append(_process_of(stack.enter_context(closing(server.connect()))))
            time.sleep(0.01)
        assert found.count(first) >= 9


def test_nobody_waits_for_a_process_that_does_nothing(server: Gunicorn) -> None:
    with ExitStack() as stack:
        busy, other = _process_of(stack.enter_context(closing(server.connect()))), 0
        while other in (0, busy):
            other = _process_of(stack.enter_context(closing(server.connect())))
        os.kill(other, signal.SIGSTOP)
        try:
            for _ in range(5):
                assert _process_of(stack.enter_context(closing(server.connect()))) == busy
        finally:
            os.kill(other, signal.SIGCONT)


def test_two_processes_never_have_one_number(tmp_path: Path) -> None:
    printing = """
_give_number = pre_fork

def pre_fork(server, worker):
    _give_number(server, worker)
    print("number", worker.number, flush=True)
"""
    settings = {"WEB_CONCURRENCY": "2", "REDIS_URL": "redis://127.0.0.1:1"}
    with running_gunicorn(tmp_path, PID, printing, **settings) as server:
        deadline = time.monotonic() + START_TIMEOUT
        # The new processes start before the old ones end.
        for signalled, expected in ((None, ["1", "2"]), (signal.SIGHUP, ["1", "2", "3", "4"])):
            if signalled:
                os.kill(server.program.pid, signalled)
            while (found := re.findall(r"^number (\d+)$", server.output.read_text(), re.MULTILINE)) != expected:
                assert time.monotonic() < deadline, found
                time.sleep(0.05)


def test_only_processes_that_run_are_compared() -> None:
    counts = ConnectionCounts()
    counts.set(1, 3)
    assert not counts.another_has_fewer(1)
    counts.set(2, 3)
    assert not counts.another_has_fewer(1)
    counts.set(2, 0)
    assert counts.another_has_fewer(1)
    assert not counts.another_has_fewer(2)
    counts.remove(2)
    assert not counts.another_has_fewer(1)


def test_processes_beyond_the_memory_are_not_compared() -> None:
    counts = ConnectionCounts()
    counts.set(1, 0)
    counts.set(100_000, 5)
    counts.remove(100_000)
    assert not counts.another_has_fewer(100_000)
