"""Limits a worker's outgoing calls: concurrency permits per host (with port), and circuit breakers per host and per target.

The state is kept in the worker's memory. It is separate for each account, so no account suffers from the targets of another.

* A host gets at most a quarter of the worker's permits, an account at most three quarters. A call for which no permit
  is free waits for one if that takes a fraction of a second; otherwise it is deferred (`Deferred`) until its turn should come.
* A target is what the answers of calls are counted by: a method and a path, a message template, a sender. After several bad
  answers in a row (5xx, no complete answer in time) its circuit opens, and its calls are deferred. Connection failures (DNS,
  connect, TLS) are counted by host: after several in a row the circuit of the host opens, and the calls of all its targets are
  deferred.
* After a pause one probe is let through; to a host, one of the target that has waited longest. If it fails too, the circuit opens
  again, for twice as long.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from app.actions.circuit import Circuit, Circuits, Deferred

# Seconds: how long a call is deferred at most when no permit is free, or an attempt when its account renders another one.
MAX_DEFERRAL = 60.0
# Seconds: a call or an attempt waits in the worker no longer than this, since it occupies a slot meanwhile.
MAX_WAIT = 0.25
# Seconds: the assumed duration of a call before any has ended, for calls that wait and for calls that are deferred.
_ASSUMED_DURATION, _ASSUMED_LONG_DURATION = 0.1, 1.0
_MAX_HOSTS = 10_000

Key = tuple[int, str]


def spread(latest: float, earliest: float, step: float, now: float, rng: random.Random) -> tuple[float, float]:
    """Spread deferred calls or attempts over time: when the next one should come back, a `step` after the `latest` and after
    `earliest`, and the seconds until then, varied a little."""
    next_at = min(max(latest, earliest) + step, now + MAX_DEFERRAL)
    return next_at, max(0.1, (next_at - now) * rng.uniform(0.8, 1.2))


@dataclass(slots=True, eq=False)
class Permit:
    """One call to a target of a host. The caller sets `succeeded`: True if the answer was good, False if it was bad or there was
    none, None if neither is known; and `is_connected` to False if no connection was made."""

    host: str
    target: str
    started_at: float
    probed: list[Circuit] = field(default_factory=list)
    succeeded: bool | None = None
    is_connected: bool = True


@dataclass(frozen=True, slots=True)
class CircuitChange:
    """A circuit that is open: since `open_for` seconds, with the next call in `retry_in` seconds; or closed (`failures` is 0)."""

    account_id: int
    target: str
    failures: int
    open_for: float
    retry_in: float


class _PermitPool:
    """A bounded number of permits, with a queue for callers that expect one within `MAX_WAIT` seconds."""

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
        if self.typical_duration() * (len(self._waiters) + 1) / self.size > MAX_WAIT:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait((waiter,), timeout=MAX_WAIT)
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
        if self._duration is not None and age <= 2 * self._duration + MAX_WAIT:
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
class _Host:
    """The permits of one host. `next_at` is when the next deferred call should come back."""

    pool: _PermitPool
    next_at: float = 0.0


@dataclass(slots=True)
class _Account:
    """The permits and the circuits of one account."""

    pool: _PermitPool
    circuits: Circuits = field(default_factory=Circuits)


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
        self._hosts: dict[Key, _Host] = {}
        self._accounts: dict[int, _Account] = {}
        self._lock = threading.Lock()

    @asynccontextmanager
    async def permit(self, account_id: int, host: str, target: str | None = None) -> AsyncIterator[Permit]:
        """Hold a permit for `host` (such as example.com:443) during the block; raises Deferred. `target`: what the answer is
        counted by (default: the host)."""
        found, target = self._find((account_id, host)), target or host
        self._check_circuits(account_id, host, target, found)
        async with self._account_permit(account_id) as account:
            if not await found.pool.acquire():
                raise self._deferred_by_load(found, host)
            try:
                self._check_circuits(account_id, host, target, found)
                permit = self._begin(found, account, host, target)
                try:
                    yield permit
                finally:
                    self._end(found, account, permit)
            finally:
                found.pool.release()

    def acquire(self, account_id: int, host: str, target: str | None = None) -> Permit:
        """`permit` without an event loop, hence without waiting: a permit that is passed to `release`. Raises Deferred."""
        with self._lock:
            found, target = self._find((account_id, host)), target or host
            self._check_circuits(account_id, host, target, found)
            account = self._account(account_id)
            if account.pool.in_use >= account.pool.size:
                raise self._deferred_by_account(account.pool)
            if found.pool.in_use >= found.pool.size:
                raise self._deferred_by_load(found, host)
            account.pool.in_use += 1
            found.pool.in_use += 1
            return self._begin(found, account, host, target)

    def release(self, account_id: int, host: str, permit: Permit) -> None:
        """The call of a permit of `acquire` has ended."""
        with self._lock:
            found, account = self._find((account_id, host)), self._account(account_id)
            self._end(found, account, permit)
            found.pool.release()
            account.pool.release()
            self._forget_idle(account_id)

    def take_changes(self) -> list[CircuitChange]:
        """The circuits that have opened, opened again, or closed since the last call."""
        now, changes = self._clock(), []
        with self._lock:
            for account_id, account in list(self._accounts.items()):
                for name, circuit in account.circuits.changed.items():
                    times = (now - circuit.first_opened_at, circuit.open_until - now)
                    changes.append(CircuitChange(account_id, name, circuit.failures, *times))
                account.circuits.changed.clear()
                self._forget_idle(account_id)
        return changes

    @asynccontextmanager
    async def _account_permit(self, account_id: int) -> AsyncIterator[_Account]:
        account = self._account(account_id)
        try:
            if not await account.pool.acquire():
                raise self._deferred_by_account(account.pool)
            try:
                yield account
            finally:
                account.pool.release()
        finally:
            self._forget_idle(account_id)

    def _account(self, account_id: int) -> _Account:
        return self._accounts.setdefault(account_id, _Account(_PermitPool(self._per_account, self._clock)))

    def _forget_idle(self, account_id: int) -> None:
        account = self._account(account_id)
        if account.pool.is_idle() and not account.circuits:
            del self._accounts[account_id]

    def _deferred_by_account(self, pool: _PermitPool) -> Deferred:
        reason = f"the account has reached its limit of {pool.size} calls at a time"
        return Deferred("busy", reason, self._rng.uniform(0.5, 1.5))

    def _find(self, key: Key) -> _Host:
        if len(self._hosts) >= _MAX_HOSTS and key not in self._hosts:
            self._hosts = {key: host for key, host in self._hosts.items() if not host.pool.is_idle()}
        if key not in self._hosts:
            self._hosts[key] = _Host(_PermitPool(self._per_host, self._clock))
        return self._hosts[key]

    def _deferred_by_load(self, found: _Host, host: str) -> Deferred:
        """Spread the deferred calls over time, as many a second as the host takes."""
        now, duration = self._clock(), found.pool.expected_duration()
        earliest = now + min(duration, _ASSUMED_LONG_DURATION)
        found.next_at, seconds = spread(found.next_at, earliest, duration / found.pool.size, now, self._rng)
        return Deferred("busy", f"{host} has reached its limit of {found.pool.size} calls at a time", seconds)

    def _check_circuits(self, account_id: int, host: str, target: str, found: _Host) -> None:
        """Raise Deferred while the circuit of the host or the target is open, and while a probe is under way."""
        account = self._accounts.get(account_id)
        if account is None:
            return
        # The target first: a call that its own circuit defers does not queue at the host.
        for key in ((host, target), (host, None)):
            circuit = account.circuits.find(key)
            if circuit is not None:
                circuit.check(target, self._clock(), found.pool.typical_duration(), self._rng)

    def _begin(self, found: _Host, account: _Account, host: str, target: str) -> Permit:
        permit = Permit(host, target, self._clock())
        for key in ((host, target), (host, None)):
            circuit = account.circuits.find(key)
            if circuit is not None and circuit.begin(target):
                permit.probed.append(circuit)
        found.pool.calls.append(permit)
        account.pool.calls.append(permit)
        return permit

    def _end(self, found: _Host, account: _Account, permit: Permit) -> None:
        found.pool.calls.remove(permit)
        account.pool.calls.remove(permit)
        for circuit in permit.probed:
            circuit.probing = False
        if permit.succeeded is None:
            return
        now, circuits = self._clock(), account.circuits
        found.pool.record_duration(now - permit.started_at)
        account.pool.record_duration(now - permit.started_at)
        of_host, of_target = (permit.host, None), (permit.host, permit.target)
        if permit.is_connected and circuits.succeed(of_host):
            found.next_at = now
        if permit.succeeded:
            if circuits.succeed(of_target):
                found.next_at = now
            return
        key, name = (of_target, permit.target) if permit.is_connected else (of_host, permit.host)
        circuits.fail(key, name, now, self._rng, is_probe=circuits.find(key) in permit.probed)
