"""What a worker knows of the destinations it calls: how many calls each may hold at a time, and which to leave alone.

Kept in the worker's memory by account and place (host and port), so that no account suffers from another's destination.

* A destination holds at most a quarter of the worker's places, an account at most three quarters. A run that finds them
  taken waits for one where it stands only if that is a matter of a moment; else it goes back to the queue (`Deferred`),
  due when its turn should come.
* After several failures in a row (no connection, no answer in time, 5xx) a destination's circuit opens: nobody calls it
  for a while. Then one call is let through; if it fails too the circuit opens again, for twice as long.
"""

from __future__ import annotations

import asyncio
import random as chance
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.core.durations import write_duration
from app.core.models import Outcome

FAILURES_IN_A_ROW = 5
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
LONGEST_TURN = 60.0
# Longer than this nobody waits for a place while holding one of the worker's.
_MOMENT = 0.25
# What is taken for the length of a call before one has ended: by those who wait, and by those who do not.
_GUESS, _LONG = 0.1, 1.0
_MOST_REMEMBERED = 10_000

Key = tuple[int, str]


class Deferred(Exception):
    """No call now: try again in `seconds`. No attempt was made, and none is to be counted."""

    def __init__(self, error_class: str, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.seconds = seconds

    def outcome(self) -> Outcome:
        """The same as an outcome."""
        return Outcome("later", error=str(self), error_class=self.error_class, retry_after=self.seconds)


@dataclass(slots=True, eq=False)
class Visit:
    """One call; `went_well` is for the caller to say: True it answered, False it could not, None nothing is known."""

    began: float
    is_probe: bool
    succeeded: bool | None = None


class _Line:
    """Places, those who hold one, and those who wait for one because that is a matter of a moment."""

    __slots__ = ("_clock", "_usual", "_waiting", "held", "places", "visits")

    def __init__(self, places: int, clock: Callable[[], float]) -> None:
        self.places = places
        self.held = 0
        self.visits: list[Visit] = []
        self._clock = clock
        self._usual: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> bool:
        """Take a place; False when none becomes free in a moment."""
        if self.held < self.places:
            self.held += 1
            return True
        if self.usual() * (len(self._waiting) + 1) / self.places > _MOMENT:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait((turn,), timeout=_MOMENT)
        except asyncio.CancelledError:
            if turn.done():
                self.give_back()
            else:
                self._waiting.remove(turn)
            raise
        if not turn.done():
            self._waiting.remove(turn)
        return turn.done()

    def give_back(self) -> None:
        """Hand the place to the first who waits; without one it is free."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self.held -= 1

    def usual(self) -> float:
        """How long a call takes: as lately, and at least as long as the oldest one has been under way."""
        return max(self._age(), _GUESS if self._usual is None else self._usual)

    def outlook(self) -> float:
        """The same for those who do not wait here: where calls take unusually long, they will take longer still."""
        age = self._age()
        if self._usual is not None and age <= 2 * self._usual + _MOMENT:
            return self.usual()
        return max(_LONG, 2 * age)

    def _age(self) -> float:
        return self._clock() - self.visits[0].began if self.visits else 0.0

    def learn(self, seconds: float) -> None:
        """A call has ended that took so long."""
        self._usual = seconds if self._usual is None else self._usual * 0.7 + seconds * 0.3

    def is_idle(self) -> bool:
        """Whether nobody holds a place or waits for one."""
        return not self.held and not self._waiting


@dataclass(slots=True)
class _Destination:
    """`next_turn`: when the next run that is sent away should come back; `openings`: how often in a row its circuit has
    opened; `probing`: whether a call is trying it out."""

    line: _Line
    next_turn: float = 0.0
    failures: int = 0
    openings: int = 0
    opened_at: float = 0.0
    open_until: float = 0.0
    probing: bool = False

    def is_broken(self) -> bool:
        """Whether its circuit is open, or has yet to be tried out."""
        return self.openings > 0


class CircuitBreakers:
    """All destinations of one worker that works on `concurrency` runs at a time."""

    def __init__(
        self,
        concurrency: int,
        *,
        random: chance.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = max(1, concurrency // 4)
        self.places_of_account = max(1, concurrency * 3 // 4)
        self._random = random or chance.Random()
        self._clock = clock
        self._known: dict[Key, _Destination] = {}
        self._accounts: dict[int, _Line] = {}

    @asynccontextmanager
    async def permit(self, account_id: int, place: str) -> AsyncIterator[Visit]:
        """Hold one of the places at `place` (host:port) for the length of the block; raises Deferred."""
        destination = self._find((account_id, place))
        self._mind_the_circuit(destination, place)
        async with self._a_place_of(account_id) as account:
            if not await destination.line.take():
                raise self._sent_away(destination, place)
            try:
                self._mind_the_circuit(destination, place)
                permit = self._begin(destination, account)
                try:
                    yield permit
                finally:
                    self._end(destination, account, permit)
            finally:
                destination.line.give_back()

    @asynccontextmanager
    async def _a_place_of(self, account_id: int) -> AsyncIterator[_Line]:
        line = self._accounts.setdefault(account_id, _Line(self.places_of_account, self._clock))
        try:
            if not await line.take():
                reason = f"the account has {line.places} calls under way already, as many as it may have"
                raise Deferred("busy", reason, self._random.uniform(0.5, 1.5))
            try:
                yield line
            finally:
                line.give_back()
        finally:
            if line.is_idle():
                self._accounts.pop(account_id, None)

    def _find(self, key: Key) -> _Destination:
        if len(self._known) >= _MOST_REMEMBERED and key not in self._known:
            self._forget()
        if key not in self._known:
            self._known[key] = _Destination(_Line(self.places, self._clock))
        return self._known[key]

    def _forget(self) -> None:
        """Keep only what is under way or broken; and where that is still too much, only what is under way."""
        busy = {key: one for key, one in self._known.items() if not one.line.is_idle()}
        broken = {key: one for key, one in self._known.items() if one.is_broken()}
        self._known = {**broken, **busy} if len(broken) < _MOST_REMEMBERED // 2 else busy

    def _sent_away(self, destination: _Destination, place: str) -> Deferred:
        """Each that is sent away gets a turn of its own, as many a second as the destination takes."""
        now, each = self._clock(), destination.line.outlook()
        turn = max(destination.next_turn, now + min(each, _LONG)) + each / self.places
        destination.next_turn = min(turn, now + LONGEST_TURN)
        seconds = (destination.next_turn - now) * self._random.uniform(0.8, 1.2)
        reason = f"{place} has {self.places} calls under way already, as many as it may have"
        return Deferred("busy", reason, max(0.1, seconds))

    # Circuits

    def _mind_the_circuit(self, destination: _Destination, place: str) -> None:
        """Raise Deferred while the circuit is open, and while somebody tries out whether it may be closed."""
        if not destination.is_broken():
            return
        left = destination.open_until - self._clock()
        # Spread, so that those who were held back together do not come back together.
        if left > 0:
            seconds = left + self._random.uniform(0.0, destination.open_until - destination.opened_at)
            raise _left_alone(place, destination.failures, seconds)
        if destination.probing:
            seconds = self._random.uniform(0.5, 1.5) * max(1.0, destination.line.usual())
            raise _left_alone(place, destination.failures, seconds)

    def _begin(self, destination: _Destination, account: _Line) -> Visit:
        permit = Visit(self._clock(), is_probe=destination.is_broken())
        destination.probing |= permit.is_probe
        destination.line.visits.append(permit)
        account.visits.append(permit)
        return permit

    def _end(self, destination: _Destination, account: _Line, permit: Visit) -> None:
        destination.line.visits.remove(permit)
        account.visits.remove(permit)
        if permit.is_probe:
            destination.probing = False
        if permit.succeeded is None:
            return
        now = self._clock()
        destination.line.learn(now - permit.began)
        account.learn(now - permit.began)
        if not permit.succeeded:
            self._count_failure(destination, permit, now)
            return
        if destination.is_broken():
            destination.next_turn = now
        destination.failures = destination.openings = 0

    def _count_failure(self, destination: _Destination, permit: Visit, now: float) -> None:
        destination.failures += 1
        # Calls that were under way when it opened tell nothing new.
        if destination.failures < FAILURES_IN_A_ROW or (destination.is_broken() and not permit.is_probe):
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(destination.openings, 10))
        destination.openings += 1
        destination.opened_at = now
        destination.open_until = now + pause * self._random.uniform(0.8, 1.2)


def _left_alone(place: str, failures: int, seconds: float) -> Deferred:
    told = f"{place} failed {failures} times in a row and is left alone for now; next try in {write_duration(seconds)}"
    return Deferred("circuit_open", told, seconds)
