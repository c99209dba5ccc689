"""Long work lets other threads and greenlets run."""

from __future__ import annotations

import subprocess
import sys

from app.core.pacing import in_pieces

# Two greenlets parse large bodies, while a third one answers on a connection: it must get its turn many times.
SCRIPT = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, socket
from app.core.exact_json import read_value

body = b"[" + b",".join([b'{"a":1}'] * 200_000) + b"]"
left, right = socket.socketpair()
turns = 0

def answer():
    global turns
    while right.recv(1):
        turns += 1
        right.sendall(b"x")

def ask():
    while True:
        left.sendall(b"x")
        left.recv(1)

victims = [gevent.spawn(answer), gevent.spawn(ask)]
gevent.joinall([gevent.spawn(read_value, body), gevent.spawn(read_value, body)], raise_error=True)
print(turns)
"""


def test_a_function_in_pieces_returns_what_it_returns() -> None:
    assert list(map(in_pieces(str), range(200))) == list(map(str, range(200)))


def test_a_connection_is_served_while_large_bodies_are_parsed() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 20
