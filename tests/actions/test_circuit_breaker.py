"""How many calls a destination may hold, who waits and who goes back to the queue, and when a destination is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import pytest

from app.actions.circuit_breaker import (
    FAILURES_IN_A_ROW,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LONGEST_TURN,
    CircuitBreakers,
    Deferred,
)
from tests.support.action_contexts import an_action_context, in_a_session, perform
from tests.support.http_target import Answer, a_destination

HERE, THERE = "here.example:443", "there.example:443"


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """Destinations of a worker with 40 places (10 for a destination, 30 for an account), on a clock of the test's own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.circuit_breakers = CircuitBreakers(40, random=Random(7), clock=self.clock)

    async def call(self, well: bool | None, *, place: str = HERE, account: int = 1, seconds: float = 0.01) -> None:
        """One call that takes so many seconds."""
        async with self.circuit_breakers.permit(account, place) as permit:
            self.clock.now += seconds
            permit.succeeded = well

    async def fail(self, times: int = FAILURES_IN_A_ROW) -> None:
        for _ in range(times):
            await self.call(False)

    async def held_back(self, **where: object) -> Deferred:
        with pytest.raises(Deferred) as caught:
            await self.call(True, **where)  # type: ignore[arg-type]
        return caught.value

    def hold(
        self, count: int, *, place: str = HERE, account: int = 1
    ) -> tuple[asyncio.Event, list[asyncio.Task[None]]]:
        """Begin so many calls that last until the event is set."""
        end = asyncio.Event()

        async def stay() -> None:
            async with self.circuit_breakers.permit(account, place) as permit:
                await end.wait()
                permit.succeeded = True

        return end, [asyncio.create_task(stay()) for _ in range(count)]


