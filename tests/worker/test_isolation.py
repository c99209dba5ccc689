"""Jobs that are executed alone: one at a time, one for each account, and counted when their process dies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from app.db.job_queue import Job
from app.worker.isolation import MAX_DEATHS_ALONE, Isolation, NotDone

CHILD = (sys.executable, "-m", "tests.support.isolated_child")


class Scenario:
    """An isolation whose child does what the payload says; what it reported."""

    def __init__(self, *command: str) -> None:
        self.died: list[Job] = []
        self.given_up: list[Job] = []
        self.isolation = Isolation(self._on_death, self._give_up, command=command or CHILD, rng=Random(7))

    async def _on_death(self, job: Job) -> None:
        self.died.append(job)

    async def _give_up(self, job: Job) -> None:
        self.given_up.append(job)

    async def not_done(self, job: Job) -> NotDone:
        with pytest.raises(NotDone) as caught:
            await self.isolation.execute(job)
        return caught.value


def a_job(order: str, account: int = 1, **fields: int) -> Job:
    return Job(id=1, kind="run", payload=f"{account}:{order}", attempts=fields.pop("attempts", 0), **fields)


def run_scenario(scenario: Callable[[Scenario], Awaitable[None]], *command: str) -> None:
    async def run() -> None:
        it = Scenario(*command)
        await scenario(it)
        await it.isolation.close()

    asyncio.run(run())


def test_a_job_that_is_done_is_done() -> None:
    async def scenario(it: Scenario) -> None:
        await it.isolation.execute(a_job("end", deaths=2))
        await it.isolation.execute(a_job("end", deaths=2))
        assert it.died == []

    run_scenario(scenario)


def test_a_job_whose_process_dies_is_counted_and_due_again() -> None:
    async def scenario(it: Scenario) -> None:
        job = a_job("die", attempts=2)
        exc = await it.not_done(job)
        assert str(exc) == "its process died (SIGKILL)"
        assert (exc.again.seconds, exc.again.is_failure, exc.again.died) == (4.0, True, True)
        assert it.died == [job]
        await it.isolation.execute(a_job("end"))

    run_scenario(scenario)


def test_a_job_that_has_killed_three_processes_is_given_up() -> None:
    async def scenario(it: Scenario) -> None:
        job = a_job("die", deaths_alone=MAX_DEATHS_ALONE)
        await it.isolation.execute(job)
        assert (it.given_up, it.died) == ([job], [])

    run_scenario(scenario)


def test_a_job_whose_handler_fails_is_due_again_and_no_death() -> None:
    async def scenario(it: Scenario) -> None:
        exc = await it.not_done(a_job("fail"))
        assert (str(exc), exc.again.is_failure, exc.again.died) == ("no luck", True, False)

    run_scenario(scenario)


def test_a_run_whose_turn_is_over_is_due_at_once_without_a_failure() -> None:
    async def scenario(it: Scenario) -> None:
        exc = await it.not_done(a_job("continue"))
        assert (exc.again.seconds, exc.again.is_failure) == (0.0, False)

    run_scenario(scenario)


def test_a_process_that_does_not_start_counts_no_death() -> None:
    async def scenario(it: Scenario) -> None:
        exc = await it.not_done(a_job("end"))
        assert "did not start (exit code 3)" in str(exc)
        assert (exc.again.died, it.died) == (False, [])

    run_scenario(scenario, sys.executable, "-c", "raise SystemExit(3)")


def test_an_account_has_one_job_at_a_time_and_the_others_come_one_after_the_other() -> None:
    async def scenario(it: Scenario) -> None:
        first = asyncio.create_task(it.isolation.execute(a_job("end")))
        await asyncio.sleep(0)
        pauses = [(await it.not_done(a_job("end"))).again for _ in range(1_000)]
        assert not any(again.is_failure for again in pauses)
        assert pauses[0].seconds <= 1.0
        assert pauses[99].seconds > 60.0
        assert 400.0 < pauses[-1].seconds <= 600.0
        await asyncio.gather(first, it.isolation.execute(a_job("end", account=2)))

    run_scenario(scenario)


def test_jobs_of_a_suspected_workflow_come_back_soon() -> None:
    async def scenario(it: Scenario) -> None:
        first = asyncio.create_task(it.isolation.execute(a_job("end")))
        await asyncio.sleep(0)
        for _ in range(100):
            with pytest.raises(NotDone) as caught:
                await it.isolation.execute(a_job("end"), is_suspected_only=True)
            assert 1.0 <= caught.value.again.seconds <= 3.0
        await first

    run_scenario(scenario)


def test_a_cancelled_job_ends_its_process_and_is_no_death() -> None:
    async def scenario(it: Scenario) -> None:
        executing = asyncio.create_task(it.isolation.execute(a_job("end")))
        await asyncio.sleep(0)
        executing.cancel()
        await asyncio.gather(executing, return_exceptions=True)
        assert (it.died, it.isolation.admitted) == ([], set())
        await it.isolation.execute(a_job("end"))

    run_scenario(scenario)
