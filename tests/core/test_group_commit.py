"""Concurrent callers get their own results, whoever leads the batch."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.core.errors import Unavailable
from app.core.group_commit import GroupCommit

ROOT = Path(__file__).resolve().parents[2]


class Doubling:
    """Doubles the items; each batch waits until it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.called = threading.Event()
        self.go = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.called.set()
        assert self.go.acquire(timeout=10)
        if 13 in items:
            raise Unavailable("thirteen")
        return [2 * item for item in items]


def until_waiting(group: GroupCommit[int, int], number: int) -> None:
    while len(group._followers) < number:
        threading.Event().wait(0.001)


def test_items_submitted_during_a_batch_make_the_next_batches() -> None:
    doubling = Doubling()
    group = GroupCommit(doubling, max_batch=3)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(group.submit, 1)
        assert doubling.called.wait(10)
        others = []
        for number in range(2, 8):
            others.append(threads.submit(group.submit, number))
            until_waiting(group, number - 1)
        for _ in range(3):
            doubling.go.release()
        assert [first.result(10), *(other.result(10) for other in others)] == [2, 4, 6, 8, 10, 12, 14]
    assert doubling.batches == [[1], [2, 3, 4], [5, 6, 7]]


def test_an_error_is_raised_to_its_batch_and_to_nobody_else() -> None:
    doubling = Doubling()
    group = GroupCommit(doubling, max_batch=2)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(group.submit, 1)
        assert doubling.called.wait(10)
        others = []
        for number in (13, 2, 3):
            others.append(threads.submit(group.submit, number))
            until_waiting(group, len(others))
        for _ in range(3):
            doubling.go.release()
        assert first.result(10) == 2
        for other in others[:2]:
            with pytest.raises(Unavailable, match="thirteen"):
                other.result(10)
        assert others[2].result(10) == 6


def test_a_leader_that_is_stopped_stops_nobody_else() -> None:
    called, go = threading.Event(), threading.Event()

    def stop(items: Sequence[int]) -> list[int]:
        called.set()
        assert go.wait(10)
        if 1 in items:
            raise SystemExit
        return list(items)

    group = GroupCommit(stop, max_batch=1)
    with ThreadPoolExecutor(2) as threads:
        stopped = threads.submit(group.submit, 1)
        assert called.wait(10)
        other = threads.submit(group.submit, 2)
        until_waiting(group, 1)
        go.set()
        with pytest.raises(SystemExit):
            stopped.result(10)
        assert other.result(10) == 2


def test_many_threads_each_get_their_own_result() -> None:
    group = GroupCommit(lambda items: [-item for item in items], max_batch=7)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(group.submit, range(5_000))) == [-number for number in range(5_000)]


WAITERS_KILLED = """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.event import Event
from app.core.group_commit import GroupCommit

called, go = Event(), Event()

def process(items):
    called.set()
    go.wait()
    return list(items)

group = GroupCommit(process, max_batch=1)
alone = gevent.spawn(group.submit, 0)
gevent.idle()
alone.kill()
first = gevent.spawn(group.submit, 1)
called.wait()
others = [gevent.spawn(group.submit, number) for number in (2, 3, 4)]
gevent.idle()
others[0].kill()
go.set()
# The next leader is killed after it was woken, and before it goes on.
first.link(lambda _: others[1].kill(block=False))
results = others[2].get(timeout=20), group.submit(5)
print(first.value, results, [isinstance(other.value, gevent.GreenletExit) for other in others])
"""


def test_callers_that_are_killed_while_they_wait_block_nobody() -> None:
    program = [sys.executable, "-c", WAITERS_KILLED]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert ended.stdout.startswith("1 (4, 5) [True, "), ended.stderr


ARRIVED = """
from gevent import monkey
monkey.patch_all()
import gevent
import os
import socket
import time
from app.core import group_commit
from app.core.group_commit import GroupCommit

batches = []

def process(items):
    batches.append(len(items))
    return list(items)

group = GroupCommit(process, max_batch=50)
pairs = [socket.socketpair() for _ in range(20)]

def serve(number, here):
    for _ in range(number):
        gevent.socket.wait_write(here.fileno())
    return group.submit(number)

# On a busy machine this takes longer than the bound that the second part tests.
bound, group_commit._MAX_YIELD = group_commit._MAX_YIELD, 20
# Each submits one iteration of the event loop later than the one before.
gevent.joinall([gevent.spawn(serve, number, here) for number, (here, _) in enumerate(pairs)])
print(batches)
group_commit._MAX_YIELD = bound

# An event loop that never rests: more arrives as soon as something has been read.
iterations = 0

def iterate(here, there):
    global iterations
    while True:
        here.send(b".")
        there.recv(1)
        iterations += 1
        gevent.socket.wait_write(here.fileno())

restless = [gevent.spawn(iterate, *pair) for pair in pairs]
gevent.sleep(0.01)
before = iterations
with gevent.Timeout(20):
    group.submit(1)
print(iterations > before)
gevent.killall(restless)
"""


def test_a_batch_takes_what_has_arrived_and_never_waits_for_ever() -> None:
    program = [sys.executable, "-c", ARRIVED]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert ended.stdout.splitlines() == ["[20]", "True"], ended.stderr
