"""Long work lets other threads and greenlets run."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from app.actions.templates import template_budget
from app.actions.templates.render import Names, Text
from app.actions.templates.render import check as check_template
from app.actions.templates.render import render as render_template
from app.actions.templates.template_budget import MAX_WORK, TemplateBudget
from app.core import pacing
from app.core.errors import Problem
from app.core.exact_json import LARGE, read_object
from app.core.gzip_body import unpack
from app.core.models import EnabledWorkflow
from app.core.pacing import in_pieces
from app.db.accounts import find_account_snapshot
from app.db.event_queries import read_exactly
from app.ingest.limechat.batch_items import split_array, split_lines
from app.ingest.sources.compiled import compile_sources
from app.services.context import AppContext
from app.services.workflows import checked_document
from app.workflows.cxengage import compile_pattern
from app.workflows.matching.rules import compile_rules
from app.workflows.sources.paths import find_members, read_list_path
from app.workflows.yaml_loader import read_document
from tests.support.builders import Sender
from tests.support.sources import a_source

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


# Twenty greenlets do long work in pieces, while two others talk over a connection: how many pieces are done between two words?
MANY = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, socket
from app.actions.templates import template_budget
from app.actions.templates.render import Names, Text
from app.actions.templates.render import check as check_template
from app.actions.templates.render import render as render_template
from app.actions.templates.template_budget import MAX_WORK, TemplateBudget
from app.core import pacing

pacing._PIECE = -1.0
left, right = socket.socketpair()
pieces, between = 0, 0

def answer():
    while right.recv(1):
        right.sendall(b"x")

def ask():
    global between
    while True:
        before = pieces
        left.sendall(b"x")
        left.recv(1)
        between = max(between, pieces - before)

def work():
    global pieces
    for _ in range(10):
        pacing.pause_if_due()
        pieces += 1

talking = [gevent.spawn(answer), gevent.spawn(ask)]
gevent.joinall([gevent.spawn(work) for _ in range(20)], raise_error=True)
assert pieces == 200
print(between)
"""


def test_one_piece_is_done_at_a_time_however_many_requests_have_long_work() -> None:
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) <= 2


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
    monkeypatch.setattr(pacing, "yield_to_others", lambda *seconds: found.append(1))
    return found


def test_others_run_between_the_parts_of_a_pattern_that_is_switched_on(pauses: list[int]) -> None:
    when = f"(any {' '.join(f'(event (= type {number}))' for number in range(50))})"
    document = compile_pattern(when=when, then='(send echo message {:message "x"})', templates={}, name="PT1")
    # Reading the notation, compiling each form, and compiling and checking each filter.
    assert len(pauses) > 4 * 50
    pauses.clear()
    checked_document(json.dumps(document))
    assert len(pauses) > 3 * 50


@pytest.mark.parametrize("text", ["#\n" * 50_000, " " * 100_000, "a" * 100_000, "a " * 50_000, f'"{"a" * 100_000}"'])
def test_others_run_while_long_texts_of_a_document_are_read(text: str, pauses: list[int]) -> None:
    read_document(text)
    assert len(pauses) >= 500


@pytest.mark.parametrize("text", ["{{ data.a }}" * 500, "{% assign x = 1 %}" * 500, {"mustache": "{{a}}" * 500}])
def test_others_run_between_the_tags_of_a_template_that_is_checked(text: Text, pauses: list[int]) -> None:
    assert check_template(text) is None
    assert len(pauses) >= 500


def test_other_requests_run_while_a_template_is_rendered(pauses: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "is_gevent_patched", lambda: True)
    text = "{% for number in (1..1000) %}{{ number | times: 3 }}{% endfor %}"
    pauses.clear()
    budget = TemplateBudget()
    render_template(text, Names({}, strict=True, budget=budget))
    used = MAX_WORK - budget.work_left
    assert len(pauses) >= used // 1_000 > 3


def test_others_run_while_the_data_of_a_stored_event_is_read(pauses: list[int]) -> None:
    read_exactly(json.dumps({"l": [1, 2.5] * 10_000}))
    assert len(pauses) >= 20_000 // 50


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


def test_others_run_between_the_sources_of_an_account_that_is_loaded(
    context: AppContext, client: FlaskClient, acme: Sender, pauses: list[int]
) -> None:
    # Paths only: reading CEL lets others run, too.
    rules = {"event": "item.kind", "distinct_id": "item.who"}
    for number in range(5):
        a_source(context, client, acme.account_id, name=f"shop-{number}", map=rules)
    with context.database.transaction() as connection:
        snapshot = find_account_snapshot(connection, acme.account_id)
    assert snapshot is not None
    pauses.clear()
    assert len(compile_sources(snapshot, context.secrets, {})) == 5
    assert len(pauses) >= 5


def test_others_run_while_the_members_of_lists_are_found(pauses: list[int]) -> None:
    find_members(read_list_path("body[].lines[]"), [{"lines": [1, 2]}] * 100)
    assert len(pauses) >= 300


HALF_A_MEGABYTE = 500_000


def a_list_of(value: str, *, then: str = "null") -> bytes:
    return f'{{"l":[{",".join([value] * (HALF_A_MEGABYTE // (len(value) + 1)))},{then}]}}'.encode()


def test_others_run_while_a_body_is_unpacked(pauses: list[int]) -> None:
    unpack(gzip.compress(bytes(8 * HALF_A_MEGABYTE)), 8 * HALF_A_MEGABYTE)
    assert len(pauses) >= 8 * HALF_A_MEGABYTE // 65_536


@pytest.mark.parametrize(
    "value", ['["a"]', '[""]', "[]", "[1]", '{"a":"b"}', '{"a":[{}]}', "[[[[]]]]", "1", "1e5", '"[["']
)
def test_others_run_while_a_large_body_is_read(value: str, pauses: list[int]) -> None:
    read_object(a_list_of(value))
    assert len(pauses) >= HALF_A_MEGABYTE // LARGE


def test_others_run_between_the_members_of_a_large_body(pauses: list[int]) -> None:
    read_object(json.dumps({f"k{number}": None for number in range(40_000)}).encode())
    assert len(pauses) >= 40_000 // 50


@pytest.mark.parametrize(
    ("value", "last"), [("1", "1e999999"), ('"a"', "NaN"), ('"a"', '"\\u0000"'), ("[]", 70 * "[" + 70 * "]")]
)
def test_others_run_until_the_fault_of_a_large_body_is_found(value: str, last: str, pauses: list[int]) -> None:
    with pytest.raises(Problem):
        read_object(a_list_of(value, then=last))
    assert len(pauses) >= HALF_A_MEGABYTE // LARGE


def test_others_run_while_blank_lines_are_skipped(pauses: list[int]) -> None:
    assert split_lines(b"\n" * 8 * HALF_A_MEGABYTE + b"{}", 10) == [(8 * HALF_A_MEGABYTE, 8 * HALF_A_MEGABYTE + 2)]
    assert len(pauses) >= 8 * HALF_A_MEGABYTE // 65_536


def test_an_item_that_is_too_large_is_not_parsed(pauses: list[int]) -> None:
    large = b"[" + b",".join([b"[]"] * 300_000) + b"]"
    tracemalloc.start()
    parts = split_array(b"[{}," + large + b", {}]", 10, HALF_A_MEGABYTE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert list(map(bytes, parts)) == [b"{}", large, b"{}"]
    assert len(pauses) >= len(large) // LARGE
    assert peak < 10 * len(large)
