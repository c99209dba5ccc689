"""Accounts with many due jobs do not delay those of others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg2
import pytest

from app.db import job_queue
from app.db.connection import Database
from app.db.due_accounts import find_due_accounts
from app.db.job_queue import NOT_PREFERRED, Job, Preferred
from app.worker import fair_queueing, job_consumer
from app.worker.fair_queueing import FairQueue
from tests.support.action_contexts import the_settings
from tests.support.queues import Queue


@pytest.fixture(autouse=True)
def no_jobs(database_url: str) -> None:
    """Removes the jobs that other tests have left: their accounts would have turns, too, and the workers of these tests execute
    runs only."""
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM jobs")


def _consume(
    many: Queue, few: Queue, counts: tuple[int, int], on_job: Callable[[int, int], Awaitable[None]] | None = None
) -> list[int]:
    """Enqueue jobs of two accounts, those of the first one earlier, and consume them: the accounts in the order of their jobs.
    `on_job` is called with the account and the number of the jobs before."""
    order: list[int] = []

    async def advance(account_id: int, run_id: UUID, job: int) -> None:
        if account_id in (many.account, few.account):
            if on_job is not None:
                await on_job(account_id, len(order))
            order.append(account_id)

    async def scene() -> None:
        await many.enqueue(counts[0], after=-60.0)
        await few.enqueue(counts[1], after=-1.0)
        settings = replace(the_settings(), database_url=many.url, worker_concurrency=10)
        stop = asyncio.Event()
        with closing(Database(settings)) as database:
            handlers = {"run": (advance, (int, UUID, int))}
            working = asyncio.create_task(job_consumer.work(database, settings, handlers, stop=stop))
            await many.empty(60)
            await few.empty(30)
            stop.set()
            await working

    asyncio.run(scene())
    return order


def test_an_account_with_many_due_jobs_does_not_delay_the_jobs_of_others(database_url: str) -> None:
    many, few = Queue(database_url), Queue(database_url)
    order = _consume(many, few, (600, 3))
    assert order.count(many.account) == 600
    # Positions in the order: how soon the test sees the end of the last one depends on the machine.
    assert max(position for position, account in enumerate(order) if account == few.account) < 300


def test_jobs_that_come_between_two_looks_at_the_queue_wait_for_one_claim(database_url: str) -> None:
    many, few = Queue(database_url), Queue(database_url)
    came: list[int] = []

    async def enqueue_one(account_id: int, before: int) -> None:
        if account_id == many.account and not before % 100:
            await few.enqueue()
            came.append(before)

    order = _consume(many, few, (1_000, 1), enqueue_one)
    executed = [position for position, account in enumerate(order) if account == few.account]
    assert max(position - since for position, since in zip(executed[1:], came, strict=False)) < 60


def test_the_accounts_with_due_jobs_are_found(database_url: str) -> None:
    queues = [Queue(database_url) for _ in range(3)]

    async def scene() -> None:
        await queues[0].enqueue(2)
        await queues[1].enqueue(1, after=3_600.0)
        await queues[2].enqueue(1, after=3_600.0)
        await queues[2].enqueue(1)

    asyncio.run(scene())
    with closing(Database(replace(the_settings(), database_url=database_url))) as database:
        found = find_due_accounts(database)
        for queue in queues:
            asyncio.run(queue.fetch("DELETE FROM jobs WHERE dedupe_key LIKE %(like)s"))
    assert [str(queue.account) in found for queue in queues] == [True, False, True]


class _Counting:
    """Executes queries in one transaction, and counts the rows of `jobs` that each reads."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def fetch_all(self, query: str, values: Any) -> list[Any]:
        with self._connection.cursor() as cursor:
            before = self._count(cursor)
            cursor.execute(query, values)
            rows = list(cursor.fetchall())
            self.read = self._count(cursor) - before
            return rows

    def _count(self, cursor: Any) -> int:
        cursor.execute("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("statistics", ["", "ANALYZE jobs"])
def test_a_fair_claim_reads_few_jobs_however_many_are_due(database_url: str, statistics: str) -> None:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs (kind, payload, due_at) SELECT 'run', '7000001:' || gen_random_uuid() || ':1', now() "
            "FROM generate_series(1, 20000);" + statistics
        )
        counting: Any = _Counting(connection)
        preferred = Preferred(["7000002", "7000001"], 5)
        worker = job_queue.Worker(["run"], lease=15.0)
        claimed = job_queue.exchange_jobs(counting, worker, done=[], again={}, held=[], limit=10, preferred=preferred)
        read = counting.read
        due = find_due_accounts(counting)
    assert len(claimed) == 10
    assert "7000001" in due
    assert max(read, counting.read) < 1_000


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The accounts that have due jobs."""
    accounts: list[str] = []
    monkeypatch.setattr(fair_queueing, "find_due_accounts", lambda database: list(accounts))
    return accounts


def _jobs(*accounts: int) -> list[Job]:
    return [Job(number, "run", f"{account}:x:1", 0) for number, account in enumerate(accounts)]


def test_jobs_are_claimed_round_robin_while_more_jobs_are_due_than_a_claim_brings(found: list[str]) -> None:
    queue = FairQueue(Database(the_settings()), monotonic=lambda: 0.0)
    found += ["1", "12", "3"]
    assert queue.next_accounts(2) is NOT_PREFERRED
    queue.note_claim(_jobs(1, 1), 2)
    assert queue.next_accounts(2) == Preferred(["1", "12"], 1)
    assert queue.next_accounts(2) == Preferred(["3", "1"], 1)
    assert queue.next_accounts(9) == Preferred(["12", "3", "1"], 3)
    queue.note_claim(_jobs(*[1] * 8), 9)
    assert queue.next_accounts(9) is NOT_PREFERRED


def test_a_claim_for_one_slot_goes_round_robin_too(found: list[str]) -> None:
    queue = FairQueue(Database(the_settings()), monotonic=lambda: 0.0)
    found += ["1", "2"]
    queue.note_claim(_jobs(1), 1)
    assert [queue.next_accounts(1) for _ in range(3)] == [Preferred([account], 1) for account in ("1", "2", "1")]


def test_one_account_alone_is_not_preferred(found: list[str]) -> None:
    queue = FairQueue(Database(the_settings()), monotonic=lambda: 0.0)
    found.append("1")
    queue.note_claim(_jobs(*[1] * 5), 5)
    assert queue.next_accounts(5) is NOT_PREFERRED


def test_an_account_without_due_jobs_is_preferred_if_it_had_some_before(found: list[str]) -> None:
    now = [0.0]
    queue = FairQueue(Database(the_settings()), monotonic=lambda: now[0])
    found.append("1")
    queue.note_claim(_jobs(1, 1, 1, 2), 4)
    assert queue.next_accounts(4) == Preferred(["2", "1"], 2)
    now[0] = 11.0
    assert queue.next_accounts(4) is NOT_PREFERRED


def test_accounts_that_had_jobs_leave_their_part_to_those_that_have_some(found: list[str]) -> None:
    queue = FairQueue(Database(the_settings()), monotonic=lambda: 0.0)
    found += ["1", "2"]
    queue.note_claim(_jobs(1, 1, 1, 3, 4, 5), 6)
    assert queue.next_accounts(6) == Preferred(["3", "4", "5", "1", "2"], 2)
