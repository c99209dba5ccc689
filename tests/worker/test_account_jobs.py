"""The events and deadlines of one account leave slots of the worker to the jobs of others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from uuid import UUID

import pytest

from app.core.work_shares import BURST, WorkShares
from app.services import workflows
from app.services.context import AppContext
from app.worker.account_jobs import AT_ONCE, AccountJobs
from app.worker.executor import RunExecutor
from app.worker.isolation import NotDone
from app.workflows.expressions.work_budget import EVENT_UNITS
from tests.support.builders import Sender, a_workflow
from tests.support.run_execution import execute_run, the_run, with_executor

ATTACKER, OTHER = 1, 2
SLOTS = 20


def still() -> float:
    return 1_000.0


class Scene:
    """Jobs that begin in order and end when the block does."""

    def __init__(self, shares: WorkShares | None = None) -> None:
        self.jobs = AccountJobs(shares or WorkShares(still), SLOTS, monotonic=still)
        self.running: list[int] = []
        self.pauses: list[float] = []
        self.end = asyncio.Event()

    async def job(self, account_id: int, units: int = 0) -> None:
        try:
            async with self.jobs.slot(account_id, units):
                self.running.append(account_id)
                await self.end.wait()
        except NotDone as exc:
            assert not exc.again.is_failure
            self.pauses.append(exc.again.seconds)

    async def play(self, *begun: Awaitable[None]) -> None:
        tasks = [asyncio.ensure_future(each) for each in begun]
        for _ in range(5):
            await asyncio.sleep(0)
        self.at_once = list(self.running)
        self.end.set()
        await asyncio.gather(*tasks)


def played(scene: Callable[[], Awaitable[Scene]]) -> Scene:
    async def once() -> Scene:
        return await scene()

    return asyncio.run(once())


def test_an_account_executes_some_jobs_at_once_and_holds_half_of_the_slots() -> None:
    async def scene() -> Scene:
        scene = Scene()
        await scene.play(*(scene.job(ATTACKER) for _ in range(30)), *(scene.job(OTHER) for _ in range(3)))
        return scene

    found = played(scene)
    assert found.at_once == [ATTACKER] * AT_ONCE + [OTHER] * 3
    assert found.running.count(ATTACKER) == SLOTS // 2
    assert len(found.pauses) == 30 - SLOTS // 2


def test_jobs_that_go_back_come_again_one_after_the_other() -> None:
    async def scene() -> Scene:
        scene = Scene()
        await scene.play(*(scene.job(ATTACKER) for _ in range(2_000)))
        return scene

    pauses = played(scene).pauses
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.1
    assert 4 < pauses[-1] <= 30


def test_a_job_that_matches_takes_of_the_share_before_it_begins() -> None:
    shares = WorkShares(still)
    shares.spend(OTHER, 0)

    async def scene() -> Scene:
        scene = Scene(shares)
        await scene.play(*(scene.job(ATTACKER, EVENT_UNITS) for _ in range(10)), scene.job(OTHER, EVENT_UNITS))
        return scene

    found = played(scene)
    assert found.running.count(ATTACKER) == BURST // EVENT_UNITS
    assert found.running.count(OTHER) == 1
    assert len(set(found.pauses)) == 10 - BURST // EVENT_UNITS


def test_a_failed_job_releases_its_slot() -> None:
    async def fail() -> None:
        jobs = AccountJobs(WorkShares(still), 2)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with jobs.slot(ATTACKER):
                    raise ZeroDivisionError

    asyncio.run(fail())


def test_a_worker_pays_back_what_the_matching_did_not_take(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.limits, "shares", WorkShares(still))
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    event_id = UUID(acme.post({"event": "product_view", "distinct_id": "1"}).get_json()["id"])

    async def match(executor: RunExecutor) -> None:
        await executor.match(acme.account_id, event_id)

    before = context.limits.shares._left[acme.account_id]
    with_executor(context, match)
    assert context.limits.shares._left[acme.account_id] == before


def test_events_and_deadlines_of_an_account_share_its_slots(context: AppContext, acme: Sender) -> None:
    refused: list[str] = []

    async def fill(executor: RunExecutor) -> None:
        executor._account_jobs._max_jobs = 1
        async with executor._account_jobs.slot(acme.account_id):
            for job in (executor.wake, executor.match):
                with pytest.raises(NotDone):
                    await job(acme.account_id, acme.account_id)  # type: ignore[arg-type]
                refused.append(job.__name__)
            with pytest.raises(NotDone):
                await executor.fire_deadline(acme.account_id, acme.account_id, "1")  # type: ignore[arg-type]

    with_executor(context, fill)
    assert refused == ["wake", "match"]


def used_up(context: AppContext, account_id: int, other: int) -> None:
    context.limits.shares.spend(other, 0)
    context.limits.shares.spend(account_id, 2 * BURST)


def test_runs_of_an_account_that_has_used_up_its_share_go_back(
    context: AppContext, acme: Sender, globex: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.limits, "shares", WorkShares(still))
    documents = {sender: a_workflow(steps=[{"set": {"a": "1"}}, {"log": "done"}]) for sender in (acme, globex)}
    runs = {}
    for sender, document in documents.items():
        workflows.apply_workflow(context, sender.account_id, document)
        event = {"event": "product_view", "distinct_id": "1"}
        runs[sender.account_id] = UUID(sender.post(event).get_json()["runs"][0])
    used_up(context, acme.account_id, globex.account_id)

    async def advance(executor: RunExecutor) -> None:
        for sender in (globex, acme):
            await executor.advance(sender.account_id, runs[sender.account_id], 1)

    with pytest.raises(NotDone, match="used up its share"):
        with_executor(context, advance)
    assert the_run(context, globex.account_id, str(runs[globex.account_id]))["status"] == "done"
    assert the_run(context, acme.account_id, str(runs[acme.account_id]))["ordinal"] == 0


def test_a_run_goes_back_between_two_steps_and_goes_on_later(
    context: AppContext, acme: Sender, globex: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.limits, "shares", WorkShares(still))
    steps = [{"set": {"a": "1"}}, {"log": "{{ vars.a }}"}]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
    run = acme.post({"event": "product_view", "distinct_id": "1"}).get_json()["runs"][0]
    charged = context.limits.shares.charged

    def expensive(account_id: int) -> AbstractContextManager[None]:
        used_up(context, account_id, globex.account_id)
        return charged(account_id)

    monkeypatch.setattr(context.limits.shares, "charged", expensive)
    with pytest.raises(NotDone):
        execute_run(context, acme.account_id, run)
    assert the_run(context, acme.account_id, run)["at"] == "steps[1]"
    monkeypatch.setattr(context.limits, "shares", WorkShares(still))
    assert execute_run(context, acme.account_id, run)["status"] == "done"


def test_the_evaluation_of_conditions_is_charged_to_the_account(context: AppContext, acme: Sender) -> None:
    with context.limits.shares.charged(acme.account_id):
        sum(range(1_000))
    assert context.limits.shares._left[acme.account_id] < BURST
