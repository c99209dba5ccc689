"""Concurrent callers get their own answers, whoever asked for them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.core.errors import Unavailable
from app.core.group_commit import Gathering

ROOT = Path(__file__).resolve().parents[2]


class Doubling:
    """Answers with twice the item; each portion waits to be let through."""

    def __init__(self) -> None:
        self.portions: list[list[int]] = []
        self.asked = threading.Event()
        self.go = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.portions.append(list(items))
        self.asked.set()
        assert self.go.acquire(timeout=10)
        if 13 in items:
            raise Unavailable("thirteen")
        return [2 * item for item in items]


def until_waiting(gathering: Gathering[int, int], number: int) -> None:
    while len(gathering._callers) < number:
        threading.Event().wait(0.001)


def test_those_who_come_while_one_is_asked_for_are_asked_for_together() -> None:
    doubling = Doubling()
    gathering = Gathering(doubling, portion=3)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(gathering.ask, 1)
        assert doubling.asked.wait(10)
        others = []
        for number in range(2, 8):
            others.append(threads.submit(gathering.ask, number))
            until_waiting(gathering, number - 1)
        for _ in range(3):
            doubling.go.release()
        assert [first.result(10), *(other.result(10) for other in others)] == [2, 4, 6, 8, 10, 12, 14]
    assert doubling.portions == [[1], [2, 3, 4], [5, 6, 7]]


def test_trouble_is_told_to_all_of_its_portion_and_to_nobody_else() -> None:
    doubling = Doubling()
    gathering = Gathering(doubling, portion=2)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(gathering.ask, 1)
        assert doubling.asked.wait(10)
        others = []
        for number in (13, 2, 3):
            others.append(threads.submit(gathering.ask, number))
            until_waiting(gathering, len(others))
        for _ in range(3):
            doubling.go.release()
        assert first.result(10) == 2
        for other in others[:2]:
            with pytest.raises(Unavailable, match="thirteen"):
                other.result(10)
        assert others[2].result(10) == 6


def test_a_caller_that_is_stopped_takes_nobody_along() -> None:
    asked, go = threading.Event(), threading.Event()

    def stop(items: Sequence[int]) -> list[int]:
        asked.set()
        assert go.wait(10)
        if 1 in items:
            raise SystemExit
        return list(items)

    gathering = Gathering(stop, portion=1)
    with ThreadPoolExecutor(2) as threads:
        stopped = threads.submit(gathering.ask, 1)
        assert asked.wait(10)
        other = threads.submit(gathering.ask, 2)
        until_waiting(gathering, 1)
        go.set()
        with pytest.raises(SystemExit):
            stopped.result(10)
        assert other.result(10) == 2


def test_many_threads_each_get_their_own() -> None:
    gathering = Gathering(lambda items: [-item for item in items], portion=7)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(gathering.ask, range(5_000))) == [-number for number in range(5_000)]


WAITERS_KILLED = """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.event import Event
from app.core.group_commit import Gathering

asked, go = Event(), Event()

def answer(items):
    asked.set()
    go.wait()
    return list(items)

gathering = Gathering(answer, portion=1)
alone = gevent.spawn(gathering.ask, 0)
gevent.idle()
alone.kill()
first = gevent.spawn(gathering.ask, 1)
asked.wait()
others = [gevent.spawn(gathering.ask, number) for number in (2, 3, 4)]
gevent.idle()
others[0].kill()
go.set()
# The next in turn is stopped after it was told that it is its turn, and before it goes on.
first.link(lambda _: others[1].kill(block=False))
told = others[2].get(timeout=20), gathering.ask(5)
print(first.value, told, [isinstance(other.value, gevent.GreenletExit) for other in others])
"""


def test_callers_that_are_killed_while_they_wait_hold_up_nobody() -> None:
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
from app.core.group_commit import Gathering

portions = []

def answer(items):
    portions.append(len(items))
    return list(items)

gathering = Gathering(answer, portion=50)
pairs = [socket.socketpair() for _ in range(20)]

def serve(number, here):
    for _ in range(number):
        gevent.socket.wait_write(here.fileno())
    return gathering.ask(number)

# Each is on its way for one turn of the event loop longer than the one before.
gevent.joinall([gevent.spawn(serve, number, here) for number, (here, _) in enumerate(pairs)])
print(portions)

# Somebody who never lets the event loop rest: more arrives as soon as something has been read.
turns = 0

def turn(here, there):
    global turns
    while True:
        here.send(b".")
        there.recv(1)
        turns += 1
        gevent.socket.wait_write(here.fileno())

restless = [gevent.spawn(turn, *pair) for pair in pairs]
gevent.sleep(0.01)
before = turns
with gevent.Timeout(20):
    gathering.ask(1)
print(turns > before)
gevent.killall(restless)
"""


def test_what_has_arrived_by_now_comes_along_and_without_an_end_of_it_nobody_waits_for_ever() -> None:
    program = [sys.executable, "-c", ARRIVED]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert ended.stdout.splitlines() == ["[20]", "True"], ended.stderr
