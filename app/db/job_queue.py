"""The job queue, the table `jobs`: how statements enqueue jobs, how workers claim and delete them, and how lost ones are found.

A job is due at `due_at`. Claiming it sets `worker_id` and moves `due_at` ahead by the length of a lease, so that a job whose
worker died becomes due again by itself. A trigger notifies the workers of added jobs.

A worker that claims a job whose lease has expired adds the id of the former worker to the job's `dead_workers`, or to
`dead_alone` if that worker executed no other job; `app/worker/isolation.py` decides what follows. A worker that was only out of
reach removes its id again. A worker that is stopped by a signal marks its jobs first (`claim`), so that it does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog

from app.core.durations import RETENTION
from app.db.connection import (
    Database,
    PgConnection,
    delete_batch,
    execute,
    run_sql,
    unavailable_on_transient_errors,
)
from app.db.due_accounts import ACCOUNT
from app.db.shared_sql import MAX_COUNTED

# Advances a run; fires a deadline.
RUN, DEADLINE = "run", "deadline"
# Of events: looks for runs that wait for the event or end by it; decides what was postponed, and then does the same.
CORRELATE, MATCH = "event", "match"
# Maps a delivery whose mapping was postponed; erases a data subject.
MAP, ERASE = "map", "erase"
KINDS = (RUN, CORRELATE, DEADLINE, MATCH, MAP, ERASE)

_log = structlog.get_logger()
ORPHANED_AFTER = timedelta(seconds=60)
# Deaths of workers after which a job, or each run of a workflow, is executed alone.
ISOLATED_AFTER = 2
# Failures, about 45 minutes with the pauses between them, after which a run fails; other jobs are retried each hour from then on.
MAX_FAILURES = 50
# Seconds.
_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 1.0, 60.0
FAILED_JOB_PAUSE = 3_600.0
# A FROM clause: the progress of enabled workflows since they were enabled. Where `deadline` is not null, a deadline is pending.
ENABLED_PROGRESS = (
    "progress JOIN workflows ON workflows.account_id = progress.account_id AND workflows.id = progress.workflow_id "
    "AND enabled_version IS NOT NULL AND workflows.enablement = progress.enablement"
)


def enqueue(kind: str, payload: str, source: str, *, dedupe_key: str = "NULL", due_at: str = "now()") -> str:
    """SQL that enqueues a job for each row of `source`, a FROM clause; `payload`, `dedupe_key` and `due_at` are expressions.
    A job whose dedupe key is in the queue is left out."""
    return (
        "INSERT INTO jobs (kind, payload, dedupe_key, due_at) "
        f"SELECT '{kind}', {payload}, {dedupe_key}, {due_at} FROM {source} ON CONFLICT (dedupe_key) DO NOTHING"
    )


def enqueue_runs(source: str, *, number: str = "1", due_at: str = "now()") -> str:
    """SQL that enqueues job `number` of each run in `source`, a FROM clause with the columns `account_id` and `id`."""
    key = run_job_key(number)
    return enqueue(RUN, key, source, dedupe_key=key, due_at=due_at)


def run_job_key(number: str) -> str:
    """SQL for the payload and dedupe key of a run's job, `account:run:number`."""
    return f"account_id || ':' || id || ':' || {number}"


def enqueue_events(source: str) -> str:
    """SQL that enqueues a job for each event in `source`, a FROM clause with the columns `account_id`, `id` and `job`, its kind:
    CORRELATE or MATCH."""
    return f"INSERT INTO jobs (kind, payload, due_at) SELECT job, account_id || ':' || id, now() FROM {source}"


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that handles these kinds of jobs and claims each for `lease` seconds at a time."""

    kinds: Sequence[str]
    lease: float
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. `deaths` counts the workers that have died while they executed it with other jobs, `deaths_alone` the
    processes that have died while they executed nothing else."""

    id: int
    kind: str
    payload: str
    attempts: int
    deaths: int = 0
    deaths_alone: int = 0

    @property
    def account(self) -> str:
        """The id of the account that the job belongs to."""
        return self.payload.partition(":")[0]

    @property
    def retry_delay(self) -> float:
        """Seconds until the job is due again when it fails: doubled with each attempt, at most a minute; an hour when it has
        failed too often."""
        if self.attempts >= MAX_FAILURES:
            return FAILED_JOB_PAUSE
        return min(_MAX_RETRY_DELAY, _MIN_RETRY_DELAY * 2.0 ** min(self.attempts, 10))

    @property
    def ids(self) -> str:
        """The account and the run, event or workflow, for the log: the subject in the payload of a deadline is personal."""
        return ":".join(self.payload.split(":")[:2])


