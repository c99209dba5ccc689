"""Web processes are forked from one that has loaded everything: they share its memory, and no connection."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import combinations
from pathlib import Path

import psutil

from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.builders import EVENTS_PATH, a_sender, an_event
from tests.support.server import Server, running_server


def sockets(pid: int) -> set[str]:
    """The sockets that a process has open, each by its number in the kernel."""
    opened = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())
    return {target for target in opened if target.startswith("socket:")}


def test_no_connection_is_shared_by_two_processes(context: AppContext, two_processes: Server) -> None:
    sender = a_sender(context, two_processes, plan="standard")
    headers = {"Content-Type": "application/json", **sender.headers()}
    data = json.dumps(an_event()).encode()
    with two_processes.connected_to_each() as each:
        for connection in each:
            # Each process has Postgres (by its pool and by the hot path) and Redis open now.
            answer = two_processes.request_on(connection, EVENTS_PATH, method="POST", data=data, headers=headers)
            assert answer.status_code == 200
        opened = [sockets(pid) for pid in (two_processes.program.pid, *two_processes.processes())]
    listening = opened[0]
    assert len(listening) == 1
    for one, other in combinations(opened, 2):
        assert one & other == listening
    assert all(len(mine - listening) >= 3 for mine in opened[1:])


def test_no_thread_is_started_before_the_fork(context: AppContext) -> None:
    # A thread that a forked process inherits is broken, and gevent says so on standard error.
    with running_server(**settings_of(context)) as running:
        assert a_sender(context, running).post(an_event()).status_code == 200
        written = running.output()
    assert "Traceback" not in written
    assert "failed with" not in written


def test_a_process_that_is_killed_is_replaced_and_its_successor_takes_events(
    context: AppContext, two_processes: Server
) -> None:
    before = two_processes.processes()
    os.kill(before[0], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while before[0] in two_processes.processes() or len(two_processes.processes()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    two_processes.hang_up(all_threads=True)
    assert before[0] not in {child.pid for child in psutil.Process(two_processes.program.pid).children()}
    sender = a_sender(context, two_processes)
    headers = {"Content-Type": "application/json", **sender.headers()}
    data = json.dumps(an_event()).encode()
    with two_processes.connected_to_each() as each:
        statuses = [
            two_processes.request_on(connection, EVENTS_PATH, method="POST", data=data, headers=headers).status_code
            for connection in each
        ]
    assert statuses == [200, 200]
