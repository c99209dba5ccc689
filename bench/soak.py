"""Half an hour of steady load with retention at work: memory, the age of the queue, and the size of tables have to stay bounded.

300 events a second, every fifth starts a run; meanwhile an account whose events are past their retention gets more of them, in
months before this one, and more idempotency keys that are forgotten by now.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psutil
import psycopg2

from app.core.durations import RETENTION
from app.core.models import PLANS
from app.services import accounts, workflows
from app.services.context import AppContext
from app.services.partitions import make_partitions
from app.services.retention import change_retention
from bench.measuring import median
from bench.rows import Row, limited
from bench.running import running_worker
from bench.sending import post_steadily
from bench.servers import Backends, backends, ours
from bench.single import PATH, headers_of

SECONDS = 1_800
RATE, STARTING = 300, 5
# How long the events of the account that keeps them for less are kept, and how old its expired ones are.
KEPT, SHARED_AGE, ALONE_AGE = timedelta(days=30), timedelta(days=70), timedelta(days=150)
EXPIRED_AT_BEGIN, EXPIRED_A_SLICE = 50_000, 2_000
SLICE_SECONDS, SAMPLE_SECONDS = 10, 1.0
# Within so many seconds after an event is past its retention, it is deleted.
ROUND_SECONDS = 360
# The first part of the samples, in which processes load what they need and tables get their first free space, is left out.
WARM_UP = 1 / 3
MAX_GROWTH, MAX_QUEUE_AGE, MAX_TABLE_GROWTH = 1.05, 1.0, 1.5
# Tables whose rows come and go. `old events`: the partition of the month in which one account's events are deleted while another
# account keeps its own.
TABLES = ("jobs", "workers", "idempotency_keys", "old events")

_QUEUE_AGE = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float FROM jobs WHERE due_at <= clock_timestamp()
"""
_SIZES = "SELECT array_agg(pg_total_relation_size(to_regclass(name)) / 1048576.0::float) FROM unnest(%s) AS name"
_PARTITION = "SELECT name FROM events_partitions() WHERE starts <= %s AND ends > %s"
_ADD_EXPIRED = """
INSERT INTO events (account_id, id, event, distinct_id, data, received_at)
SELECT %s, overlay(overlay(gen_random_uuid()::text PLACING substr(milliseconds, 1, 8) FROM 1 FOR 8) PLACING
        substr(milliseconds, 9, 4) || '-7' FROM 10 FOR 6)::uuid, 'old', number::text, '{}', %s
FROM generate_series(1, %s) AS number,
    lpad(to_hex((extract(epoch FROM %s::timestamptz) * 1000)::bigint), 12, '0') AS milliseconds
"""
_ADD_FORGOTTEN = """
INSERT INTO idempotency_keys (account_id, key, digest, event_id, received_at)
SELECT %s, gen_random_uuid()::text, '\\x00', gen_random_uuid(), now() - %s FROM generate_series(1, %s)
"""


@dataclass
class Samples:
    """What was seen, in the order of time: the unique memory (USS) of each process in MiB, the age of the oldest due job in
    seconds, and the size of each of TABLES in MiB."""

    memory: list[tuple[float, ...]] = field(default_factory=list)
    queue_age: list[float] = field(default_factory=list)
    tables: list[tuple[float, ...]] = field(default_factory=list)


def soak() -> list[Row]:
    """SOAK_SECONDS (half an hour) of load."""
    seconds = float(os.environ.get("SOAK_SECONDS", SECONDS))
    with ExitStack() as stack:
        base = stack.enter_context(backends())
        context = AppContext(base.settings)
        sender, old = _accounts(context)
        now = context.clock()
        make_partitions(context, [now - SHARED_AGE, now - ALONE_AGE])
        _add_expired(base, old, now - ALONE_AGE, EXPIRED_AT_BEGIN)
        for account in (old, sender):
            _add_expired(base, account, now - SHARED_AGE, EXPIRED_AT_BEGIN)
        headers = headers_of(context, sender)
        url, gunicorn = stack.enter_context(ours(base, "--max-requests", "0"))
        command = stack.enter_context(running_worker(base))
        assert command.program is not None
        with _sampling(base, gunicorn, command.program.pid, now - SHARED_AGE) as samples:
            answered, refused = _post(base, int(url.rsplit(":", 1)[1]), headers, old, now - SHARED_AGE, seconds)
        failures = _failures(base, sender, old, answered, refused)
    return _rows(samples, failures)


def _accounts(context: AppContext) -> tuple[int, int]:
    """The account that sends, and one that keeps its events for a month."""
    sender = accounts.create_account(context, "sender", PLANS["unlimited"])
    workflows.apply_workflow(context, sender, json.dumps({"name": "soak", "on": "order", "steps": [{"log": "hello"}]}))
    old = accounts.create_account(context, "old", PLANS["unlimited"])
    change_retention(context, old, "old", {"events": KEPT})
    return sender, old


def _add_expired(base: Backends, account: int, at: datetime, count: int) -> None:
    with psycopg2.connect(base.url) as connection, connection.cursor() as cursor:
        cursor.execute(_ADD_EXPIRED, (account, at, count, at))


def _add_forgotten(base: Backends, account: int, count: int) -> None:
    with psycopg2.connect(base.url) as connection, connection.cursor() as cursor:
        cursor.execute(_ADD_FORGOTTEN, (account, RETENTION + timedelta(days=1), count))