@dataclass(frozen=True, slots=True)
class Again:
    """A job is due again in `seconds`. `is_failure`: it has failed. `died`: the process that executed only this job has died."""

    seconds: float
    is_failure: bool = True
    died: bool = False


class Preferred(NamedTuple):
    """Accounts whose due jobs are claimed before others, at most `each` of an account."""

    accounts: Sequence[str]
    each: int


NOT_PREFERRED = Preferred((), 0)

# Preferred accounts: jobs_account_idx is read in its order. Equal conditions and a sort would read all due jobs of the account.
# Jobs that another worker has taken over are not rescheduled. A due job with a `worker_id` was claimed by a worker that has died,
# or is out of reach; with the id of this worker, the result of that claim was lost.
_EXCHANGE = f"""
SET LOCAL enable_sort = off;
WITH done AS (
    DELETE FROM jobs WHERE id = ANY (%(done)s)
), again AS (
    UPDATE jobs SET worker_id = NULL, claim = NULL, due_at = now() + delay * interval '1 second',
        attempts = attempts + is_failure::int,
        dead_alone = CASE WHEN died THEN dead_alone || gen_random_uuid() ELSE dead_alone END
    FROM unnest(%(again)s::bigint[], %(delays)s::float[], %(failures)s::bool[], %(died)s::bool[])
        AS again (job_id, delay, is_failure, died)
    WHERE id = job_id AND worker_id = %(worker)s RETURNING pg_notify('jobs', '')
), turn AS (
    SELECT id FROM unnest(%(accounts)s::text[]) AS turn (account) CROSS JOIN LATERAL (
        SELECT id FROM jobs WHERE ({ACCOUNT}, due_at) >= (account, '-infinity') AND ({ACCOUNT}, due_at) <= (account, now())
            AND kind = ANY (%(kinds)s) AND id <> ALL (%(held)s)
        ORDER BY {ACCOUNT}, due_at, id LIMIT %(each)s FOR UPDATE SKIP LOCKED
    ) AS job
    LIMIT %(limit)s
), due AS (
    SELECT id FROM jobs WHERE due_at <= now() AND kind = ANY (%(kinds)s)
        AND id <> ALL (%(held)s::bigint[] || ARRAY(SELECT id FROM turn))
    ORDER BY due_at, id LIMIT %(limit)s - (SELECT count(*) FROM turn) FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET worker_id = %(worker)s, claim = NULL, due_at = now() + %(lease)s * interval '1 second',
    dead_workers = CASE WHEN claim IS NULL AND worker_id <> ALL (dead_workers || dead_alone || %(worker)s::uuid)
        THEN dead_workers || worker_id ELSE dead_workers END,
    dead_alone = CASE WHEN claim = 'alone' AND worker_id <> ALL (dead_workers || dead_alone || %(worker)s::uuid)
        THEN dead_alone || worker_id ELSE dead_alone END
WHERE id = ANY (ARRAY(SELECT id FROM turn UNION ALL SELECT id FROM due))
RETURNING id, kind, payload, attempts, cardinality(dead_workers), cardinality(dead_alone)
"""

_DUE_IN = """
SELECT extract(epoch FROM due_at - now())::float FROM jobs WHERE kind = ANY (%(kinds)s) AND id <> ALL (%(held)s)
ORDER BY due_at, id LIMIT 1
"""

