"""Long work lets other threads and greenlets run."""

from __future__ import annotations

import json
import subprocess
import sys
from uuid import UUID

import pytest

from app.core import pacing
from app.core.models import EnabledWorkflow
from app.core.pacing import in_pieces
from app.services.workflows import checked_document
from app.workflows.cxengage import compile_pattern
from app.workflows.matching.rules import compile_rules

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


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One member for each time that others could run, as if every part took long."""
    found: list[int] = []
    monkeypatch.setattr(pacing, "_PIECE", -1.0)
    monkeypatch.setattr(pacing, "yield_to_others", lambda: found.append(1))
    return found


def test_others_run_between_the_parts_of_a_pattern_that_is_switched_on(pauses: list[int]) -> None:
    when = f"(any {' '.join(f'(event (= type {number}))' for number in range(50))})"
    document = compile_pattern(when=when, then='(send echo message {:message "x"})', templates={}, name="PT1")
    # Reading the notation, compiling each form, and compiling and checking each filter.
    assert len(pauses) > 4 * 50
    pauses.clear()
    checked_document(json.dumps(document))
    assert len(pauses) > 3 * 50


def test_others_run_between_the_filters_of_an_account_that_is_loaded(pauses: list[int]) -> None:
    on = {"any": [{"event": "order", "where": f"data.total == {number}"} for number in range(20)]}
    workflow = EnabledWorkflow(
        id=UUID(int=1),
        name="thanks",
        version=1,
        document={"on": on, "steps": []},
        enablement=1,
        triggers=frozenset(["order"]),
    )
    compile_rules([workflow])
    assert len(pauses) >= 20