def play(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        await scene(Scene())

    asyncio.run(run())


# Circuits


def test_several_failures_in_a_row_open_the_circuit() -> None:
    async def scene(of: Scene) -> None:
        await of.fail()
        held = await of.held_back()
        assert held.error_class == "circuit_open"
        assert f"{HERE} failed {FAILURES_IN_A_ROW} times in a row" in str(held)
        assert 0 < held.seconds < FIRST_PAUSE * 2.5

    play(scene)


def test_an_answer_in_between_keeps_it_closed() -> None:
    async def scene(of: Scene) -> None:
        for _ in range(3):
            await of.fail(FAILURES_IN_A_ROW - 1)
            await of.call(True)

    play(scene)


def test_what_says_nothing_of_the_destination_counts_neither_way() -> None:
    async def scene(of: Scene) -> None:
        await of.fail(FAILURES_IN_A_ROW - 1)
        await of.call(None)
        await of.call(False)
        assert (await of.held_back()).error_class == "circuit_open"

    play(scene)


def test_only_that_destination_of_that_account_is_left_alone() -> None:
    async def scene(of: Scene) -> None:
        await of.fail()
        await of.call(True, place=THERE)
        await of.call(True, account=2)

    play(scene)


def test_after_the_pause_one_call_tries_it_out() -> None:
    async def scene(of: Scene) -> None:
        await of.fail()
        of.clock.now += FIRST_PAUSE * 1.3
        end, probe = of.hold(1)
        await asyncio.sleep(0)
        assert (await of.held_back()).error_class == "circuit_open"
        end.set()
        await asyncio.gather(*probe)
        await of.call(True)

    play(scene)


def test_each_failed_try_doubles_the_pause_up_to_a_bound() -> None:
    async def scene(of: Scene) -> None:
        await of.fail()
        pauses = []
        for _ in range(10):
            began = of.clock.now
            while True:
                of.clock.now += 1.0
                try:
                    await of.call(False, seconds=0.0)
                    break
                except Deferred:
                    continue
            pauses.append(of.clock.now - began)
        assert pauses[0] <= FIRST_PAUSE * 1.2 + 1
        assert all(2 * 0.6 < later / earlier < 2 * 1.6 for earlier, later in pairwise(pauses[:6]))
        assert max(pauses) <= LONGEST_PAUSE * 1.2 + 1

    play(scene)


def test_calls_that_were_under_way_when_it_opened_do_not_lengthen_the_pause() -> None:
    async def scene(of: Scene) -> None:
        end = asyncio.Event()

        async def hang() -> None:
            async with of.circuit_breakers.permit(1, HERE) as permit:
                await end.wait()
                permit.succeeded = False

        hanging = [asyncio.create_task(hang()) for _ in range(10)]
        await asyncio.sleep(0)
        end.set()
        await asyncio.gather(*hanging)
        of.clock.now += FIRST_PAUSE * 1.3
        await of.call(True)

    play(scene)


def test_those_who_are_held_back_do_not_come_back_together() -> None:
    async def scene(of: Scene) -> None:
        await of.fail()
        seconds = {round((await of.held_back()).seconds, 3) for _ in range(100)}
        assert len(seconds) > 90
        assert max(seconds) - min(seconds) > FIRST_PAUSE / 2

    play(scene)


# Places


def test_a_destination_holds_a_quarter_of_the_places() -> None:
    async def scene(of: Scene) -> None:
        await of.call(True, seconds=5.0)
        end, calls = of.hold(10)
        await asyncio.sleep(0)
        assert (await of.held_back()).error_class == "busy"
        await of.call(True, place=THERE)
        await of.call(True, account=2)
        end.set()
        await asyncio.gather(*calls)
        await of.call(True)

    play(scene)


def test_a_run_waits_for_a_place_when_that_is_a_matter_of_a_moment() -> None:
    async def scene(of: Scene) -> None:
        await of.call(True, seconds=0.01)
        end, calls = of.hold(10)
        _, waiting = of.hold(5)
        await asyncio.sleep(0.01)
        end.set()
        await asyncio.gather(*calls)
        await asyncio.sleep(0.01)
        assert [task.done() for task in waiting] == [False] * 5
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await of.call(True)

    play(scene)


def test_nobody_waits_longer_than_a_moment() -> None:
    async def scene(of: Scene) -> None:
        await of.call(True, seconds=0.01)
        end, calls = of.hold(10)
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        assert (await of.held_back()).error_class == "busy"
        assert 0.2 < asyncio.get_running_loop().time() - began < 0.6
        end.set()
        await asyncio.gather(*calls)

    play(scene)


def test_a_place_is_free_again_after_whatever_happened() -> None:
    async def scene(of: Scene) -> None:
        await of.call(True, seconds=0.01)
        for _ in range(20):
            _, calls = of.hold(15)
            await asyncio.sleep(0.005)
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        end, calls = of.hold(10)
        await asyncio.sleep(0)
        end.set()
        await asyncio.gather(*calls)

    play(scene)


def test_those_who_are_sent_away_come_back_as_fast_as_the_destination_takes_them() -> None:
    async def scene(of: Scene) -> None:
        await of.call(True, seconds=5.0)
        end, calls = of.hold(10)
        await asyncio.sleep(0)
        seconds = [(await of.held_back()).seconds for _ in range(50)]
        # Ten places, five seconds a call: two a second.
        assert seconds[0] < 3
        assert 20 < seconds[-1] < 35
        assert max([(await of.held_back()).seconds for _ in range(200)]) <= LONGEST_TURN * 1.2
        end.set()
        await asyncio.gather(*calls)

    play(scene)


def test_an_account_holds_three_quarters_of_the_places() -> None:
    async def scene(of: Scene) -> None:
        held = [of.hold(10, place=f"{number}.example:443") for number in range(3)]
        await asyncio.sleep(0)
        assert (await of.held_back()).error_class == "busy"
        await of.call(True, account=2)
        for end, calls in held:
            end.set()
            await asyncio.gather(*calls)

    play(scene)


def test_what_was_called_once_is_forgotten() -> None:
    async def scene(of: Scene) -> None:
        for number in range(20_000):
            await of.call(True, place=f"{number}.example:443")
        assert len(of.circuit_breakers._known) <= 10_000

    play(scene)


# In an action


def test_a_step_that_is_held_back_makes_no_attempt() -> None:
    async def scene(session: object) -> None:
        from app import actions

        context = an_action_context(session)  # type: ignore[arg-type]
        step = {"http": {"url": destination.url}}
        for _ in range(FAILURES_IN_A_ROW):
            assert (await actions.perform(step, context)).kind == "retry"
        outcome = await actions.perform(step, context)
        assert (outcome.kind, outcome.error_class) == ("later", "circuit_open")
        assert outcome.retry_after is not None and outcome.retry_after > 0

    with a_destination(Answer(503)) as destination:
        in_a_session(scene)
    assert len(destination.calls) == FAILURES_IN_A_ROW


@pytest.mark.parametrize("status", [200, 302, 404, 410, 429])
def test_an_answer_is_an_answer(status: int) -> None:
    async def scene(session: object) -> None:
        from app import actions

        context = an_action_context(session)  # type: ignore[arg-type]
        for _ in range(FAILURES_IN_A_ROW * 2):
            assert (await actions.perform({"http": {"url": destination.url}}, context)).kind != "later"

    with a_destination(Answer(status)) as destination:
        in_a_session(scene)


def test_a_refused_address_does_not_open_the_circuit() -> None:
    for _ in range(FAILURES_IN_A_ROW * 2):
        assert perform({"http": {"url": "http://10.0.0.1/"}}).error_class == "refused_target"


def test_a_disabled_target_is_not_called() -> None:
    with a_destination() as destination:
        target = destination.url + "/hook"
        step = {"http": {"url": target + "?to={{ phone | url_encode }}"}}
        outcome = perform(step, disabled={target: "answered 410: the target is gone for good"})
        assert (outcome.kind, outcome.error_class) == ("failed", "target_disabled")
        assert "answered 410" in str(outcome.error)
        assert perform({"http": {"url": destination.url + "/other"}}, disabled={target: "x"}).kind == "done"
    assert [call.path for call in destination.calls] == ["/other"]


def test_a_410_names_the_target_that_is_gone() -> None:
    with a_destination(Answer(410)) as destination:
        outcome = perform({"http": {"url": destination.url + "/hook?x=1"}})
    assert (outcome.kind, outcome.gone) == ("failed", destination.url + "/hook")
