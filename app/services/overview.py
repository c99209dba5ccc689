"""The state of an account in the last hour, and of the queue and the workers as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.db import circuits, job_queue, overview, workers
from app.db.circuits import TargetRow
from app.db.connection import limit_statements
from app.db.overview import MAX_PER_MINUTE, Latency, MinuteCount, Refused, RunsOfMinute, TargetAnswers
from app.db.workers import WorkerRow
from app.services.context import AppContext

MINUTES = 60
_DAY = timedelta(days=1)
# Seconds of one statement. It reads a bounded number of rows; a slow database must not delay the page longer.
_TIMEOUT = 10
_MAX_TARGETS, _MAX_WORKERS = 10, 20


@dataclass(frozen=True, slots=True)
class Minute:
    """The events of a minute. `is_estimate`: there are more than are counted; their rate is taken for the whole minute."""

    at: datetime
    events: int
    is_estimate: bool


@dataclass(frozen=True, slots=True)
class Queue:
    """How many jobs are due, and for how many seconds the oldest has waited: of the account, and of all accounts."""

    own: int
    own_age: float
    all: int
    age: float


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of an account since `since`, the begin of the first of MINUTES minutes. `targets`: those called within a
    day, the slowest first; `failing`: those that are failing or disabled."""

    since: datetime
    minutes: Sequence[Minute]
    runs: int
    failures: int
    refused: Refused
    latency: Latency
    queue: Queue
    targets: Sequence[TargetAnswers]
    failing: Sequence[TargetRow]
    workers: Sequence[WorkerRow]

    @property
    def events(self) -> int:
        """How many events were accepted."""
        return sum(minute.events for minute in self.minutes)

    @property
    def is_estimate(self) -> bool:
        """Whether `events` is an estimate."""
        return any(minute.is_estimate for minute in self.minutes)


def find_overview(context: AppContext, account_id: int) -> Overview:
    """The state of an account now."""
    now = context.clock()
    since = now.replace(second=0, microsecond=0) - timedelta(minutes=MINUTES - 1)
    with context.database.transaction() as connection:
        limit_statements(connection, _TIMEOUT)
        counts = overview.count_events_per_minute(connection, account_id, since, MINUTES)
        due = job_queue.count_due_jobs(connection).values()
        own, own_age = overview.find_due_jobs(connection, account_id)
        return Overview(
            since=since,
            minutes=[_minute(count, now) for count in counts],
            runs=overview.count_runs(connection, account_id, since),
            failures=overview.count_failures(connection, account_id, since),
            refused=overview.count_refused(connection, account_id, since),
            latency=overview.measure_latency(connection, account_id, since),
            queue=Queue(own, own_age, sum(one for one, _ in due), max((age for _, age in due), default=0.0)),
            targets=overview.measure_targets(connection, account_id, now - _DAY)[:_MAX_TARGETS],
            failing=circuits.list_targets(connection, account_id, None, _MAX_TARGETS, now),
            workers=workers.list_workers(connection, _MAX_WORKERS),
        )


def find_runs_per_minute(context: AppContext, account_id: int, since: datetime) -> list[RunsOfMinute]:
    """The runs of each of MINUTES minutes from the begin of one on."""
    with context.database.transaction() as connection:
        limit_statements(connection, _TIMEOUT)
        return overview.count_runs_per_minute(connection, account_id, since, MINUTES)


def _minute(count: MinuteCount, now: datetime) -> Minute:
    if count.events < MAX_PER_MINUTE or count.last_at is None:
        return Minute(count.at, count.events, is_estimate=False)
    counted = max((count.last_at - count.at).total_seconds(), 0.001)
    whole = min(max((now - count.at).total_seconds(), counted), 60)
    return Minute(count.at, round(count.events * whole / counted), is_estimate=True)
