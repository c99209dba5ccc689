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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
    went_well: bool | None = None


@dataclass(slots=True)
class _Destination:
    """`usual`: the length of its calls lately (None: none has ended); `next_turn`: when the next run that is sent away
    should come back; `openings`: how often in a row its circuit has opened; `probing`: whether a call tries it out."""

    visits: list[Visit] = field(default_factory=list)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
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
        self.places = max(1, concurrency // 4)
        self.places_of_account = max(1, concurrency * 3 // 4)
        self._random = random or chance.Random()
        self._clock = clock
        self._known: dict[Key, _Destination] = {}
        self._of_account: Counter[int] = Counter()

    @asynccontextmanager
    async def visit(self, account_id: int, place: str) -> AsyncIterator[Visit]:
        """Hold one of the places at `place` (host:port) for the length of the block; raises HeldBack."""
        destination = self._find((account_id, place))
        self._mind_the_circuit(destination, place)
        if self._of_account[account_id] >= self.places_of_account:
            seconds = self._random.uniform(0.5, 1.5)
            raise HeldBack("busy", "the account has all the calls under way that it may have", seconds)
        self._of_account[account_id] += 1
        try:
            await self._take_a_place(destination, place)
            visit = Visit(self._clock())
            probe = destination.is_broken()
            destination.probing |= probe
            destination.visits.append(visit)
            try:
                yield visit
            finally:
                destination.visits.remove(visit)
                destination.probing &= not probe
                self._learn(destination, visit)
                self._call_the_next(destination)
        finally:
            self._of_account[account_id] -= 1

    def _find(self, key: Key) -> _Destination:
        if len(self._known) >= _MOST_REMEMBERED and key not in self._known:
            self._forget()
        return self._known.setdefault(key, _Destination())

    def _forget(self) -> None:
        """Keep only what is under way or broken; and where that is still too much, only what is under way."""
        busy = {key: one for key, one in self._known.items() if one.visits or one.waiting}
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
            raise _open(place, destination.failures, seconds)
        if destination.probing:
            raise _open(place, destination.failures, self._random.uniform(0.5, 1.5) * max(1.0, destination.usual or 0))

    def _learn(self, destination: _Destination, visit: Visit) -> None:
        now = self._clock()
        spent = now - visit.began
        destination.usual = spent if destination.usual is None else destination.usual * 0.7 + spent * 0.3
        if visit.went_well:
            destination.failures = destination.openings = 0
            destination.next_turn = min(destination.next_turn, now)
        elif visit.went_well is False:
            destination.failures += 1
            # Calls that were under way when it opened tell nothing new.
            news = visit.began >= destination.opened_at and now >= destination.open_until
            if destination.failures >= FAILURES_IN_A_ROW and news:
                destination.openings += 1
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (destination.openings - 1))
                destination.opened_at = now
                destination.open_until = now + pause * self._random.uniform(0.8, 1.2)

    # Places

    async def _take_a_place(self, destination: _Destination, place: str) -> None:
        """Return with a place free; raises HeldBack when there will be none in a moment."""
        if len(destination.visits) < self.places and not destination.waiting:
            return
        usual = self._usual(destination)
        expected = usual * (len(destination.waiting) + 1) / self.places
        if expected > _MOMENT or len(destination.waiting) >= self.places:
            raise self._sent_away(destination, place, usual)
        turn = asyncio.get_running_loop().create_future()
        destination.waiting.append(turn)
        try:
            async with asyncio.timeout(_MOMENT):
                await turn
        except TimeoutError:
            raise self._sent_away(destination, place, self._usual(destination)) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._call_the_next(destination)
            raise
        finally:
            if turn in destination.waiting:
                destination.waiting.remove(turn)
        self._mind_the_circuit(destination, place)

    def _usual(self, destination: _Destination) -> float:
        """How long a call takes: as lately, and at least as long as the oldest one has been under way."""
        age = max((self._clock() - visit.began for visit in destination.visits), default=0.0)
        return max(age, _GUESS if destination.usual is None else destination.usual)

    def _sent_away(self, destination: _Destination, place: str, usual: float) -> HeldBack:
        """Each that is sent away gets a turn of its own, as many a second as the destination takes."""
        now = self._clock()
        destination.next_turn = max(destination.next_turn, now + min(usual, 1.0)) + usual / self.places
        seconds = min(destination.next_turn - now, LONGEST_TURN) * self._random.uniform(0.8, 1.2)
        reason = f"{place} has {self.places} calls under way already, as many as it may have"
        return HeldBack("busy", reason, max(0.1, seconds))

    def _call_the_next(self, destination: _Destination) -> None:
        while destination.waiting and len(destination.visits) < self.places:
            turn = destination.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def _open(place: str, failures: int, seconds: float) -> HeldBack:
    told = f"{place} failed {failures} times in a row and is left alone for now; next try in {write_duration(seconds)}"
    return HeldBack("circuit_open", told, seconds)
