"""Which jobs a worker executes alone, and what it does for them meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from app import actions
from app.core.models import Outcome
from app.db import runs
from app.db.job_queue import MAX_FAILURES, Again, Job
from app.services import workflows
from app.services.context import AppContext
from app.worker import executor as executor_module
from app.worker import job_consumer
from app.worker.isolation import NeedsIsolation, NotDone, TimeSliceOver
from tests.support.action_contexts import perform
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.queues import Queue, until
from tests.support.run_execution import rows_of, the_run, with_executor


class Recorder:
    """In place of the child process: records the jobs, and how many others the worker had."""

    def __init__(self, *failures: NotDone) -> None:
        self.jobs: list[Job] = []
        self.failures = list(failures)
        self.admitted: set[str] = set()
        self.others: list[int] = []
        self.running = 0

    async def execute(self, job: Job, *, is_suspected_only: bool = False) -> None:
        self.jobs.append(job)
        self.others.append(self.running)
        if self.failures:
            raise self.failures.pop(0)

    async def close(self) -> None:
        pass


@pytest.fixture
def queue(database_url: str) -> Queue:
    return Queue(database_url)


async def _set_deaths(queue: Queue, deaths: int, alone: int = 0) -> None:
    await queue.fetch(
        "UPDATE jobs SET dead_workers = ARRAY(SELECT gen_random_uuid() FROM generate_series(1, %(deaths)s)), due_at = now(), "
        "dead_alone = ARRAY(SELECT gen_random_uuid() FROM generate_series(1, %(alone)s)) WHERE dedupe_key LIKE %(like)s",
        deaths=deaths,
        alone=alone,
    )


@pytest.mark.parametrize(
    ("deaths", "alone", "is_isolated"), [(0, 0, False), (1, 0, False), (2, 0, True), (0, 1, True), (2, 3, True)]
)
def test_a_job_is_executed_alone_after_two_deaths(queue: Queue, deaths: int, alone: int, is_isolated: bool) -> None:
    isolation = Recorder()

    async def scene() -> None:
        await queue.enqueue(after=3600)
        await _set_deaths(queue, deaths, alone)
        async with queue.worked_on(isolation=isolation):
            await queue.empty()

    asyncio.run(scene())
    assert len(isolation.jobs) == is_isolated
    assert len(queue.advanced) == (not is_isolated)


def test_a_run_that_needs_it_is_executed_alone(queue: Queue) -> None:
    isolation = Recorder()

    async def refuse(*_: Any) -> None:
        raise NeedsIsolation(is_proven=False)

    async def scene() -> None:
        await queue.enqueue()
        async with queue.worked_on(refuse, isolation=isolation):
            await queue.empty()

    asyncio.run(scene())
    assert len(isolation.jobs) == 1


def test_a_job_that_killed_its_process_is_counted_and_tried_again(queue: Queue) -> None:
    isolation = Recorder(NotDone("its process died", Again(0.0, died=True)))

    async def scene() -> None:
        await queue.enqueue(after=3600)
        await _set_deaths(queue, 2)
        async with queue.worked_on(isolation=isolation):
            await queue.empty()

    asyncio.run(scene())
    assert [(job.deaths, job.deaths_alone, job.attempts) for job in isolation.jobs] == [(2, 0, 0), (2, 1, 1)]


def test_a_job_whose_worker_died_with_its_child_has_the_worker_for_itself(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_consumer, "_EXCLUSIVE_PAUSE", 0.5)
    isolation = Recorder()

    async def slowly(*_: Any) -> None:
        isolation.running += 1
        await asyncio.sleep(0.3)
        isolation.running -= 1

    async def scene() -> None:
        await queue.enqueue(after=3600)
        await _set_deaths(queue, 3)
        async with queue.worked_on(slowly, isolation=isolation):
            await until(queue.rows, lambda rows: rows[0]["worker_id"] is None and rows[0]["attempts"] == 0)
            while isolation.jobs == []:
                await queue.enqueue(3)
                await asyncio.sleep(0.1)
            await queue.empty()

    asyncio.run(scene())
    # It waited for the pause, then for the worker's other jobs.
    assert len(queue.advanced) > 3
    assert isolation.others == [0]


def test_the_queue_knows_that_a_worker_has_only_this_job(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_consumer, "_EXCLUSIVE_PAUSE", 0.0)
    claims: list[Any] = []

    class Watched(Recorder):
        async def execute(self, job: Job, *, is_suspected_only: bool = False) -> None:
            claims.append([row["claim"] for row in await queue.rows()])

    async def scene() -> None:
        await queue.enqueue(after=3600)
        await _set_deaths(queue, 3)
        async with queue.worked_on(isolation=Watched()):
            await queue.empty()

    asyncio.run(scene())
    assert claims == [["alone"]]


# Runs


def _started(context: AppContext, sender: Sender, *steps: object) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps)))
    run: str = sender.post(an_event()).get_json()["runs"][0]
    return run


def _suspect(context: AppContext, sender: Sender, *, isolated_until: str = "NULL") -> None:
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE workflows SET dead_workers = ARRAY[gen_random_uuid(), gen_random_uuid()], "
            f"isolated_until = {isolated_until} WHERE account_id = %s",
            (sender.account_id,),
        )


@pytest.mark.parametrize(("until", "is_proven"), [("NULL", False), ("now() + interval '1 minute'", True)])
def test_a_worker_executes_no_run_of_a_workflow_that_kills_workers(
    context: AppContext, acme: Sender, until: str, is_proven: bool
) -> None:
    run = _started(context, acme, {"log": "x"})
    _suspect(context, acme, isolated_until=until)
    with pytest.raises(NeedsIsolation) as caught:
        with_executor(context, lambda executor: executor.advance(acme.account_id, UUID(run), 1))
    assert caught.value.is_proven == is_proven
    assert the_run(context, acme.account_id, run)["turn"] == 0


def test_a_run_that_was_executed_alone_clears_its_workflow(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "x"})
    _suspect(context, acme)
    with_executor(context, lambda executor: executor.advance(acme.account_id, UUID(run), 1), alone=True)
    assert the_run(context, acme.account_id, run)["status"] == "done"
    again = UUID(acme.post(an_event()).get_json()["runs"][0])
    claimed = runs.claim_run(context.database, acme.account_id, again, 1)
    assert claimed is not None
    assert claimed.isolation is None


def test_an_event_for_a_waiting_run_of_such_a_workflow_is_delivered_alone(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait_for": "reply", "timeout": "1h"}, {"log": "x"})
    with_executor(context, lambda executor: executor.advance(acme.account_id, UUID(run), 1))
    event = UUID(acme.post(an_event(event="reply")).get_json()["id"])
    _suspect(context, acme)
    with pytest.raises(NeedsIsolation):
        with_executor(context, lambda executor: executor.wake(acme.account_id, event))
    with_executor(context, lambda executor: executor.wake(acme.account_id, event), alone=True)
    assert the_run(context, acme.account_id, run)["at"] == "steps[1]"
    claimed = runs.claim_run(context.database, acme.account_id, UUID(run), 3)
    assert claimed is not None
    assert claimed.isolation is None


def test_an_event_with_another_value_under_the_key_of_the_workflow_is_not_delivered_alone(
    context: AppContext, acme: Sender
) -> None:
    steps = [{"wait_for": "paid", "timeout": "1h"}]
    workflows.apply_workflow(context, acme.account_id, a_workflow(on="ordered", key="data.order", steps=steps))
    run = UUID(acme.post(an_event(event="ordered", data={"order": 17})).get_json()["runs"][0])
    with_executor(context, lambda executor: executor.advance(acme.account_id, run, 1))
    event = UUID(acme.post(an_event(event="paid", data={"order": 18})).get_json()["id"])
    _suspect(context, acme)
    with_executor(context, lambda executor: executor.wake(acme.account_id, event))
    claimed = runs.find_running_run(context.database, acme.account_id, run)
    assert claimed is not None
    assert claimed.isolation == "suspected"


def test_a_long_run_gives_its_turn_to_others_between_two_steps(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "_TIME_SLICE", 0.0)
    run = _started(context, acme, {"log": "one"}, {"log": "two"})
    with pytest.raises(TimeSliceOver):
        with_executor(context, lambda executor: executor.advance(acme.account_id, UUID(run), 1), alone=True)
    assert the_run(context, acme.account_id, run)["at"] == "steps[1]"
    with_executor(context, lambda executor: executor.advance(acme.account_id, UUID(run), 1), alone=True)
    assert the_run(context, acme.account_id, run)["status"] == "done"


def test_a_run_that_is_given_up_fails_although_its_step_has_an_else(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "x", "else": [{"log": "y"}]})
    job = Job(1, "run", f"{acme.account_id}:{run}:1", 0, deaths=0, deaths_alone=3)
    with_executor(context, lambda executor: executor.give_up(job))
    row = the_run(context, acme.account_id, run)
    assert (row["status"], row["error"]) == (
        "failed",
        "steps[0] (log): its worker died 3 times while it was executed alone",
    )
    assert [each["error_class"] for each in rows_of(context, "attempts", acme.account_id, run)] == ["worker_died"]


def test_a_run_whose_job_fails_again_and_again_fails(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "x"})
    job = Job(1, "run", f"{acme.account_id}:{run}:1", MAX_FAILURES, deaths=2)
    with_executor(context, lambda executor: executor.give_up(job))
    row = the_run(context, acme.account_id, run)
    assert (row["status"], row["error"]) == (
        "failed",
        "steps[0] (log): its job failed 50 times; the log of the workers has the errors",
    )
    assert [each["error_class"] for each in rows_of(context, "attempts", acme.account_id, run)] == ["job_failed"]


@pytest.mark.parametrize("kind", ["event", "deadline"])
def test_other_jobs_that_kill_workers_pause_for_an_hour(context: AppContext, kind: str) -> None:
    with pytest.raises(NotDone) as caught:
        with_executor(context, lambda executor: executor.give_up(Job(1, kind, "1:x", 0, deaths_alone=3)))
    assert caught.value.again.seconds == 3600


class _Hungry:
    """An action for which there is not enough memory."""

    check = staticmethod(lambda fields, path: [])

    @staticmethod
    async def act(fields: Any, context: Any) -> Outcome:
        raise MemoryError


def test_too_little_memory_is_an_outcome_among_other_runs_and_a_death_alone(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _started(context, acme, {"log": "x"})
    monkeypatch.setattr(actions, "ACTIONS", {**actions.ACTIONS, "log": _Hungry})
    outcome = perform({"log": "x"})
    assert (outcome.kind, outcome.error_class) == ("retry", "memory")
    with pytest.raises(MemoryError):
        with_executor(context, lambda executor: executor.advance(acme.account_id, UUID(run), 1), alone=True)
    assert rows_of(context, "attempts", acme.account_id, run) == []