# A worker that extends its leases is alive: its id is removed where others have noted its death.
_EXTEND = """
UPDATE jobs SET due_at = now() + %(lease)s * interval '1 second' WHERE id = ANY (%(held)s) AND worker_id = %(worker)s;
UPDATE jobs SET dead_workers = array_remove(dead_workers, %(worker)s), dead_alone = array_remove(dead_alone, %(worker)s)
WHERE (dead_workers <> '{}' OR dead_alone <> '{}') AND %(worker)s = ANY (dead_workers || dead_alone);
UPDATE workflows SET dead_workers = array_remove(dead_workers, %(worker)s)
WHERE dead_workers <> '{}' AND %(worker)s = ANY (dead_workers)
"""

_MARK = "UPDATE jobs SET claim = %s WHERE id = ANY (%s) AND worker_id = %s"


def exchange_jobs(
    database: Database,
    worker: Worker,
    *,
    done: Sequence[int],
    again: Mapping[int, Again],
    held: Sequence[int],
    limit: int,
    preferred: Preferred = NOT_PREFERRED,
) -> list[Job]:
    """Delete the jobs that are done, reschedule those of `again` (by id), and claim up to `limit` due jobs, not `held` and first
    those of `preferred`: one statement. If its result is lost, what it claimed is due when the leases expire."""
    values = {
        "worker": str(worker.id),
        "kinds": list(worker.kinds),
        "lease": worker.lease,
        "done": list(done),
        "again": list(again),
        "delays": [each.seconds for each in again.values()],
        "failures": [each.is_failure for each in again.values()],
        "died": [each.died for each in again.values()],
        "held": list(held),
        "limit": limit,
        "accounts": list(preferred.accounts),
        "each": preferred.each,
    }
    return [Job(*row) for row in database.fetch_all(_EXCHANGE, values)]


def due_in(database: Database, worker: Worker, held: Sequence[int]) -> float:
    """Seconds until a job other than `held` is due, infinite when there is none."""
    rows = database.fetch_all(_DUE_IN, {"kinds": list(worker.kinds), "held": list(held)})
    return rows[0][0] if rows else float("inf")


def find_lateness(connection: sa.Connection) -> float | None:
    """For how many seconds the oldest due job has waited; None when none is due."""
    query = (
        "SELECT extract(epoch FROM now() - due_at)::float FROM jobs WHERE due_at <= now() ORDER BY due_at, id LIMIT 1"
    )
    found: float | None = run_sql(connection, query).scalar()
    return found


def count_due_jobs(connection: sa.Connection) -> dict[str, tuple[int, float]]:
    """For each kind of job how many are due, and for how many seconds the oldest has waited: of the MAX_COUNTED oldest jobs."""
    rows = run_sql(
        connection,
        "SELECT kind, count(*), extract(epoch FROM now() - min(due_at))::float FROM (SELECT kind, due_at FROM jobs "
        "WHERE due_at <= now() ORDER BY due_at, id LIMIT :max_rows) AS due GROUP BY kind",
        {"max_rows": MAX_COUNTED},
    )
    return {kind: (number, lateness) for kind, number, lateness in rows}


# A worker is present while one of its connections has this application_name, followed by its id. Two have it: that of the
# leases is used every few seconds and finds late that it was lost, that of the notifications finds it at once.
PRESENCE = "signalbox worker "


def announce_worker(connection: PgConnection, worker: Worker) -> None:
    """Show that the worker is present for as long as this connection is open. Raises Unavailable."""
    with unavailable_on_transient_errors():
        execute(connection, "SELECT set_config('application_name', %s, false)", (f"{PRESENCE}{worker.id}",))


def extend_leases(connection: PgConnection, worker: Worker, held: Sequence[int]) -> None:
    """Let the worker keep the jobs that it still holds for another `lease` seconds. Raises Unavailable."""
    with unavailable_on_transient_errors():
        execute(connection, _EXTEND, {"worker": str(worker.id), "lease": worker.lease, "held": list(held)})


def mark_claims(database: Database, worker: Worker, held: Sequence[int], claim: str) -> None:
    """Say how the worker executes the jobs that it holds: "alone", or "stopping". Raises Unavailable."""
    database.execute(_MARK, (claim, list(held), str(worker.id)))


