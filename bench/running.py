"""Runs: how many a worker carries out a second, how soon the first call leaves, and what a hundred thousand waits cost."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import psycopg2

from app.cli.devserver.supervisor import Command, stop_together
from app.core.ids import uuid7
from app.core.models import PLANS, Event
from app.db.job_queue import enqueue_runs
from app.ingest.accept import EventAcceptor
from app.ingest.account_cache import AccountCache
from app.services import accounts as services_accounts
from app.services import workflows
from app.services.context import AppContext
from bench.measuring import median, p99
from bench.rows import Row, limited, row
from bench.sending import post_steadily
from bench.servers import Backends, backends, ours
from bench.single import PATH, headers_of

RUNS = 3_000
WAITING = 100_000
EVENTS = 1_500
RATE = 100
MAX_P50, MAX_P99 = 50, 250
MAX_GROWN = 20


class Listener(ThreadingHTTPServer):
    """Notes when each event's call arrives. Answers 200; a path that begins with /500/ gets that status."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.arrived: dict[str, float] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Call(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        now = time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.arrived.setdefault(body["distinct_id"], now)  # type: ignore[attr-defined]
        self.send_response(500 if self.path.startswith("/500/") else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_worker(base: Backends) -> Iterator[Command]:
    command = Command([sys.executable, "-m", "app.cli", "worker"], base.environment)
    command.start()
    try:
        yield command
    finally:
        stop_together([command], 30)


def _account(context: AppContext, step: dict[str, Any]) -> int:
    account = services_accounts.create_account(context, f"bench-{time.monotonic_ns()}", PLANS["unlimited"])
    document = {"name": "bench", "on": "product_view", "steps": [step]}
    workflows.apply_workflow(context, account, json.dumps(document))
    return account


def _start_runs(context: AppContext, account: int, count: int) -> None:
    accounts = AccountCache(context)
    acceptor = EventAcceptor(context, accounts)
    snapshot = accounts.find_by_id(account)
    assert snapshot is not None
    for number in range(count):
        timestamp = context.clock()
        data: dict[str, Any] = {}
        event = Event(uuid7(timestamp), account, "product_view", str(number), None, data, "{}", None, timestamp)
        acceptor.accept(snapshot, lambda current, event=event: event)


def _seconds_until_done(base: Backends, account: int, count: int) -> float:
    began = time.monotonic()
    with psycopg2.connect(base.environment["DATABASE_URL"]) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            while time.monotonic() - began < 120:
                cursor.execute("SELECT count(*) FROM runs WHERE account_id = %s AND status = 'done'", (account,))
                if cursor.fetchone() == (count,):
                    return time.monotonic() - began
                time.sleep(0.02)
    raise SystemExit("the runs were not done in time")


def _rate(base: Backends, context: AppContext, worker: psutil.Process, step: dict[str, Any]) -> float:
    """Runs a second of a worker that finds RUNS of them in the queue: it is stopped while they are put there."""
    account = _account(context, step)
    worker.suspend()
    try:
        _start_runs(context, account, RUNS)
    finally:
        worker.resume()
    return RUNS / _seconds_until_done(base, account, RUNS)


def _process(command: Command) -> psutil.Process:
    assert command.program is not None
    return psutil.Process(command.program.pid)


def runs() -> list[Row]:
    """One worker, with a `log` step and with an `http` step to a local server."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        listener = Listener()
        context = AppContext(base.settings)
        http = {"http": {"url": f"http://127.0.0.1:{listener.server_port}/"}}
        worker = _process(stack.enter_context(running_worker(base)))
        _rate(base, context, worker, {"log": "warm"})
        found = []
        for name, step in (("runs", {"log": "hello"}), ("runs-http", http)):
            rate = median(_rate(base, context, worker, step) for _ in range(3))
            unit = f"runs/s of one worker, one {next(iter(step))} step each"
            found.append(row(name, ours=rate, unit=unit, failures=_unequal(base, context)))
        context.database.close()
    return found


def _unequal(base: Backends, context: AppContext, waiting: int = 0) -> list[str]:
    """Every run that was started is done, and there is one for each event; but for those whose runs wait."""
    events, done = (
        base.query("SELECT count(*) FROM events"),
        base.query("SELECT count(*) FROM runs WHERE status = 'done'"),
    )
    return [] if events - waiting == done else [f"{events:,} events are stored, but {done:,} runs are done"]


def first_call() -> list[Row]:
    """From the time at which an event is due to the arrival of the first call, at 100 events per second (open loop)."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        listener = Listener()
        context = AppContext(base.settings)
        account = _account(context, {"http": {"url": f"http://127.0.0.1:{listener.server_port}/"}})
        headers = headers_of(context, account)
        url, _ = stack.enter_context(ours(base))
        stack.enter_context(running_worker(base))
        time.sleep(3)
        bodies = [
            json.dumps({"event": "product_view", "distinct_id": str(n), "data": {}}).encode() for n in range(EVENTS)
        ]
        sent = asyncio.run(post_steadily(int(url.rsplit(":", 1)[1]), PATH, headers, bodies, rate=RATE))
        time.sleep(2)
        stored = base.stored(account)
    late = [(listener.arrived[str(n)] - due) * 1000 for n, due in sent.due.items() if str(n) in listener.arrived]
    failures = sent.failures(stored)
    if len(late) != EVENTS:
        failures.append(f"{len(late):,} calls arrived for {EVENTS:,} events")
    unit = f"ms from an event to the arrival of its run's first call, {RATE} events/s, "
    return [
        limited("first-call", median(late), MAX_P50, unit=unit + "in the median", failures=failures),
        limited("first-call-p99", p99(late), MAX_P99, unit=unit + "99 % within", slowest=round(max(late), 1)),
    ]


def waiting() -> list[Row]:
    """100,000 runs that wait for tomorrow: throughput of fresh runs, and the worker's memory, against none."""
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        context = AppContext(base.settings)
        process = _process(stack.enter_context(running_worker(base)))
        _rate(base, context, process, {"log": "warm"})
        before = median(_rate(base, context, process, {"log": "hello"}) for _ in range(3))
        memory = process.memory_info().rss
        _fill_with_waits(base, context)
        after = median(_rate(base, context, process, {"log": "hello"}) for _ in range(3))
        grown = (process.memory_info().rss - memory) / 2**20
        # All that wait came from one event.
        failures = _unequal(base, context, waiting=1)
        context.database.close()
    against = "the same with none waiting"
    unit = "runs/s of one worker, 100,000 others waiting"
    return [
        row(
            "waiting",
            ours=after,
            reference=before,
            unit=unit,
            against=against,
            ratio=after / before,
            target=0.9,
            failures=failures,
        ),
        limited("waiting-memory", max(0.0, grown), MAX_GROWN, unit="MiB that the worker grew by"),
    ]


def _fill_with_waits(base: Backends, context: AppContext) -> None:
    """As if a worker had entered all these waits: one statement instead of an hour."""
    account = _account(context, {"wait": "1d"})
    _start_runs(context, account, 1)
    time.sleep(1)
    with psycopg2.connect(base.environment["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute(
            "WITH new AS (INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, "
            "matched, distinct_id, status, at, turn, job, wake_at, step_started_at, created_at, updated_at) "
            "SELECT account_id, gen_random_uuid(), workflow_id, version, 'n' || number, event_id, event_received_at, "
            "matched, distinct_id, status, at, turn, job, wake_at, step_started_at, created_at, updated_at "
            "FROM runs, generate_series(1, %s) AS number WHERE account_id = %s RETURNING account_id, id, job, wake_at) "
            + enqueue_runs("new", number="job", due_at="wake_at"),
            (WAITING, account),
        )
        connection.commit()
        connection.autocommit = True
        cursor.execute("ANALYZE jobs")
        cursor.execute("SELECT count(*) FROM jobs WHERE due_at > now() + %s", (timedelta(hours=1),))
        row = cursor.fetchone()
    assert row is not None and row[0] >= WAITING
