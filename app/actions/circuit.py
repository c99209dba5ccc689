"""The circuits of one account: which hosts and targets keep failing, and when each is called again. Pure: times (seconds of a
monotonic clock) and random numbers are passed in.

Only what has failed since its last success has a circuit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from app.core.durations import write_duration
from app.core.models import Outcome

FAILURE_THRESHOLD = 5
FIRST_PAUSE, MAX_PAUSE = 5.0, 300.0
# Circuits of one account. Further ones replace those that matter least.
MAX_CIRCUITS = 200
# Seconds after a pause in which only the target that has waited longest is let through.
_GRACE_PERIOD = 2.0
_MAX_WAITING = 1_000

# A host, with the name of a target or None for the host itself.
Key = tuple[str, str | None]


class Deferred(Exception):
    """The call is not made now; retry in `seconds`. It does not count as an attempt. `held_by`: whose circuit is open."""

    def __init__(self, error_class: str, reason: str, seconds: float, held_by: str | None = None) -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.seconds = seconds
        self.held_by = held_by

    def outcome(self) -> Outcome:
        """The same as an outcome."""
        return Outcome(
            "later",
            error=str(self),
            error_class=self.error_class,
            retry_after=self.seconds,
            held_by=self.held_by,
        )


@dataclass(slots=True)
class Circuit:
    """The failures of one host or target. `openings` is how often in a row it has opened, `first_opened_at` when it did so first,
    `probing` whether a probe is under way. `waiting` holds the targets that were deferred, and since when;
    `has_next` is whether a call of the first of them comes back when the pause is over."""

    name: str
    failures: int = 0
    failed_at: float = 0.0
    openings: int = 0
    first_opened_at: float = 0.0
    opened_at: float = 0.0
    open_until: float = 0.0
    probing: bool = False
    has_next: bool = False
    waiting: dict[str, float] = field(default_factory=dict)

    def is_open(self) -> bool:
        """Whether calls are deferred, or a probe has yet to succeed."""
        return self.openings > 0

    def check(self, target: str, now: float, duration: float, rng: random.Random) -> None:
        """Raise Deferred while the circuit is open, and while a probe is under way. A call takes about `duration` seconds."""
        if not self.is_open():
            return
        if len(self.waiting) < _MAX_WAITING:
            self.waiting.setdefault(target, now)
        remaining, is_next = self.open_until - now, target == next(iter(self.waiting))
        if remaining <= 0 and not self.probing and (is_next or now >= self.open_until + _GRACE_PERIOD):
            return
        if remaining > 0:
            # One call of the target that has waited longest comes when the pause is over. Jitter for the others, so that calls
            # that were deferred together do not come back together.
            jitter = rng.uniform(0.0, self.open_until - self.opened_at)
            seconds = remaining + (0.0 if is_next and not self.has_next else jitter)
            self.has_next |= is_next
        else:
            seconds = rng.uniform(0.5, 1.5) * max(_GRACE_PERIOD / 2, duration)
        reason = f"{self.name} failed {self.failures} times in a row; calls are paused, next attempt in {write_duration(seconds)}"
        raise Deferred("circuit_open", reason, seconds, self.name)

    def begin(self, target: str) -> bool:
        """A call is made; whether it is a probe."""
        self.probing |= self.is_open()
        self.waiting.pop(target, None)
        return self.is_open()

    def fail(self, now: float, rng: random.Random, *, is_probe: bool) -> bool:
        """A call has failed; whether the circuit has opened."""
        self.failures += 1
        self.failed_at = now
        # Calls that were under way when the circuit opened do not extend the pause.
        if self.failures < FAILURE_THRESHOLD or (self.is_open() and not is_probe):
            return False
        pause = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self.openings, 10))
        if not self.is_open():
            self.first_opened_at = now
        self.openings += 1
        self.opened_at = now
        self.open_until = now + pause * rng.uniform(0.8, 1.2)
        self.has_next = False
        return True


class Circuits:
    """The circuits of one account, by keys that the caller chooses. `changed` holds those that have opened or closed."""

    def __init__(self) -> None:
        self._circuits: dict[Key, Circuit] = {}
        self.changed: dict[str, Circuit] = {}

    def __bool__(self) -> bool:
        return bool(self._circuits or self.changed)

    def find(self, key: Key) -> Circuit | None:
        """The circuit of a key; None when its last call has not failed."""
        return self._circuits.get(key)

    def fail(self, key: Key, name: str, now: float, rng: random.Random, *, is_probe: bool) -> None:
        """A call has failed."""
        if key not in self._circuits and len(self._circuits) >= MAX_CIRCUITS:
            self._close(min(self._circuits, key=self._importance))
        circuit = self._circuits.setdefault(key, Circuit(name))
        if circuit.fail(now, rng, is_probe=is_probe):
            self.changed[circuit.name] = circuit

    def succeed(self, key: Key) -> bool:
        """A call has succeeded; whether the circuit was open."""
        circuit = self._circuits.get(key)
        was_open = circuit is not None and circuit.is_open()
        if circuit is not None:
            self._close(key)
        return was_open

    def _importance(self, key: Key) -> tuple[bool, float]:
        """Closed circuits first, then those whose pause ended first."""
        circuit = self._circuits[key]
        return circuit.is_open(), circuit.open_until if circuit.is_open() else circuit.failed_at

    def _close(self, key: Key) -> None:
        circuit = self._circuits.pop(key)
        if circuit.is_open():
            self.changed[circuit.name] = circuit
        circuit.failures = circuit.openings = 0
