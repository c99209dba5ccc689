"""How a run has spent its time: working (attempts of actions) and waiting (everything else), as a text and as a bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.db.inspection import AttemptDetails, RunRow

# Units of the bar's length, and what an attempt takes of it at least, to be seen.
LENGTH, _SHORTEST = 1_000.0, 4.0
_MAX_PIECES = 200


@dataclass(frozen=True, slots=True)
class Piece:
    """An attempt on the bar: where it begins, how long it is, and whether it failed."""

    begin: float
    length: float
    attempt: AttemptDetails


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of a run until its end, or until now."""

    working: timedelta
    waiting: timedelta
    pieces: Sequence[Piece]


def time_run(run: RunRow, attempts: Sequence[AttemptDetails], working: timedelta, now: datetime) -> Timing:
    """Working and waiting time of a run, without that of its blocks. `attempts`: the latest; `working`: the time of all."""
    total = max((run.finished_at or now) - run.created_at, timedelta(microseconds=1))
    pieces = []
    for attempt in attempts[-_MAX_PIECES:]:
        length = max(_SHORTEST, LENGTH * ((attempt.finished_at - attempt.started_at) / total))
        begin = LENGTH * ((attempt.started_at - run.created_at) / total)
        pieces.append(Piece(round(max(0.0, min(begin, LENGTH - length)), 1), round(min(length, LENGTH), 1), attempt))
    return Timing(working, max(total - working, timedelta()), pieces)


def working_time(attempts: Sequence[AttemptDetails]) -> timedelta:
    """The time of all attempts together."""
    return sum((attempt.finished_at - attempt.started_at for attempt in attempts), timedelta())
