"""What the templates of one attempt may use together: units of work, rounds of loops, and CPU time.

Work is counted, so that the same template with the same data always has the same result, however busy the machine is. A unit
takes about a quarter of a microsecond. The CPU time is a second limit, for slow machines and for work that takes longer than its
units say.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from liquid.exceptions import ResourceLimitError

from app.core.pacing import is_gevent_patched, pause_if_due

MAX_WORK = 1_000_000
MAX_ROUNDS = 10_000
MAX_CPU_SECONDS = 0.5
# Units after which the CPU time is checked and other threads may run.
_CHECK_EVERY = 1_000
_PAUSE = 0.000_05


class LimitError(ResourceLimitError):
    """A template uses more than it may. The message says what, and how much is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, token=None)


class TemplateBudget:
    """What is left for the templates of one attempt."""

    def __init__(self, work: int = MAX_WORK, rounds: int = MAX_ROUNDS, cpu_seconds: float | None = None) -> None:
        self._max_work, self._max_rounds = work, rounds
        self._max_cpu_seconds = MAX_CPU_SECONDS if cpu_seconds is None else cpu_seconds
        self._work = work
        self._next_check = work - _CHECK_EVERY
        self._rounds = rounds
        self._cpu_seconds = self._max_cpu_seconds
        self._deadline = float("inf")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the CPU time that this thread uses inside."""
        self._deadline = time.thread_time() + self._cpu_seconds
        try:
            yield
        finally:
            self._cpu_seconds = self._deadline - time.thread_time()
            self._deadline = float("inf")

    @property
    def work_left(self) -> int:
        """The units that are left."""
        return self._work

    @property
    def is_used_up(self) -> bool:
        """Whether no work or no rounds are left."""
        return self._work < 0 or self._rounds < 0

    def charge(self, units: int) -> None:
        """Use units of work; raises LimitError when none are left, or when the CPU time is used up."""
        self._work -= units
        if self._work <= self._next_check:
            self._check()

    def charge_round(self, units: int) -> None:
        """Use one round of a loop, and the units of its block."""
        self._rounds -= 1
        if self._rounds < 0:
            raise LimitError(f"loops of more than {self._max_rounds} rounds; use a limit, or a shorter list or range")
        self.charge(units)

    def _check(self) -> None:
        if self._work < 0:
            raise LimitError(
                f"rendering takes too long: more than {self._max_work} units of work; use less data or fewer rounds"
            )
        if time.thread_time() > self._deadline:
            raise LimitError(
                f"rendering takes too long: more than {self._max_cpu_seconds} s; use less data or fewer rounds"
            )
        self._next_check = self._work - _CHECK_EVERY
        paused_at = time.thread_time()
        if is_gevent_patched():
            pause_if_due()
        else:
            # Another thread, such as the event loop's, takes the interpreter lock meanwhile. Otherwise it waits 5 ms for it.
            time.sleep(_PAUSE)
        # What other greenlets did meanwhile does not count.
        self._deadline += time.thread_time() - paused_at


class Rounds(Sequence[Any]):
    """The members that a loop goes through. Each one that is taken is a round, and costs what its block costs."""

    def __init__(self, members: Sequence[Any], budget: TemplateBudget, units: int) -> None:
        self._members, self._budget, self._units = members, budget, units

    def __len__(self) -> int:
        try:
            return len(self._members)
        except OverflowError:
            return sys.maxsize

    def __getitem__(self, index: Any) -> Any:
        return self._members[index]

    def __iter__(self) -> Iterator[Any]:
        for member in self._members:
            self._budget.charge_round(self._units)
            yield member