def _post(
    base: Backends, port: int, headers: dict[str, str], old: int, expired_at: datetime, seconds: float
) -> tuple[int, list[str]]:
    """Post for a while; how many answers were 2xx, and the other statuses."""
    numbers, answered, refused = itertools.count(), 0, list[str]()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _add_expired(base, old, expired_at, EXPIRED_A_SLICE)
        _add_forgotten(base, old, EXPIRED_A_SLICE)
        bodies = [_body(next(numbers)) for _ in range(RATE * SLICE_SECONDS)]
        sent = asyncio.run(post_steadily(port, PATH, headers, bodies, rate=RATE))
        answered += len(sent.late)
        refused += sent.refused
    return answered, refused


def _body(number: int) -> bytes:
    name = "view" if number % STARTING else "order"
    return json.dumps({"event": name, "distinct_id": f"c{number % 100_000}", "data": {"number": number}}).encode()


@contextmanager
def _sampling(base: Backends, gunicorn: int, worker_pid: int, shared: datetime) -> Iterator[Samples]:
    samples, stop = Samples(), threading.Event()
    arguments = (base, gunicorn, worker_pid, shared, samples, stop)
    thread = threading.Thread(target=_sample, args=arguments, name="samples")
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def _sample(
    base: Backends, gunicorn: int, worker_pid: int, shared: datetime, samples: Samples, stop: threading.Event
) -> None:
    processes = [*sorted(psutil.Process(gunicorn).children(), key=lambda one: one.pid), psutil.Process(worker_pid)]
    with psycopg2.connect(base.url) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        tables = [*TABLES[:-1], _value(cursor, _PARTITION, shared, shared)]
        while not stop.wait(SAMPLE_SECONDS):
            samples.queue_age.append(_value(cursor, _QUEUE_AGE))
            samples.tables.append(tuple(_value(cursor, _SIZES, tables)))
            try:
                samples.memory.append(tuple(one.memory_full_info().uss / 2**20 for one in processes))
            except psutil.NoSuchProcess:
                # Seen as a failure: there are fewer samples of memory than of the queue.
                return


def _value(cursor: psycopg2.extensions.cursor, question: str, *values: object) -> Any:
    cursor.execute(question, values)
    row = cursor.fetchone()
    assert row is not None
    return row[0]


def _failures(base: Backends, sender: int, old: int, answered: int, refused: Sequence[str]) -> list[str]:
    """What was lost or doubled, and what retention has left."""
    found = [f"{len(refused):,} requests failed: {', '.join(sorted(set(refused)))}"] if refused else []
    stored = base.stored(sender) - EXPIRED_AT_BEGIN
    if stored != answered:
        found.append(f"{answered:,} answers were 2xx, but {stored:,} events are stored")
    orders = base.query("SELECT count(*) FROM events WHERE account_id = %s AND event = 'order'", sender)
    deadline = time.monotonic() + 30
    while (
        done := base.query("SELECT count(*) FROM runs WHERE status = 'done'")
    ) < orders and time.monotonic() < deadline:
        time.sleep(0.2)
    if done != orders:
        found.append(f"{orders:,} events start a run, but {done:,} runs are done")
    left = base.query(
        "SELECT count(*) FROM events WHERE account_id = %s AND received_at < now() - interval '100 days'", old
    )
    if left:
        found.append(f"{left:,} events of a month that nobody keeps are left")
    expired = base.query("SELECT count(*) FROM events WHERE account_id = %s", old) - left
    if expired > ROUND_SECONDS / SLICE_SECONDS * EXPIRED_A_SLICE:
        found.append(f"{expired:,} events that are past their retention are left")
    kept = base.query("SELECT count(*) FROM events WHERE account_id = %s AND event = 'old'", sender)
    if kept != EXPIRED_AT_BEGIN:
        found.append(f"{EXPIRED_AT_BEGIN - kept:,} events were deleted that their account keeps")
    return found


def _rows(samples: Samples, failures: list[str]) -> list[Row]:
    if len(samples.memory) != len(samples.queue_age):
        failures.append("a process was replaced on the way")
    begin, end = _thirds(samples.memory)
    tables = _thirds(samples.tables)
    steady = samples.queue_age[int(len(samples.queue_age) * WARM_UP) :]
    return [
        limited(
            "soak-memory",
            _growth(begin, end),
            MAX_GROWTH,
            unit="times the memory of a web process or worker, last third against second",
            failures=failures,
            second=_formatted(begin),
            last=_formatted(end),
        ),
        limited("soak-queue", max(steady, default=0.0), MAX_QUEUE_AGE, unit="s, the oldest due job at any time"),
        limited(
            "soak-tables",
            _growth(*tables),
            MAX_TABLE_GROWTH,
            unit=f"times the size of one of {', '.join(TABLES)}, last third against second",
            second=_formatted(tables[0]),
            last=_formatted(tables[1]),
        ),
    ]


def _growth(begin: Sequence[float], end: Sequence[float]) -> float:
    """That of the column that grew most."""
    return max((late / early for early, late in zip(begin, end, strict=True)), default=1.0)


def _thirds(values: Sequence[tuple[float, ...]]) -> tuple[list[float], list[float]]:
    """The medians of the second and of the last third, by column."""
    third = max(1, len(values) // 3)
    parts = (values[third : 2 * third] or values, values[2 * third :] or values)
    second, last = ([median(column) for column in zip(*part, strict=True)] for part in parts)
    return second, last


def _formatted(sizes: Sequence[float]) -> str:
    return " and ".join(f"{size:.1f}" for size in sizes) + " MiB"


if __name__ == "__main__":
    from bench.rows import table

    result = soak()
    print(table(result))
    sys.exit(0 if all(one["ok"] for one in result) else 1)
