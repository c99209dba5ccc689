"""What a worker knows of the destinations it calls: how many calls each may hold at a time, and which to leave alone.

Kept in the worker's memory by account and place (host and port), so that no account suffers from another's destination.

* A destination holds at most a quarter of the worker's places, an account at most three quarters. A run that finds them
  taken waits for one where it stands only if that is a matter of a moment; else it goes back to the queue (`HeldBack`),
  due when its turn should come.
* After several failures in a row (no connection, no answer in time, 5xx) a destination's circuit opens: nobody calls it
  for a while. Then one call is let through; if it fails too the circuit opens again, for twice as long.
"""

from __future__ import annotations

import asyncio
import random as chance
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from app.durations import write_duration
from app.words import Outcome

FAILURES_IN_A_ROW = 5
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
LONGEST_TURN = 60.0
# Longer than this nobody waits for a place while holding one of the worker's.
_MOMENT = 0.25
# What is taken for the length of a call before one has ended.
_GUESS = 0.1
_MOST_REMEMBERED = 10_000

Key = tuple[int, str]


class HeldBack(Exception):
    """No call now: try again in `seconds`. No attempt was made, and none is to be counted."""

    def __init__(self, error_class: str, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.seconds = seconds

    def outcome(self) -> Outcome:
        """The same as an outcome."""
        return Outcome("later", error=str(self), error_class=self.error_class, retry_after=self.seconds)


@dataclass(slots=True)
class Visit:
    """One call; `went_well` is for the caller to say: True it answered, False it could not, None nothing is known."""

    began: float
    is_probe: bool
    went_well: bool | None = None


@dataclass(slots=True)
class _Destination:
    """`held`: how many of its places are taken; `usual`: the length of its calls lately (None: none has ended);
    `next_turn`: when the next run that is sent away should come back; `openings`: how often in a row its circuit has
    opened; `probing`: whether a call is trying it out."""

    visits: list[Visit] = field(default_factory=list)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    held: int = 0
    usual: float | None = None
    next_turn: float = 0.0
    failures: int = 0
    openings: int = 0
    opened_at: float = 0.0
    open_until: float = 0.0
    probing: bool = False

    def is_broken(self) -> bool:
        """Whether its circuit is open, or has yet to be tried out."""
        return self.openings > 0


class Destinations:
    """All destinations of one worker that works on `concurrency` runs at a time."""

    def __init__(
        self,
        concurrency: int,
        *,
        random: chance.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = max(1, concurrency)
        self.places_of_account = max(1, concurrency)
        self._random = random or chance.Random()
        self._clock = clock
        self._known: dict[Key, _Destination] = {}
        self._of_account: Counter[int] = Counter()

    @asynccontextmanager
    async def visit(self, account_id: int, place: str) -> AsyncIterator[Visit]:
        """Hold one of the places at `place` (host:port) for the length of the block; raises HeldBack."""
        destination = self._find((account_id, place))
        self._mind_the_circuit(destination, place)
        with self._a_place_of(account_id):
            await self._take_a_place(destination, place)
            try:
                self._mind_the_circuit(destination, place)
                visit = self._begin(destination)
                try:
                    yield visit
                finally:
                    self._end(destination, visit)
            finally:
                _give_back(destination)

    @contextmanager
    def _a_place_of(self, account_id: int) -> Iterator[None]:
        if self._of_account[account_id] >= self.places_of_account:
            reason = f"the account has {self.places_of_account} calls under way already, as many as it may have"
            raise HeldBack("busy", reason, self._random.uniform(0.5, 1.5))
        self._of_account[account_id] += 1
        try:
            yield
        finally:
            self._of_account[account_id] -= 1
            if not self._of_account[account_id]:
                del self._of_account[account_id]

    def _find(self, key: Key) -> _Destination:
        if len(self._known) >= _MOST_REMEMBERED and key not in self._known:
            self._forget()
        return self._known.setdefault(key, _Destination())

    def _forget(self) -> None:
        """Keep only what is under way or broken; and where that is still too much, only what is under way."""
        busy = {key: one for key, one in self._known.items() if one.held or one.waiting}
        broken = {key: one for key, one in self._known.items() if one.is_broken()}
        self._known = {**broken, **busy} if len(broken) < _MOST_REMEMBERED // 2 else busy

    # Circuits

    def _mind_the_circuit(self, destination: _Destination, place: str) -> None:
        """Raise HeldBack while the circuit is open, and while somebody tries out whether it may be closed."""
        if not destination.is_broken():
            return
        left = destination.open_until - self._clock()
        # Spread, so that those who were held back together do not come back together.
        if left > 0:
            seconds = left + self._random.uniform(0.0, destination.open_until - destination.opened_at)
            raise _left_alone(place, destination.failures, seconds)
        if destination.probing:
            seconds = self._random.uniform(0.5, 1.5) * max(1.0, destination.usual or 0.0)
            raise _left_alone(place, destination.failures, seconds)

    def _begin(self, destination: _Destination) -> Visit:
        visit = Visit(self._clock(), is_probe=destination.is_broken())
        destination.probing |= visit.is_probe
        destination.visits.append(visit)
        return visit

    def _end(self, destination: _Destination, visit: Visit) -> None:
        destination.visits.remove(visit)
        if visit.is_probe:
            destination.probing = False
        if visit.went_well is None:
            return
        now = self._clock()
        spent = now - visit.began
        destination.usual = spent if destination.usual is None else destination.usual * 0.7 + spent * 0.3
        if not visit.went_well:
            self._count_failure(destination, visit, now)
            return
        if destination.is_broken():
            destination.next_turn = now
        destination.failures = destination.openings = 0

    def _count_failure(self, destination: _Destination, visit: Visit, now: float) -> None:
        destination.failures += 1
        # Calls that were under way when it opened tell nothing new.
        if destination.failures < FAILURES_IN_A_ROW or (destination.is_broken() and not visit.is_probe):
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(destination.openings, 10))
        destination.openings += 1
        destination.opened_at = now
        destination.open_until = now + pause * self._random.uniform(0.8, 1.2)

    # Places

    async def _take_a_place(self, destination: _Destination, place: str) -> None:
        """Return holding a place; raises HeldBack when none becomes free in a moment."""
        if destination.held < self.places:
            destination.held += 1
            return
        usual = self._usual(destination)
        ahead = len(destination.waiting)
        if ahead >= self.places or usual * (ahead + 1) / self.places > _MOMENT:
            raise self._sent_away(destination, place, usual)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        destination.waiting.append(turn)
        try:
            await asyncio.wait((turn,), timeout=_MOMENT)
        except asyncio.CancelledError:
            _leave_the_line(destination, turn)
            raise
        if not turn.done():
            _leave_the_line(destination, turn)
            raise self._sent_away(destination, place, self._usual(destination))

    def _usual(self, destination: _Destination) -> float:
        """How long a call takes: as lately, and at least as long as the oldest one has been under way."""
        age = max((self._clock() - visit.began for visit in destination.visits), default=0.0)
        return max(age, _GUESS if destination.usual is None else destination.usual)

    def _sent_away(self, destination: _Destination, place: str, usual: float) -> HeldBack:
        """Each that is sent away gets a turn of its own, as many a second as the destination takes."""
        now = self._clock()
        turn = max(destination.next_turn, now + min(usual, 1.0)) + usual / self.places
        destination.next_turn = min(turn, now + LONGEST_TURN)
        seconds = (destination.next_turn - now) * self._random.uniform(0.8, 1.2)
        reason = f"{place} has {self.places} calls under way already, as many as it may have"
        return HeldBack("busy", reason, max(0.1, seconds))


def _give_back(destination: _Destination) -> None:
    """Hand the place to the first in the line; without one it is free."""
    while destination.waiting:
        turn = destination.waiting.popleft()
        if not turn.done():
            turn.set_result(None)
            return
    destination.held -= 1


def _leave_the_line(destination: _Destination, turn: asyncio.Future[None]) -> None:
    if turn.done():
        _give_back(destination)
    else:
        destination.waiting.remove(turn)


def _left_alone(place: str, failures: int, seconds: float) -> HeldBack:
    told = f"{place} failed {failures} times in a row and is left alone for now; next try in {write_duration(seconds)}"
    return HeldBack("circuit_open", told, seconds)
