"""Concurrent callers get their own results, whoever leads the batch."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.core import group_commit
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
first = gevent.spawn(group.submit, 1)
called.wait()
others = [gevent.spawn(group.submit, number) for number in (2, 3, 4)]
gevent.idle()
others[0].kill()
go.set()
# The next leader is killed after it was woken, and before it goes on.
first.link(lambda _: others[1].kill(block=False))
results = others[2].get(timeout=20), group.submit(5)
# The same for a leader that waits for callers.
group._last_size = 2
waiting = gevent.spawn(group.submit, 6)
gevent.sleep(0)
waiting.kill()
print(isinstance(waiting.value, gevent.GreenletExit), group.submit(7))
print(first.value, results, [isinstance(other.value, gevent.GreenletExit) for other in others])
"""


def test_callers_that_are_killed_while_they_wait_block_nobody() -> None:
    program = [sys.executable, "-c", WAITERS_KILLED]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    alone, others = ended.stdout.splitlines()
    assert alone == "True 7", ended.stderr
    assert others.startswith("1 (4, 5) [True, ")


def a_batch_of_two(group: GroupCommit[int, int], doubling: Doubling, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(group.submit, 1)
    assert doubling.called.wait(10)
    others = []
    for number in (2, 3):
        others.append(threads.submit(group.submit, number))
        until_waiting(group, len(others))
    for _ in range(2):
        doubling.go.release()
    assert [first.result(10), *(other.result(10) for other in others)] == [2, 4, 6]


def test_a_leader_waits_for_as_many_callers_as_the_last_batch_had(monkeypatch: pytest.MonkeyPatch) -> None:
    doubling = Doubling()
    group = GroupCommit(doubling, max_batch=3)
    monkeypatch.setattr(group_commit, "_MAX_WAIT", 60)
    with ThreadPoolExecutor(8) as threads:
        a_batch_of_two(group, doubling, threads)
        doubling.go.release()
        leader = threads.submit(group.submit, 4)
        while group._waiting_leader is None:
            threading.Event().wait(0.001)
        assert threads.submit(group.submit, 5).result(10) == 10
        assert leader.result(10) == 8
    assert doubling.batches == [[1], [2, 3], [4, 5]]


def test_a_leader_to_whom_nobody_comes_goes_on_alone() -> None:
    doubling = Doubling()
    group = GroupCommit(doubling, max_batch=3)
    with ThreadPoolExecutor(8) as threads:
        a_batch_of_two(group, doubling, threads)
        for number in (4, 5):
            doubling.go.release()
            assert threads.submit(group.submit, number).result(10) == 2 * number
    assert doubling.batches == [[1], [2, 3], [4], [5]]


RESTLESS = """
from gevent import monkey
monkey.patch_all()
import gevent
import socket
from app.core.group_commit import GroupCommit

group = GroupCommit(list, max_batch=50)
group._last_size = 2

def iterate(here, there):
    # An event loop that never rests: more arrives as soon as something has been read.
    while True:
        here.send(b".")
        there.recv(1)
        gevent.socket.wait_write(here.fileno())

restless = [gevent.spawn(iterate, *socket.socketpair()) for _ in range(20)]
gevent.sleep(0.01)
with gevent.Timeout(20):
    print(group.submit(1))
gevent.killall(restless)
"""


def test_a_leader_never_waits_for_ever() -> None:
    program = [sys.executable, "-c", RESTLESS]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert ended.stdout == "1\n", ended.stderr
