"""The numbers of the first page of an account. Each statement reads a bounded number of rows, by an index that begins with the
account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.core.ids import first_id_at
from app.db.connection import run_sql
from app.db.due_accounts import ACCOUNT
from app.db.shared_sql import MAX_COUNTED

# Events of a minute that are counted.
MAX_PER_MINUTE = 1_000
# Of the latest failed runs, runs and attempts.
_MAX_SAMPLE = 1_000
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class MinuteCount:
    """The events of the minute that begins at `at`: how many of the first MAX_PER_MINUTE, and when the last of these came."""

    at: datetime
    events: int
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class Refused:
    """How many requests were refused, those over the limit of the plan (429) apart."""

    others: int
    limited: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from the start of a run to its first step: median and 95th percentile of so many `runs`."""

    runs: int
    median: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class TargetAnswers:
    """How a target answered the latest attempts: how many, how many failed, seconds (median, 95th percentile), last error."""

    target: str
    attempts: int
    failed: int
    median: float
    high: float
    last_error: str | None


def count_events_per_minute(
    connection: sa.Connection, account_id: int, begin: datetime, minutes: int
) -> list[MinuteCount]:
    """The events of each minute from `begin` on."""
    times = [begin + number * _MINUTE for number in range(minutes + 1)]
    ids = [str(first_id_at(at)) for at in times]
    # Rows are compared as the primary key is ordered: the planner knows no other index for that, whatever it expects of a minute.
    rows = run_sql(
        connection,
        "SELECT minute.since, counted.events, counted.last_at FROM unnest(CAST(:since AS timestamptz[]), "
        "CAST(:first AS uuid[]), CAST(:beyond AS uuid[])) AS minute (since, first, beyond), LATERAL ("
        "SELECT count(*) AS events, max(received_at) AS last_at FROM (SELECT received_at FROM events "
        "WHERE (account_id, id) >= (:account, first) AND (account_id, id) < (:account, beyond) "
        "AND received_at >= :begin AND received_at < :end ORDER BY account_id, id LIMIT :max_rows) AS found) AS counted "
        "ORDER BY minute.since",
        {
            "account": account_id,
            "since": times[:-1],
            "first": ids[:-1],
            "beyond": ids[1:],
            "begin": begin,
            "end": times[-1],
            "max_rows": MAX_PER_MINUTE,
        },
    )
    return [MinuteCount(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class RunsOfMinute:
    """The runs of the minute that begins at `at`: how many were started, at most MAX_PER_MINUTE, how many of the latest failed
    runs failed in it, and how many seconds of the latest runs, in the median, it took from the start to the first step (None:
    none was measured)."""

    at: datetime
    starts: int
    failures: int
    latency: float | None


# Each part reads a bounded number of rows: MAX_PER_MINUTE of each minute, and the latest :sample.
_RUNS_PER_MINUTE = """
WITH minute AS (
    SELECT * FROM unnest(CAST(:since AS timestamptz[]), CAST(:first AS uuid[]), CAST(:beyond AS uuid[]))
        AS minute (at, first, beyond)
), failed AS (
    SELECT finished_at FROM (SELECT finished_at, parent_id FROM runs WHERE account_id = :account AND status = 'failed'
        ORDER BY id DESC LIMIT :sample) AS latest WHERE parent_id IS NULL
), begun AS (
    SELECT run.created_at, extract(epoch FROM steps.started_at - run.created_at)::float AS took
    FROM (SELECT id, created_at FROM runs WHERE account_id = :account AND id >= :begin ORDER BY id DESC LIMIT :sample) AS run
    CROSS JOIN LATERAL (SELECT started_at FROM steps
        WHERE account_id = :account AND run_id = run.id AND ordinal = 0 LIMIT 1) AS steps
)
SELECT minute.at,
    (SELECT count(*) FILTER (WHERE parent_id IS NULL) FROM (SELECT parent_id FROM runs WHERE account_id = :account
        AND id >= minute.first AND id < minute.beyond ORDER BY id LIMIT :max_rows) AS started),
    (SELECT count(*) FROM failed WHERE finished_at >= minute.at AND finished_at < minute.at + interval '1 minute'),
    (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took) FROM begun
        WHERE created_at >= minute.at AND created_at < minute.at + interval '1 minute')
FROM minute ORDER BY minute.at
"""


def count_runs_per_minute(
    connection: sa.Connection, account_id: int, begin: datetime, minutes: int
) -> list[RunsOfMinute]:
    """The runs of each minute from `begin` on."""
    times = [begin + number * _MINUTE for number in range(minutes + 1)]
    ids = [str(first_id_at(at)) for at in times]
    values = {"account": account_id, "begin": ids[0], "max_rows": MAX_PER_MINUTE, "sample": _MAX_SAMPLE}
    rows = run_sql(connection, _RUNS_PER_MINUTE, {**values, "since": times[:-1], "first": ids[:-1], "beyond": ids[1:]})
    return [RunsOfMinute(*row) for row in rows]


def count_runs(connection: sa.Connection, account_id: int, since: datetime) -> int:
    """How many runs were started since then; of more than MAX_COUNTED runs and blocks, those among the first."""
    found: int = run_sql(
        connection,
        "SELECT count(*) FILTER (WHERE parent_id IS NULL) FROM (SELECT parent_id FROM runs "
        "WHERE account_id = :account AND id >= :first ORDER BY id LIMIT :max_rows) AS found",
        {"account": account_id, "first": str(first_id_at(since)), "max_rows": MAX_COUNTED},
    ).scalar_one()
    return found


def count_failures(connection: sa.Connection, account_id: int, since: datetime) -> int:
    """How many of the latest failed runs have failed since then."""
    found: int = run_sql(
        connection,
        "SELECT count(*) FILTER (WHERE finished_at >= :since AND parent_id IS NULL) FROM (SELECT finished_at, parent_id "
        "FROM runs WHERE account_id = :account AND status = 'failed' ORDER BY id DESC LIMIT :max_rows) AS found",
        {"account": account_id, "since": since, "max_rows": _MAX_SAMPLE},
    ).scalar_one()
    return found


def count_refused(connection: sa.Connection, account_id: int, since: datetime) -> Refused:
    """How many requests were refused since then, also those that were not kept."""
    row = run_sql(
        connection,
        "SELECT coalesce(sum(1 + not_kept) FILTER (WHERE status <> 429), 0), "
        "coalesce(sum(1 + not_kept) FILTER (WHERE status = 429), 0) FROM (SELECT status, not_kept FROM refusals "
        "WHERE account_id = :account AND id >= :first ORDER BY id LIMIT :max_rows) AS found",
        {"account": account_id, "first": str(first_id_at(since)), "max_rows": MAX_COUNTED},
    ).one()
    return Refused(*row)


def measure_latency(connection: sa.Connection, account_id: int, since: datetime) -> Latency:
    """How long the latest runs since then waited for their first step."""
    row = run_sql(
        connection,
        "SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY took), percentile_cont(0.95) WITHIN GROUP (ORDER BY took) "
        "FROM (SELECT extract(epoch FROM steps.started_at - run.created_at)::float AS took FROM (SELECT id, created_at "
        "FROM runs WHERE account_id = :account AND id >= :first ORDER BY id DESC LIMIT :max_rows) AS run "
        "CROSS JOIN LATERAL (SELECT started_at FROM steps WHERE account_id = :account AND run_id = run.id AND ordinal = 0 "
        "LIMIT 1) AS steps) AS begun",
        {"account": account_id, "first": str(first_id_at(since)), "max_rows": _MAX_SAMPLE},
    ).one()
    return Latency(*row)


def measure_targets(connection: sa.Connection, account_id: int, since: datetime) -> list[TargetAnswers]:
    """How targets answered the latest attempts of runs that started since then, the slowest first. `ops.deliveries_by_target`
    has the same names of targets."""
    rows = run_sql(
        connection,
        "SELECT target, count(*), count(*) FILTER (WHERE outcome <> 'done'), "
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY took) AS median, percentile_cont(0.95) WITHIN GROUP (ORDER BY took), "
        "(array_agg(error ORDER BY finished_at DESC) FILTER (WHERE outcome <> 'done'))[1] "
        "FROM (SELECT outcome, error, finished_at, extract(epoch FROM finished_at - started_at)::float AS took, "
        "concat(request ->> 'method', ' ', substring(request ->> 'url' FROM '^[^:]+://[^/?#]*'), regexp_replace("
        "substring(request ->> 'url' FROM '^[^:]+://[^/?#]*([^?#]*)'), '[^/]*([0-9]{3}|[@%])[^/]*|[^/]{25,}', '*', 'g')) "
        "AS target FROM (SELECT * FROM attempts WHERE account_id = :account AND run_id >= :first ORDER BY run_id DESC, "
        "ordinal DESC, attempt DESC LIMIT :max_rows) AS latest WHERE request ->> 'url' IS NOT NULL) AS sent "
        "GROUP BY target ORDER BY median DESC LIMIT 20",
        {"account": account_id, "first": str(first_id_at(since)), "max_rows": _MAX_SAMPLE},
    )
    return [TargetAnswers(*row) for row in rows]


def find_due_jobs(connection: sa.Connection, account_id: int) -> tuple[int, float]:
    """How many jobs of the account are due, at most MAX_COUNTED, and for how many seconds the oldest has waited."""
    row = run_sql(
        connection,
        "SELECT count(*), coalesce(extract(epoch FROM now() - min(due_at))::float, 0) FROM (SELECT due_at FROM jobs "
        f"WHERE {ACCOUNT} = :account AND due_at <= now() ORDER BY due_at LIMIT :max_rows) AS due",
        {"account": str(account_id), "max_rows": MAX_COUNTED},
    ).one()
    return row[0], row[1]
