"""Concurrent batches, a crash, and the largest size: nothing is stored twice or in part, and memory is bounded."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.core.models import PLANS
from app.ingest.accept_batch import BatchTransaction, make_receipt
from app.ingest.batch_drafts import make_item_ids, read_drafts
from app.ingest.limechat.received_batch import ReceivedBatch
from app.services import accounts, workflows
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.acceptance import current_account
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.server import Answer, Server, running_server

KEYS, SIZE, BATCHES, THREADS = 300, 100, 24, 6
PATTERN = {"times": 2, "of": "product_view"}


def event_with_key(number: int) -> dict[str, Any]:
    return an_event(idempotency_key=f"k{number}", distinct_id=f"s{number % 40}", data={"n": number})


def test_concurrent_overlapping_batches_store_each_key_once(
    context: AppContext, two_processes: Server, rows: Rows
) -> None:
    sender = a_sender(context, two_processes)
    workflows.apply_workflow(context, sender.account_id, a_workflow(name="each"))
    workflows.apply_workflow(context, sender.account_id, a_workflow(name="second", on=PATTERN))
    rng = random.Random(7)
    batches = [[event_with_key(number) for number in rng.sample(range(KEYS), SIZE)] for _ in range(BATCHES)]
    barrier = threading.Barrier(THREADS)

    def send(share: int) -> list[tuple[list[dict[str, Any]], Answer]]:
        barrier.wait()
        return [(batch, sender.post_batch(batch)) for batch in batches[share::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        answered = [pair for pairs in pool.map(send, range(THREADS)) for pair in pairs]
    assert [answer.status_code for _, answer in answered] == [200] * BATCHES, [answer.text for _, answer in answered]
    id_of: dict[str, set[str]] = {}
    for batch, answer in answered:
        for item, event_id in zip(batch, answer.json["ids"], strict=True):
            id_of.setdefault(item["idempotency_key"], set()).add(event_id)
    assert {len(ids) for ids in id_of.values()} == {1}
    assert sum(answer.json["accepted"] for _, answer in answered) == len(id_of)
    stored = "SELECT count(*), count(DISTINCT idempotency_key) FROM events WHERE account_id = %s"
    assert rows(stored, sender.account_id) == [(len(id_of), len(id_of))]
    started = "SELECT name, count(*) FROM runs JOIN workflows ON id = workflow_id WHERE runs.account_id = %s GROUP BY 1"
    subjects = rows(
        "SELECT distinct_id, count(*) FROM events WHERE account_id = %s GROUP BY 1 ORDER BY 1", sender.account_id
    )
    pairs = sum(int(str(count)) // 2 for _, count in subjects)
    found = rows(started.replace("JOIN workflows ON id", "JOIN workflows ON workflows.id"), sender.account_id)
    assert dict(found) == {"each": len(id_of), "second": pairs}  # type: ignore[arg-type]


def test_concurrent_single_events_and_batches_are_all_stored(
    context: AppContext, two_processes: Server, rows: Rows
) -> None:
    sender = a_sender(context, two_processes)
    workflows.apply_workflow(context, sender.account_id, a_workflow(on=PATTERN))
    subjects = [f"s{number}" for number in range(10)]

    def singles(_: int) -> list[int]:
        return [sender.post(an_event(distinct_id=subject)).status_code for subject in subjects * 3]

    def batches(_: int) -> list[int]:
        return [
            sender.post_batch([an_event(distinct_id=subject) for subject in subjects]).status_code for _ in range(6)
        ]

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(work, number) for number in range(2) for work in (singles, batches)]
        assert {status for one in done for status in one.result()} == {200}
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", sender.account_id) == [(180,)]
    assert rows("SELECT count(*) FROM runs WHERE account_id = %s", sender.account_id) == [(90,)]
    order = "SELECT max(array_length(matched, 1)) = 2, count(DISTINCT m) = 180 FROM runs, unnest(matched) m WHERE account_id = %s"
    assert rows(order, sender.account_id) == [(True, True)]


def test_with_redis_a_batch_larger_than_the_rate_takes_its_seconds_on_all_processes(
    context: AppContext, two_processes: Server
) -> None:
    sender = a_sender(context, two_processes, plan="trial")
    accounts.change_plan(context, sender.account_id, PLANS["trial"], 2)
    first = sender.post_batch([an_event()] * 120)
    assert (first.status_code, first.headers["RateLimit-Reset"]) == (200, "60")
    later = [sender.post(an_event()), sender.post_batch([an_event()] * 3)]
    assert [answer.status_code for answer in later] == [429, 429]
    assert all(1 < int(answer.headers["Retry-After"]) <= 60 for answer in later)


# In a crash


@pytest.fixture
def mortal(own_postgres: EmbeddedPostgres, own_context: AppContext) -> Iterator[Server]:
    """A web process that a test may kill."""
    with running_server(**settings_of(own_context), STATEMENT_TIMEOUT="60") as running:
        yield running


def _wait_for_lock(cursor: Any) -> None:
    """Wait until somebody waits for a lock."""
    cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while not cursor.fetchone()[0]:
        time.sleep(0.02)
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")


@pytest.mark.parametrize("ends", ["web", "connection"])
def test_a_batch_that_ends_in_the_middle_leaves_nothing_or_all(
    own_postgres: EmbeddedPostgres, own_context: AppContext, mortal: Server, ends: str
) -> None:
    sender = a_sender(own_context, mortal)
    workflows.apply_workflow(own_context, sender.account_id, a_workflow())
    items = [event_with_key(number) for number in range(2_000)]
    answers: list[Answer] = []

    def send() -> None:
        with suppress(OSError, http.client.HTTPException):
            answers.append(sender.post_batch(items))

    with closing(psycopg2.connect(own_postgres.url)) as blocking, blocking.cursor() as cursor:
        # All rows are written, the runs are not: there it stops.
        cursor.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
        with closing(psycopg2.connect(own_postgres.url)) as looking:
            looking.autocommit = True
            thread = threading.Thread(target=send)
            thread.start()
            with looking.cursor() as eye:
                _wait_for_lock(eye)
                if ends == "web":
                    os.killpg(mortal.program.pid, signal.SIGKILL)
                else:
                    eye.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        blocking.rollback()
        thread.join()
        _wait_for_transactions(cursor)
        # On a slow machine some events are left to a worker to match, which starts their runs.
        cursor.execute(
            "SELECT (SELECT count(*) FROM events WHERE account_id = %(account)s),"
            " (SELECT count(*) FROM runs WHERE account_id = %(account)s)"
            " + (SELECT count(*) FROM jobs WHERE kind = 'match' AND payload LIKE %(account)s || ':%%'),"
            " (SELECT count(*) FROM idempotency_keys WHERE account_id = %(account)s)",
            {"account": sender.account_id},
        )
        found = cursor.fetchone()
    if ends == "web":
        assert answers == []
        assert found == (0, 0, 0)
    else:
        assert [(answer.status_code, answer.json["accepted"]) for answer in answers] == [(200, 2_000)]
        assert found == (2_000, 2_000, 2_000)


@pytest.mark.parametrize("keys", [False, True])
def test_a_commit_whose_response_was_lost_is_not_repeated(
    context: AppContext, acme: Sender, rows: Rows, keys: bool
) -> None:
    account = current_account(context, acme.token)
    texts = [json.dumps(event_with_key(number) if keys else an_event()).encode() for number in range(5)]
    received = ReceivedBatch(acme.account_id, 5, texts.__getitem__, None, 100_000)
    item_ids = make_item_ids(5, context.clock())
    drafts = read_drafts(account, received, item_ids, context.limits.shares)
    transaction = BatchTransaction(account, received, item_ids, drafts, context.limits.shares)
    assert context.database.run_with_reconnect(transaction.write)
    repeated = context.database.run_with_reconnect(transaction.write)
    assert repeated
    receipt = make_receipt(received, drafts, repeated)
    assert (receipt.accepted, receipt.duplicates) == (5, 0)
    assert rows("SELECT id FROM events WHERE account_id = %s ORDER BY id", acme.account_id) == [
        (str(event_id),) for event_id in receipt.ids
    ]


def _wait_for_transactions(cursor: Any) -> None:
    """Wait until no other transaction is open."""
    while True:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()")
        if not cursor.fetchone()[0]:
            return
        cursor.connection.rollback()
        time.sleep(0.05)


# Of the largest size


def test_memory_is_bounded_for_any_content_of_events(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server)
    sender.post_batch([{"event": "x", "distinct_id": "1"}] * 10)
    # As Python values each of these takes twenty times its length: 200 MB if all were held at once.
    inside = ",".join(["[]"] * 60 + ["1.5"] * 450)
    one = '{"event": "x", "distinct_id": "1", "data": {"l": [' + inside + "]}}"
    body = gzip.compress(b"[" + b",".join([one.encode()] * 4_900) + b"]", 1)
    before = _peak(server)
    answer = sender.post_batch(body, Content_Encoding="gzip")
    assert (answer.status_code, answer.json["accepted"]) == (200, 4_900)
    assert _peak(server) - before < 90


def _peak(server: Server) -> int:
    """The most memory that a web process has ever had, in MB."""
    peaks = []
    for child in psutil.Process(server.program.pid).children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        peaks.append(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))
    return max(peaks) // 1024


def test_a_million_items_are_refused_before_they_are_held(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server)
    assert sender.post_batch([]).status_code == 200
    body = gzip.compress(b"[" + b"1," * 4_000_000 + b"1]", 1)
    before = _peak(server)
    assert sender.post_batch(body, Content_Encoding="gzip").status_code == 413
    lines = gzip.compress(b"1\n" * 4_000_000, 1)
    assert sender.post_lines(lines, Content_Encoding="gzip").status_code == 413
    assert _peak(server) - before < 60


def test_a_batch_of_blank_lines_is_empty(context: AppContext, server: Server) -> None:
    sender = a_sender(context, server)
    assert sender.post_lines(gzip.compress(b"\n" * 10_000_000, 1), Content_Encoding="gzip").json["ids"] == []
    assert json.loads(sender.post_lines(b"").data)["accepted"] == 0
