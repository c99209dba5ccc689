"""Limits a worker's outgoing calls: concurrency permits and a circuit breaker per account and host (with port).

The state is kept in the worker's memory. It is separate for each account, so no account suffers from the hosts of another.

* A host gets at most a quarter of the worker's permits, an account at most three quarters. A call for which no permit
  is free waits for one if that takes a fraction of a second; otherwise it is deferred (`Deferred`) until its turn should come.
* After several failures in a row (no connection, no answer in time, 5xx) the circuit opens, and calls are deferred. After a
  pause one probe is let through. If it fails too, the circuit opens again, for twice as long.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.core.durations import write_duration
from app.core.models import Outcome

FAILURE_THRESHOLD = 5
FIRST_PAUSE, MAX_PAUSE = 5.0, 300.0
# Seconds: how long a call is deferred at most when no permit is free.
MAX_DEFERRAL = 60.0
# Seconds: a call waits for a permit no longer than this, since it occupies a slot of the worker meanwhile.
_MAX_WAIT = 0.25
# Seconds: the assumed duration of a call before any has ended, for calls that wait and for calls that are deferred.
_ASSUMED_DURATION, _ASSUMED_LONG_DURATION = 0.1, 1.0
_MAX_CIRCUITS = 10_000

Key = tuple[int, str]


class Deferred(Exception):
    """The call is not made now; retry in `seconds`. It does not count as an attempt."""

    def __init__(self, error_class: str, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.seconds = seconds

    def outcome(self) -> Outcome:
        """The same as an outcome."""
        return Outcome("later", error=str(self), error_class=self.error_class, retry_after=self.seconds)


@dataclass(slots=True, eq=False)
class Permit:
    """One call. The caller sets `succeeded`: True if the host answered, False if it failed, None if neither is known."""

    started_at: float
    is_probe: bool
    succeeded: bool | None = None


class _PermitPool:
    """A bounded number of permits, with a queue for callers that expect one within `_MAX_WAIT` seconds."""

    __slots__ = ("_clock", "_duration", "_waiters", "calls", "in_use", "size")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size = size
        self.in_use = 0
        self.calls: list[Permit] = []
        self._clock = clock
        self._duration: float | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> bool:
        """Take a permit; False when none is released in time."""
        if self.in_use < self.size:
            self.in_use += 1
            return True
        if self.typical_duration() * (len(self._waiters) + 1) / self.size > _MAX_WAIT:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait((waiter,), timeout=_MAX_WAIT)
        except asyncio.CancelledError:
            if waiter.done():
                self.release()
            else:
                self._waiters.remove(waiter)
            raise
        if not waiter.done():
            self._waiters.remove(waiter)
        return waiter.done()

    def release(self) -> None:
        """Hand the permit to the first waiter, or return it to the pool."""
        if self._waiters:
            self._waiters.popleft().set_result(None)
        else:
            self.in_use -= 1

    def typical_duration(self) -> float:
        """Seconds that a call takes: the recent average, and at least the age of the oldest call under way."""
        return max(self._oldest_age(), _ASSUMED_DURATION if self._duration is None else self._duration)

    def expected_duration(self) -> float:
        """The same for deferred calls: when calls take unusually long, twice the age of the oldest one is expected."""
        age = self._oldest_age()
        if self._duration is not None and age <= 2 * self._duration + _MAX_WAIT:
            return self.typical_duration()
        return max(_ASSUMED_LONG_DURATION, 2 * age)

    def _oldest_age(self) -> float:
        return self._clock() - self.calls[0].started_at if self.calls else 0.0

    def record_duration(self, seconds: float) -> None:
        """Include the duration of a finished call in the average."""
        self._duration = seconds if self._duration is None else self._duration * 0.7 + seconds * 0.3

    def is_idle(self) -> bool:
        """Whether no permit is in use or waited for."""
        return not self.in_use and not self._waiters


@dataclass(slots=True)
class _Circuit:
    """The state of one host. `next_turn` is when the next deferred call should come back, `openings` how often in a
    row the circuit has opened, `probing` whether a probe is under way."""

    pool: _PermitPool
    next_turn: float = 0.0
    failures: int = 0
    openings: int = 0
    opened_at: float = 0.0
    open_until: float = 0.0
    probing: bool = False

    def is_open(self) -> bool:
        """Whether calls are deferred, or a probe has yet to succeed."""
        return self.openings > 0


class CircuitBreakers:
    """The circuit breakers of a process that makes up to `concurrency` calls at a time.

    `acquire` and `release` may be called by several threads. `permit` belongs to one event loop: use either it or them.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_host = max(1, concurrency // 4)
        self._per_account = max(1, concurrency * 3 // 4)
        self._rng = rng or random.Random()
        self._clock = clock
        self._circuits: dict[Key, _Circuit] = {}
        self._accounts: dict[int, _PermitPool] = {}
        self._lock = threading.Lock()

    @asynccontextmanager
    async def permit(self, account_id: int, host: str) -> AsyncIterator[Permit]:
        """Hold a permit for `host` (such as example.com:443) during the block; raises Deferred."""
        circuit = self._find((account_id, host))
        self._check_circuit(circuit, host)
        async with self._account_permit(account_id) as account:
            if not await circuit.pool.acquire():
                raise self._deferred_by_load(circuit, host)
            try:
                self._check_circuit(circuit, host)
                permit = self._begin(circuit, account)
                try:
                    yield permit
                finally:
                    self._end(circuit, account, permit)
            finally:
                circuit.pool.release()

    def acquire(self, account_id: int, host: str) -> Permit:
        """`permit` without an event loop, hence without waiting: a permit that is passed to `release`. Raises Deferred."""
        with self._lock:
            circuit = self._find((account_id, host))
            self._check_circuit(circuit, host)
            account = self._account(account_id)
            if account.in_use >= account.size:
                raise self._deferred_by_account(account)
            if circuit.pool.in_use >= circuit.pool.size:
                raise self._deferred_by_load(circuit, host)
            account.in_use += 1
            circuit.pool.in_use += 1
            return self._begin(circuit, account)

    def release(self, account_id: int, host: str, permit: Permit) -> None:
        """The call of a permit of `acquire` has ended."""
        with self._lock:
            circuit, account = self._find((account_id, host)), self._account(account_id)
            self._end(circuit, account, permit)
            circuit.pool.release()
            account.release()
            self._forget_idle(account_id)

    @asynccontextmanager
    async def _account_permit(self, account_id: int) -> AsyncIterator[_PermitPool]:
        pool = self._account(account_id)
        try:
            if not await pool.acquire():
                raise self._deferred_by_account(pool)
            try:
                yield pool
            finally:
                pool.release()
        finally:
            self._forget_idle(account_id)

    def _account(self, account_id: int) -> _PermitPool:
        return self._accounts.setdefault(account_id, _PermitPool(self._per_account, self._clock))

    def _forget_idle(self, account_id: int) -> None:
        if self._account(account_id).is_idle():
            del self._accounts[account_id]

    def _deferred_by_account(self, pool: _PermitPool) -> Deferred:
        reason = f"the account has reached its limit of {pool.size} calls at a time"
        return Deferred("busy", reason, self._rng.uniform(0.5, 1.5))

    def _find(self, key: Key) -> _Circuit:
        if len(self._circuits) >= _MAX_CIRCUITS and key not in self._circuits:
            self._evict()
        if key not in self._circuits:
            self._circuits[key] = _Circuit(_PermitPool(self._per_host, self._clock))
        return self._circuits[key]

    def _evict(self) -> None:
        """Keep only the circuits that are in use or open; when too many are open, only those in use."""
        in_use = {key: circuit for key, circuit in self._circuits.items() if not circuit.pool.is_idle()}
        opened = {key: circuit for key, circuit in self._circuits.items() if circuit.is_open()}
        self._circuits = {**opened, **in_use} if len(opened) < _MAX_CIRCUITS // 2 else in_use

    def _deferred_by_load(self, circuit: _Circuit, host: str) -> Deferred:
        """Spread the deferred calls over time, as many a second as the host takes."""
        now, duration = self._clock(), circuit.pool.expected_duration()
        turn = max(circuit.next_turn, now + min(duration, _ASSUMED_LONG_DURATION)) + duration / circuit.pool.size
        circuit.next_turn = min(turn, now + MAX_DEFERRAL)
        seconds = (circuit.next_turn - now) * self._rng.uniform(0.8, 1.2)
        reason = f"{host} has reached its limit of {circuit.pool.size} calls at a time"
        return Deferred("busy", reason, max(0.1, seconds))

    def _check_circuit(self, circuit: _Circuit, host: str) -> None:
        """Raise Deferred while the circuit is open, and while a probe is under way."""
        if not circuit.is_open():
            return
        remaining = circuit.open_until - self._clock()
        # Jitter, so that calls that were deferred together do not come back together.
        if remaining > 0:
            seconds = remaining + self._rng.uniform(0.0, circuit.open_until - circuit.opened_at)
            raise _deferred_by_circuit(host, circuit.failures, seconds)
        if circuit.probing:
            seconds = self._rng.uniform(0.5, 1.5) * max(1.0, circuit.pool.typical_duration())
            raise _deferred_by_circuit(host, circuit.failures, seconds)

    def _begin(self, circuit: _Circuit, account: _PermitPool) -> Permit:
        permit = Permit(self._clock(), is_probe=circuit.is_open())
        circuit.probing |= permit.is_probe
        circuit.pool.calls.append(permit)
        account.calls.append(permit)
        return permit

    def _end(self, circuit: _Circuit, account: _PermitPool, permit: Permit) -> None:
        circuit.pool.calls.remove(permit)
        account.calls.remove(permit)
        if permit.is_probe:
            circuit.probing = False
        if permit.succeeded is None:
            return
        now = self._clock()
        circuit.pool.record_duration(now - permit.started_at)
        account.record_duration(now - permit.started_at)
        if not permit.succeeded:
            self._record_failure(circuit, permit, now)
            return
        if circuit.is_open():
            circuit.next_turn = now
        circuit.failures = circuit.openings = 0

    def _record_failure(self, circuit: _Circuit, permit: Permit, now: float) -> None:
        circuit.failures += 1
        # Calls that were under way when the circuit opened do not extend the pause.
        if circuit.failures < FAILURE_THRESHOLD or (circuit.is_open() and not permit.is_probe):
            return
        pause = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(circuit.openings, 10))
        circuit.openings += 1
        circuit.opened_at = now
        circuit.open_until = now + pause * self._rng.uniform(0.8, 1.2)


def _deferred_by_circuit(host: str, failures: int, seconds: float) -> Deferred:
    reason = f"{host} failed {failures} times in a row; calls are paused, next attempt in {write_duration(seconds)}"
    return Deferred("circuit_open", reason, seconds)