class JobListener:
    """A connection of its own that is notified of added jobs; readable at `fileno()` when there is something to receive. It shows
    that the worker is present."""

    def __init__(self, database: Database, worker: Worker) -> None:
        with unavailable_on_transient_errors():
            self._connection = database.dedicated_connection()
            announce_worker(self._connection, worker)
            execute(self._connection, "LISTEN jobs", ())

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._connection.fileno()

    def receive(self) -> bool:
        """Whether jobs were added since the last call. Raises Unavailable when the connection is lost."""
        with unavailable_on_transient_errors():
            self._connection.poll()
        added = bool(self._connection.notifies)
        self._connection.notifies.clear()
        return added

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def enqueue_orphans(connection: sa.Connection, now: datetime) -> int:
    """Enqueue a job for each run that is overdue by a minute and has none in the queue; how many.

    A safety net: statements enqueue a run's job together with the run's change. Of two concurrent sweeps one enqueues it.
    """
    # Qualified: `jobs` has a column `id` of its own.
    statement = enqueue_runs(
        "runs WHERE status = 'running' AND wake_at < :before AND NOT EXISTS (SELECT FROM jobs "
        "WHERE dedupe_key = runs.account_id || ':' || runs.id || ':' || runs.job) ORDER BY wake_at LIMIT 1000",
        number="job",
    )
    found = run_sql(connection, statement, {"before": now - ORPHANED_AFTER}).rowcount
    if found:
        _log.warning("jobs of overdue runs were missing and are enqueued", runs=found)
    return found


def wake_parents_without_blocks(connection: sa.Connection, now: datetime) -> int:
    """Make due each run that waits for its blocks although none of them runs; how many. `enqueue_orphans` enqueues its job.

    A safety net: the statement that ends the last block enqueues the job of its parent.
    """
    return run_sql(
        connection,
        "UPDATE runs SET wake_at = :now, blocks_left = NULL WHERE status = 'running' AND wake_at IS NULL "
        "AND updated_at < :before AND NOT EXISTS (SELECT FROM runs AS block WHERE block.account_id = runs.account_id "
        "AND block.parent_id = runs.id AND block.status = 'running')",
        {"now": now, "before": now - ORPHANED_AFTER},
    ).rowcount


def cancel_runs_without_workflow(connection: sa.Connection, now: datetime) -> int:
    """End the runs that were started while their workflow was being deleted; how many."""
    return run_sql(
        connection,
        "UPDATE runs SET status = 'cancelled', error = 'its workflow was deleted', turn = turn + 1, wake_at = NULL, "
        "finished_at = :now, updated_at = :now "
        "WHERE status = 'running' AND (wake_at < :before OR wake_at IS NULL) AND updated_at < :before AND NOT EXISTS ("
        "SELECT FROM workflows WHERE workflows.account_id = runs.account_id AND workflows.id = runs.workflow_id)",
        {"now": now, "before": now - ORPHANED_AFTER},
    ).rowcount


def enqueue_overdue_deadlines(connection: sa.Connection, now: datetime) -> int:
    """Enqueue a job for each deadline that is overdue by a minute and has none; how many.

    A safety net, too. Deadlines of workflows that are disabled, or were since, do not count.
    """
    statement = enqueue(
        DEADLINE,
        "job.payload",
        f"{ENABLED_PROGRESS}, LATERAL (SELECT progress.account_id || ':' || workflow_id "
        "|| ':' || translate(encode(convert_to(subject, 'UTF8'), 'base64'), E'+/\n', '-_')) AS job (payload) "
        "WHERE deadline < :before AND NOT EXISTS (SELECT FROM jobs WHERE dedupe_key = 'deadline:' || job.payload) "
        "ORDER BY deadline LIMIT 1000",
        dedupe_key="'deadline:' || job.payload",
    )
    return run_sql(connection, statement, {"before": now - ORPHANED_AFTER}).rowcount


def forget_old_idempotency_keys(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of idempotency keys that are older than RETENTION; how many."""
    return delete_batch(connection, "idempotency_keys", "received_at < :before", {"before": now - RETENTION})
