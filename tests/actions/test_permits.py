"""Concurrency permits: how many calls a host and an account may have at a time, and when the others come back."""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from app.actions.circuit import FAILURE_THRESHOLD, MAX_PAUSE, Deferred
from app.actions.circuit_breaker import (
    MAX_DEFERRAL,
    CircuitBreakers,
)
from tests.support.circuit_scenarios import HERE, THERE, Clock, Scenario, run_scenario

# Permits


def test_a_host_gets_a_quarter_of_the_permits() -> None:
    async def scenario(it: Scenario) -> None:
        await it.call(True, seconds=5.0)
        end, calls = it.hold(10)
        await asyncio.sleep(0)
        assert (await it.deferred()).error_class == "busy"
        await it.call(True, host=THERE)
        await it.call(True, account=2)
        end.set()
        await asyncio.gather(*calls)
        await it.call(True)

    run_scenario(scenario)


def test_a_call_waits_for_a_permit_when_one_is_expected_soon() -> None:
    async def scenario(it: Scenario) -> None:
        await it.call(True, seconds=0.01)
        end, calls = it.hold(10)
        _, waiting = it.hold(5)
        await asyncio.sleep(0.01)
        end.set()
        await asyncio.gather(*calls)
        await asyncio.sleep(0.01)
        assert [task.done() for task in waiting] == [False] * 5
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await it.call(True)

    run_scenario(scenario)


def test_no_call_waits_longer_than_the_maximum() -> None:
    async def scenario(it: Scenario) -> None:
        await it.call(True, seconds=0.01)
        end, calls = it.hold(10)
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        assert (await it.deferred()).error_class == "busy"
        assert 0.2 < asyncio.get_running_loop().time() - began < 0.6
        end.set()
        await asyncio.gather(*calls)

    run_scenario(scenario)


def test_a_permit_is_released_whatever_happens() -> None:
    async def scenario(it: Scenario) -> None:
        await it.call(True, seconds=0.01)
        for _ in range(20):
            _, calls = it.hold(15)
            await asyncio.sleep(0.005)
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        end, calls = it.hold(10)
        await asyncio.sleep(0)
        end.set()
        await asyncio.gather(*calls)

    run_scenario(scenario)


def test_deferred_calls_come_back_as_fast_as_the_host_takes_them() -> None:
    async def scenario(it: Scenario) -> None:
        await it.call(True, seconds=5.0)
        end, calls = it.hold(10)
        await asyncio.sleep(0)
        seconds = [(await it.deferred()).seconds for _ in range(50)]
        # Ten permits, five seconds a call: two a second.
        assert seconds[0] < 3
        assert 20 < seconds[-1] < 35
        assert max([(await it.deferred()).seconds for _ in range(200)]) <= MAX_DEFERRAL * 1.2
        end.set()
        await asyncio.gather(*calls)

    run_scenario(scenario)


def test_an_account_gets_three_quarters_of_the_permits() -> None:
    async def scenario(it: Scenario) -> None:
        held = [it.hold(10, host=f"{number}.example:443") for number in range(3)]
        await asyncio.sleep(0)
        assert (await it.deferred()).error_class == "busy"
        await it.call(True, account=2)
        for end, calls in held:
            end.set()
            await asyncio.gather(*calls)

    run_scenario(scenario)


def test_idle_circuits_are_evicted() -> None:
    async def scenario(it: Scenario) -> None:
        for number in range(20_000):
            await it.call(True, host=f"{number}.example:443")
        assert len(it.circuit_breakers._hosts) <= 10_000

    run_scenario(scenario)


def test_permits_without_an_event_loop_are_limited_by_host_and_account() -> None:
    circuit_breakers = CircuitBreakers(8, rng=Random(7), clock=Clock())
    held = [(HERE, circuit_breakers.acquire(1, HERE)) for _ in range(2)]
    with pytest.raises(Deferred, match="limit of 2 calls"):
        circuit_breakers.acquire(1, HERE)
    held += [(host, circuit_breakers.acquire(1, host)) for host in (THERE, THERE, "a:1", "a:1")]
    with pytest.raises(Deferred, match="the account has reached its limit of 6 calls"):
        circuit_breakers.acquire(1, "b:1")
    circuit_breakers.acquire(2, HERE)
    for host, permit in held:
        circuit_breakers.release(1, host, permit)
    circuit_breakers.acquire(1, HERE)


def test_permits_without_an_event_loop_open_and_close_the_circuit() -> None:
    clock = Clock()
    circuit_breakers = CircuitBreakers(8, rng=Random(7), clock=clock)

    def call(succeeded: bool) -> None:
        permit = circuit_breakers.acquire(1, HERE)
        permit.succeeded = succeeded
        circuit_breakers.release(1, HERE, permit)

    for _ in range(FAILURE_THRESHOLD):
        call(False)
    with pytest.raises(Deferred) as caught:
        call(True)
    assert caught.value.error_class == "circuit_open"
    clock.now += MAX_PAUSE
    call(True)
    call(True)


def test_threads_never_hold_more_permits_than_the_host_allows() -> None:
    def slow_clock() -> float:
        # Lets another thread run between the check of the limit and the counting.
        time.sleep(0.0005)
        return time.monotonic()

    circuit_breakers = CircuitBreakers(16, rng=Random(7), clock=slow_clock)
    held: list[int] = []
    counts: list[int] = []

    def call(number: int) -> bool:
        try:
            permit = circuit_breakers.acquire(1, HERE)
        except Deferred:
            return False
        held.append(number)
        counts.append(len(held))
        time.sleep(0.001)
        held.remove(number)
        permit.succeeded = True
        circuit_breakers.release(1, HERE, permit)
        return True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(call, range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert any(made)
    assert max(counts) <= 4
    # All permits have been returned: exactly four are free.
    for _ in range(4):
        circuit_breakers.acquire(1, HERE)
    with pytest.raises(Deferred, match="limit of 4 calls"):
        circuit_breakers.acquire(1, HERE)
