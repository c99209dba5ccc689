"""How the queue counts the workers that have died with a job, and which workflows are suspected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.db import job_queue, run_deaths, runs
from app.db.connection import Database
from app.db.job_queue import Again, Job, Worker
from app.services import workflows
from app.services.context import AppContext
from tests.support.action_contexts import the_settings
from tests.support.builders import Sender, a_workflow, an_event

NOW = datetime(2026, 11, 22, tzinfo=UTC)


class Queue:
    """The job of one run, of a kind of its own, so that the jobs of other tests are not claimed."""

    def __init__(self, context: AppContext, sender: Sender, database: Database) -> None:
        self.context, self.database = context, database
        workflows.apply_workflow(context, sender.account_id, a_workflow(steps=[{"log": "x"}]))
        self.account = sender.account_id
        self.run = UUID(sender.post(an_event()).get_json()["runs"][0])
        self.kind = f"run {self.run}"
        self.set(kind=self.kind)

    def worker(self) -> Worker:
        return Worker([self.kind], lease=60.0)

    def set(self, **columns: Any) -> None:
        assignments = ", ".join(f"{name} = %({name})s" for name in columns)
        with self.context.database.transaction() as connection:
            connection.exec_driver_sql(
                f"UPDATE jobs SET {assignments} WHERE dedupe_key LIKE %(like)s",
                {**columns, "like": f"{self.account}:{self.run}:%"},
            )

    def expire(self) -> None:
        """The lease of the job ends."""
        self.set(due_at=datetime.now(UTC) - timedelta(seconds=1))

    def exchange(self, worker: Worker, *, limit: int = 1, again: dict[int, Again] | None = None) -> list[Job]:
        return job_queue.exchange_jobs(self.database, worker, done=(), again=again or {}, held=(), limit=limit)

    def deaths(self, worker: Worker) -> tuple[int, int]:
        """The counts of the job as the next worker claims it."""
        self.expire()
        (job,) = self.exchange(worker)
        return job.deaths, job.deaths_alone

    def extend(self, worker: Worker) -> None:
        with self.database.autocommit_connection() as connection:
            job_queue.extend_leases(connection, worker, ())

    def add_dead_workers(self) -> None:
        self.set(kind="run")
        with self.context.database.transaction() as connection:
            run_deaths.add_dead_workers(connection, NOW)
        self.set(kind=self.kind)

    def isolation(self) -> str | None:
        run = runs.claim_run(self.context.database, self.account, self.run, 1)
        assert run is not None
        return run.isolation


@pytest.fixture
def queue(context: AppContext, acme: Sender) -> Iterator[Queue]:
    with closing(Database(replace(the_settings(), database_url=context.settings.database_url))) as database:
        yield Queue(context, acme, database)


def test_a_job_that_is_claimed_for_the_first_time_has_no_deaths(queue: Queue) -> None:
    assert queue.deaths(queue.worker()) == (0, 0)


def test_each_worker_that_died_with_a_job_counts_once(queue: Queue) -> None:
    first, second = queue.worker(), queue.worker()
    assert [queue.deaths(worker) for worker in (first, second, first, second)] == [(0, 0), (1, 0), (2, 0), (2, 0)]


def test_a_job_that_was_given_back_counts_no_death(queue: Queue) -> None:
    worker = queue.worker()
    (job,) = queue.exchange(worker)
    queue.exchange(worker, limit=0, again={job.id: Again(0.0)})
    assert queue.deaths(queue.worker()) == (0, 0)


def test_a_claim_whose_result_was_lost_is_no_death(queue: Queue) -> None:
    worker = queue.worker()
    assert [queue.deaths(worker), queue.deaths(worker)] == [(0, 0), (0, 0)]


def test_a_worker_that_was_told_to_stop_has_not_died(queue: Queue) -> None:
    worker = queue.worker()
    (job,) = queue.exchange(worker)
    job_queue.mark_claims(queue.database, worker, [job.id], "stopping")
    assert queue.deaths(queue.worker()) == (0, 0)


def test_a_worker_that_executed_only_this_job_counts_as_dead_alone(queue: Queue) -> None:
    worker = queue.worker()
    (job,) = queue.exchange(worker)
    job_queue.mark_claims(queue.database, worker, [job.id], "alone")
    second = queue.worker()
    assert queue.deaths(second) == (0, 1)
    # The mark is that of the first claim only.
    assert queue.deaths(queue.worker()) == (1, 1)


def test_a_process_that_died_with_only_this_job_is_counted(queue: Queue) -> None:
    worker = queue.worker()
    for count in (1, 2):
        (job,) = queue.exchange(worker)
        queue.exchange(worker, limit=0, again={job.id: Again(0.0, died=True)})
        assert queue.deaths(worker) == (0, count)
        queue.exchange(worker, limit=0, again={job.id: Again(0.0, is_failure=False)})


def test_only_failures_count_as_attempts(queue: Queue) -> None:
    worker = queue.worker()
    (job,) = queue.exchange(worker)
    queue.exchange(worker, limit=0, again={job.id: Again(0.0, is_failure=False)})
    (job,) = queue.exchange(worker)
    assert job.attempts == 0
    queue.exchange(worker, limit=0, again={job.id: Again(0.0)})
    assert queue.exchange(worker)[0].attempts == 1


@pytest.mark.parametrize("claim", [None, "alone"])
def test_a_worker_that_was_out_of_reach_and_returns_has_not_died(queue: Queue, claim: str | None) -> None:
    lost, other = queue.worker(), queue.worker()
    (job,) = queue.exchange(lost)
    if claim is not None:
        job_queue.mark_claims(queue.database, lost, [job.id], claim)
    assert queue.deaths(other) == ((0, 1) if claim else (1, 0))
    queue.extend(lost)
    assert queue.deaths(other) == (0, 0)


# Workflows


def test_a_workflow_is_suspected_after_two_deaths_of_workers_that_had_its_runs(queue: Queue) -> None:
    seen = []
    for _ in range(2):
        queue.deaths(queue.worker())
        queue.add_dead_workers()
        queue.add_dead_workers()
        seen.append(queue.isolation())
    assert seen == [None, "suspected"]


def test_present_workers_are_not_dead(queue: Queue) -> None:
    with queue.database.autocommit_connection() as first, queue.database.autocommit_connection() as second:
        for connection in (first, second):
            worker = queue.worker()
            job_queue.announce_worker(connection, worker)
            queue.deaths(worker)
            queue.add_dead_workers()
        assert queue.isolation() is None
    # The first one has given the job to the second one, which ends.
    second.close()
    queue.add_dead_workers()
    assert _dead_workers(queue) == 1


def _dead_workers(queue: Queue) -> int:
    with queue.context.database.transaction() as connection:
        query = "SELECT cardinality(dead_workers) FROM workflows WHERE account_id = %s"
        return int(connection.exec_driver_sql(query, (queue.account,)).scalar_one())


def test_a_worker_that_is_told_to_stop_suspects_no_workflow(queue: Queue) -> None:
    worker = queue.worker()
    (job,) = queue.exchange(worker)
    job_queue.mark_claims(queue.database, worker, [job.id], "stopping")
    queue.add_dead_workers()
    assert _dead_workers(queue) == 0


def test_a_worker_that_returns_suspects_no_workflow(queue: Queue) -> None:
    workers = [queue.worker(), queue.worker()]
    for worker in workers:
        queue.deaths(worker)
        queue.add_dead_workers()
    queue.extend(workers[0])
    assert queue.isolation() is None


def test_a_workflow_is_cleared_when_one_of_its_runs_was_executed_alone(queue: Queue) -> None:
    test_a_workflow_is_suspected_after_two_deaths_of_workers_that_had_its_runs(queue)
    with queue.context.database.transaction() as connection:
        run_deaths.clear_dead_workers(connection, queue.account, queue.run)
    assert queue.isolation() is None


def test_a_workflow_whose_run_has_killed_its_process_is_isolated_for_an_hour(queue: Queue) -> None:
    now = datetime.now(UTC)
    seen = []
    for minutes_ago in (59, 61):
        with queue.context.database.transaction() as connection:
            run_deaths.isolate_workflow(connection, queue.account, queue.run, now - timedelta(minutes=minutes_ago))
            run_deaths.clear_dead_workers(connection, queue.account, queue.run)
        seen.append(queue.isolation())
    assert seen == ["killed", None]


def _isolated(queue: Queue) -> list[bool]:
    with queue.context.database.transaction() as connection:
        query = "SELECT isolated_until IS NOT NULL FROM workflows WHERE account_id = %s ORDER BY created_at"
        return list(connection.exec_driver_sql(query, (queue.account,)).scalars())


def test_the_third_deadly_workflow_of_an_account_isolates_all(queue: Queue, acme: Sender, globex: Sender) -> None:
    names = ["a", "b", "harmless"]
    for name in names:
        workflows.apply_workflow(queue.context, queue.account, a_workflow(name=name, on=name, steps=[{"log": "x"}]))
    workflows.apply_workflow(queue.context, globex.account_id, a_workflow(steps=[{"log": "x"}]))
    deadly = [queue.run, *(UUID(acme.post(an_event(event=name)).get_json()["runs"][0]) for name in names[:2])]
    seen = []
    for run in [*deadly[:2], deadly[1], deadly[2]]:
        with queue.context.database.transaction() as connection:
            run_deaths.isolate_workflow(connection, queue.account, run, datetime.now(UTC))
        seen.append(_isolated(queue))
    assert seen == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, False, False],
        [True, True, True, True],
    ]
    with queue.context.database.transaction() as connection:
        query = "SELECT isolated_until FROM workflows WHERE account_id = %s"
        assert connection.exec_driver_sql(query, (globex.account_id,)).scalars().all() == [None]


def test_the_job_of_an_event_stands_for_the_workflows_whose_runs_may_wait(queue: Queue) -> None:
    steps = [{"wait_for": "reply", "timeout": "1h"}]
    workflows.apply_workflow(queue.context, queue.account, a_workflow(name="awaiting", on="x", steps=steps))
    queue.set(payload=f"{queue.account}:{queue.run}")
    queue.deaths(queue.worker())
    queue.set(kind="event")
    with queue.context.database.transaction() as connection:
        run_deaths.add_dead_workers(connection, NOW)
        query = "SELECT name, cardinality(dead_workers) FROM workflows WHERE account_id = %s ORDER BY name"
        found = dict(connection.exec_driver_sql(query, (queue.account,)).all())
        assert found.pop("awaiting") == 1
        assert list(found.values()) == [0]
        run_deaths.isolate_awaiting_workflows(connection, queue.account, NOW)
    assert _isolated(queue) == [False, True]
