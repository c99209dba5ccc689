"""A database that has grown: 10 million events, 10,000 workflows, 100,000 rows of progress, 100,000 runs.

Single events against the same on an empty database (whatever the reference is, it is the same for both, so that the ratio of
their ratios is the ratio of their costs); and what people look up, which has to come at once. GROWN_EVENTS says how
many events: fewer for a quick look.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2

from app.core.ids import now, uuid7
from app.core.models import Event
from app.db.inspection import EventFilter, RunFilter
from app.ingest.accept import EventAcceptor
from app.ingest.account_cache import AccountCache
from app.services import inspection, workflows
from app.services.context import AppContext
from app.services.partitions import make_partitions
from bench.measuring import Side, alternate, median, write_script
from bench.rows import Row, limited
from bench.servers import Backends, backends, ours
from bench.single import PATH, WORKFLOWS, add_workflows, compared, disagreements, provide, varied, warm

EVENTS = 10_000_000
SUBJECTS = 1_000_000
ALL_WORKFLOWS = 10_000
PROGRESS = 100_000
RUNS = 100_000
DAYS = 60
MAX_MS = 20.0
LOOK_UPS = 200
NAMES = ("product_view", "add_to_cart", "checkout_started", "order_placed", "order_shipped", "message_read", "login")


def grown() -> list[Row]:
    """One account has it all, which is the worst case."""
    count = int(os.environ.get("GROWN_EVENTS", EVENTS))
    with ExitStack() as stack:
        small, large = stack.enter_context(backends()), stack.enter_context(backends())
        few, headers = provide(small)
        script = write_script(small.folder / "post.lua", headers, varied(SUBJECTS))
        url, pid = stack.enter_context(ours(small))
        before = Side(url + PATH, script, {"web": [pid], **small.processes})

        account, headers = provide(large)
        began = time.monotonic()
        _grow(large, account, count)
        took = time.monotonic() - began
        print(f"    {count:,} events and all else loaded in {took:.0f} s", file=sys.stderr)
        here = large.stored(account)
        script = write_script(large.folder / "post.lua", headers, varied(SUBJECTS))
        url, pid = stack.enter_context(ours(large))
        after = Side(url + PATH, script, {"web": [pid], **large.processes})
        warm(after, headers)
        rounds = alternate(before, after, times=2)
        failures = disagreements(before, small, few) + disagreements(after, large, account, before=here)
        size = large.query("SELECT pg_database_size(current_database())") // 2**20
        details = {"events": f"{count:,}", "loaded in s": round(took), "MiB on disk": f"{size:,}"}
        found = compared(
            "grown", rounds, target=0.90, against="ours on an empty database", failures=failures, more=details
        )
        return [found, *_look_ups(large, account)]


def _grow(base: Backends, account: int, count: int) -> None:
    """Events of the last 60 days, evenly; then workflows, progress and runs. As a deployer's database after two months:
    analysed and vacuumed, its index on subjects made after the load because that takes a tenth of the time."""
    context = AppContext(base.settings)
    timestamp = now()
    make_partitions(context, [timestamp - timedelta(days=days) for days in range(0, DAYS + 1, 20)])
    patterns: list[tuple[str, Any]] = [(f"other-{n}", f"other_{n}") for n in range(ALL_WORKFLOWS - WORKFLOWS - 100)]
    patterns += [(f"twice-{n}", {"times": 2, "of": f"twice_{n}", "within": "90d"}) for n in range(100)]
    add_workflows(context, account, patterns)
    _execute(base, "DROP INDEX events_subject_idx", "ALTER SYSTEM SET max_wal_size = '16GB'", "SELECT pg_reload_conf()")
    # Two connections, each with its half of the time, so that both write at the end of an index.
    halves = [(0, count // 2), (count // 2, count)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda half: _load_events(base, account, timestamp, count, *half), halves))
    if base.stored(account) != count:
        raise ValueError(f"{base.stored(account):,} events were loaded instead of {count:,}")
    _execute(
        base,
        "SET maintenance_work_mem = '1GB'; CREATE INDEX events_subject_idx ON events (account_id, distinct_id, id)",
    )
    _load_progress(base, context, account)
    _load_runs(base, account)
    _execute(base, "VACUUM (ANALYZE)", "CHECKPOINT", "ALTER SYSTEM RESET max_wal_size", "SELECT pg_reload_conf()")
    context.database.close()


def _execute(base: Backends, *statements: str) -> None:
    with closing(psycopg2.connect(base.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


# Ids are made as `app/core/ids.py` makes them: milliseconds, their fraction, random bits.
_EVENTS = """
INSERT INTO events (account_id, id, event, distinct_id, phone, data, received_at, decisions, via)
SELECT %(account)s,
    (lpad(to_hex(us / 1000), 12, '0') || '7' || lpad(to_hex((us %% 1000) * 4096 / 1000), 3, '0') || '8'
     || substr(md5(n::text), 1, 15))::uuid,
    (%(names)s::text[])[1 + n %% %(kinds)s], subject::text, '+91' || 5600000000 + subject,
    jsonb_build_object('product_id', n %% 5000, 'product_name', 'Cool Sneakers', 'category', 'Footwear', 'currency', 'INR'),
    to_timestamp(us / 1000000) + us %% 1000000 * interval '1 microsecond',
    '[{"reason": "data.price is not there", "started": false, "version": null, "workflow": "100 workflows"}]',
    CASE WHEN n %% 5 = 0 THEN 'receiver' END
