"""Semaphores behave alike with threads and with greenlets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.core.semaphores import make_semaphore

PATCH = "from gevent import monkey; monkey.patch_all()"
WAITS = """
import threading, time
from app.core.semaphores import make_semaphore

semaphore, order = make_semaphore(1), []

def work(name):
    semaphore.acquire()
    order.append(name)
    time.sleep(0.05)
    semaphore.release()

threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
for thread in threads:
    thread.start()
assert not semaphore.acquire(timeout=0.01)
for thread in threads:
    thread.join()
print(type(semaphore).__module__.split(".")[0], " ".join(order))
"""


@pytest.mark.parametrize(("first", "module"), [("", "threading"), (PATCH, "gevent")])
def test_those_who_wait_get_the_permit_in_turn(first: str, module: str) -> None:
    done = subprocess.run([sys.executable, "-c", first + WAITS], capture_output=True, text=True, timeout=60, check=True)
    found, *order = done.stdout.split()
    assert found == module
    assert order == ["a", "b"]


def test_releasing_a_permit_gives_up_nothing_under_gevent() -> None:
    code = """
import gevent
from app.core.semaphores import make_semaphore
seen, semaphore = [], make_semaphore(1)
gevent.spawn(seen.append, 1)
semaphore.acquire(timeout=5)
semaphore.release()
assert seen == []
gevent.sleep(0)
assert seen == [1]
"""
    subprocess.run([sys.executable, "-c", PATCH + code], timeout=60, check=True)


def test_a_permit_that_is_not_free_is_not_given() -> None:
    semaphore = make_semaphore(1)
    assert semaphore.acquire(timeout=0.01)
    assert not semaphore.acquire(timeout=0.01)
    semaphore.release()
    assert semaphore.acquire(timeout=0.01)
