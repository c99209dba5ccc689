"""Scenarios for circuit breakers: a clock that the test sets, and calls with given results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from app.actions.circuit import FAILURE_THRESHOLD, Deferred
from app.actions.circuit_breaker import (
    CircuitBreakers,
)
from tests.support.clocks import Clock

HERE, THERE = "here.example:443", "there.example:443"


class Scenario:
    """The circuit breakers of a worker that makes 40 calls at a time (10 for a host, 30 for an account)."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.circuit_breakers = CircuitBreakers(40, rng=Random(7), clock=self.clock)

    async def call(
        self,
        succeeded: bool | None,
        *,
        host: str = HERE,
        account: int = 1,
        seconds: float = 0.01,
        target: str | None = None,
        connected: bool = True,
    ) -> None:
        """One call that takes so many seconds."""
        async with self.circuit_breakers.permit(account, host, target) as permit:
            self.clock.now += seconds
            permit.succeeded = succeeded
            permit.is_connected = connected

    async def fail(self, times: int = FAILURE_THRESHOLD, **where: Any) -> None:
        for _ in range(times):
            await self.call(False, **where)

    async def deferred(self, **where: object) -> Deferred:
        with pytest.raises(Deferred) as caught:
            await self.call(True, **where)  # type: ignore[arg-type]
        return caught.value

    def hold(self, count: int, *, host: str = HERE, account: int = 1) -> tuple[asyncio.Event, list[asyncio.Task[None]]]:
        """Begin so many calls that last until the event is set."""
        end = asyncio.Event()

        async def call() -> None:
            async with self.circuit_breakers.permit(account, host) as permit:
                await end.wait()
                permit.succeeded = True

        return end, [asyncio.create_task(call()) for _ in range(count)]


def run_scenario(scenario: Callable[[Scenario], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario(Scenario())

    asyncio.run(run())