FROM generate_series(%(first)s::bigint, %(last)s::bigint - 1) AS n,
    LATERAL (SELECT %(start)s::bigint + n * %(step)s AS us, (n * 7919) %% %(subjects)s AS subject) AS made
"""


def _load_events(base: Backends, account: int, timestamp: datetime, count: int, first: int, last: int) -> None:
    start = int((timestamp - timedelta(days=DAYS)).timestamp() * 1e6)
    with psycopg2.connect(base.url) as connection, connection.cursor() as cursor:
        cursor.execute(
            _EVENTS,
            {
                "account": account,
                "names": list(NAMES),
                "kinds": len(NAMES),
                "first": first,
                "last": last,
                "start": start,
                "step": DAYS * 86_400_000_000 // count,
                "subjects": SUBJECTS,
            },
        )
    connection.close()


def _load_progress(base: Backends, context: AppContext, account: int) -> None:
    """One event of one subject in each of 100 workflows, and the same for a thousand subjects."""
    accounts = AccountCache(context)
    acceptor = EventAcceptor(context, accounts)
    snapshot = accounts.find_by_id(account)
    assert snapshot is not None
    for number in range(100):
        timestamp = context.clock()
        event = Event(uuid7(timestamp), account, f"twice_{number}", "first", None, {}, "{}", None, timestamp)
        acceptor.accept(snapshot, lambda current, event=event: event)
    _execute(
        base,
        "INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, last_event_at, lapses_at) "
        "SELECT account_id, workflow_id, 's' || n, enablement, progress, last_event_at, lapses_at "
        f"FROM progress, generate_series(2, {PROGRESS // 100}) AS n",
    )
    found = base.query("SELECT count(*) FROM progress")
    if found != PROGRESS:
        raise ValueError(f"{found} rows of progress instead of {PROGRESS}")


def _load_runs(base: Backends, account: int) -> None:
    """Runs that are over, one each for the latest events; every hundredth failed."""
    _execute(
        base,
        "INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, "
        "distinct_id, status, at, turn, created_at, updated_at, finished_at) "
        "SELECT account_id, event.id, workflow.id, 1, event.id, event.id, received_at, ARRAY[event.id], distinct_id, "
        "CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'done' END, NULL, 1, received_at, received_at, received_at "
        f"FROM (SELECT *, row_number() OVER () AS n FROM (SELECT * FROM events WHERE account_id = {account} "
        f"ORDER BY id DESC LIMIT {RUNS}) AS latest) AS event "
        f"JOIN (SELECT id, row_number() OVER () - 1 AS k FROM workflows WHERE account_id = {account}) AS workflow "
        f"ON workflow.k = event.n % {ALL_WORKFLOWS}",
    )


def _look_ups(base: Backends, account: int) -> Iterator[Row]:
    """Rows of what people look up through the functions behind the commands, each with other values each time."""
    context = AppContext(base.settings)
    rng = random.Random(1)
    with psycopg2.connect(base.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM events TABLESAMPLE SYSTEM (0.1) WHERE account_id = %s LIMIT 5000", (account,))
        ids = [row[0] for row in cursor]
        cursor.execute(
            "SELECT id, distinct_id FROM runs WHERE account_id = %s ORDER BY random() LIMIT 1000", (account,)
        )
        run_rows = cursor.fetchall()
    connection.close()

    def any_day() -> datetime:
        return now() - timedelta(days=rng.uniform(0, DAYS))

    def events(**wanted: Any) -> Callable[[], object]:
        return lambda: inspection.find_latest_events(
            context, account, EventFilter(**{name: make() for name, make in wanted.items()}), 20
        )

    def some_runs(**wanted: Any) -> Callable[[], object]:
        return lambda: inspection.find_latest_runs(
            context, account, RunFilter(**{name: make() for name, make in wanted.items()}), 20
        )

    subject = lambda: str(rng.randrange(SUBJECTS))  # noqa: E731
    look_ups: dict[str, Callable[[], object]] = {
        "event": lambda: inspection.find_event_details(context, account, UUID(rng.choice(ids))),
        "events": events(),
        "events-of-subject": events(subject=subject),
        "events-of-name": events(event=lambda: rng.choice(NAMES)),
        "events-of-rare-name": events(event=lambda: "nobody_sent_this"),
        "events-until": events(until=any_day),
        "run": lambda: inspection.find_run_details(context, account, UUID(rng.choice(run_rows)[0])),
        "runs": some_runs(),
        "runs-failed": some_runs(failed=lambda: True),
        "runs-of-subject": some_runs(subject=lambda: rng.choice(run_rows)[1]),
        "runs-of-workflow": some_runs(workflow=lambda: f"other-{rng.randrange(9_000)}"),
        "workflows": lambda: workflows.list_workflows(context, account, limit=100),
        "history": lambda: inspection.latest_received(context, account, 10),
    }
    for name, look_up in look_ups.items():
        yield _time(f"grown-{name}", look_up)
    context.database.close()


def _time(name: str, look_up: Callable[[], object]) -> Row:
    """The median of many, or of as many as ten seconds allow; the first one opens what has to be opened."""
    look_up()
    began, taken = time.monotonic(), list[float]()
    while len(taken) < LOOK_UPS and time.monotonic() - began < 10:
        start = time.monotonic()
        look_up()
        taken.append((time.monotonic() - start) * 1000)
    return limited(name, median(taken), MAX_MS, unit=f"ms in the median of {len(taken)}", slowest=round(max(taken), 1))
