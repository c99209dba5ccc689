"""Workflows whose runs are executed alone, since workers died while they executed them; see `app/worker/isolation.py`."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql
from app.db.job_queue import PRESENCE

# How long the runs of a workflow are executed alone after one of them has killed its process.
ISOLATION_PERIOD = timedelta(hours=1)
# Isolated workflows of an account; a further one isolates all of its workflows.
MAX_ISOLATED_WORKFLOWS = 2

# A worker that is not present has died, or has just lost its connection: then it removes its id later. The statement does not
# wait until its leases expire, since until then the same runs might kill other workers. The condition on due_at is for the index:
# leases are short. The job of an event evaluates conditions of any workflow whose runs wait for events.
_ADD_DEAD_WORKERS = f"""
WITH dead_jobs AS (
    SELECT kind, names[1]::bigint AS account_id, names[2]::uuid AS id, worker_id
    FROM jobs CROSS JOIN LATERAL (
        SELECT CASE WHEN payload ~ '^[0-9]{{1,18}}:[0-9a-f-]{{36}}(:|$)' THEN string_to_array(payload, ':') END
    ) AS job (names)
    WHERE due_at < now() + interval '60 seconds' AND kind IN ('run', 'event', 'match') AND worker_id IS NOT NULL
    AND claim IS DISTINCT FROM 'stopping' AND NOT EXISTS (
        SELECT FROM pg_stat_activity WHERE application_name = '{PRESENCE}' || worker_id)
), dead AS (
    SELECT runs.account_id, workflow_id, worker_id FROM dead_jobs AS job
    JOIN runs ON runs.account_id = job.account_id AND runs.id = job.id WHERE kind = 'run'
    UNION
    SELECT version.account_id, workflow_id, worker_id FROM dead_jobs AS job
    JOIN workflow_versions AS version ON version.account_id = job.account_id AND awaits <> '{{}}' WHERE kind IN ('event', 'match')
)
UPDATE workflows SET dead_workers = workflows.dead_workers || ARRAY(
    SELECT worker_id FROM dead WHERE dead.account_id = workflows.account_id AND dead.workflow_id = workflows.id
        AND worker_id <> ALL (workflows.dead_workers))
WHERE EXISTS (SELECT FROM dead WHERE dead.account_id = workflows.account_id AND dead.workflow_id = workflows.id
    AND worker_id <> ALL (workflows.dead_workers))
"""


def add_dead_workers(connection: sa.Connection, now: datetime) -> int:
    """Add the workers that are not present to the workflows whose runs they executed; how many workflows have changed."""
    return run_sql(connection, _ADD_DEAD_WORKERS).rowcount


def isolate_workflow(connection: sa.Connection, account_id: int, run_id: UUID, now: datetime) -> None:
    """Execute the runs of a run's workflow alone for ISOLATION_PERIOD, since this run has killed its process. The third such
    workflow of an account isolates all of them."""
    run_sql(
        connection,
        "WITH deadly AS (SELECT workflow_id FROM runs WHERE account_id = :account AND id = :run), "
        "others AS (SELECT count(*) AS count FROM workflows WHERE account_id = :account AND isolated_until > :now "
        "AND id NOT IN (SELECT workflow_id FROM deadly)) "
        "UPDATE workflows SET isolated_until = :until FROM deadly, others WHERE account_id = :account "
        "AND (id = deadly.workflow_id OR others.count >= :max_rows)",
        {
            "account": account_id,
            "run": run_id,
            "now": now,
            "until": now + ISOLATION_PERIOD,
            "max_rows": MAX_ISOLATED_WORKFLOWS,
        },
    )


def isolate_awaiting_workflows(connection: sa.Connection, account_id: int, now: datetime) -> None:
    """Execute the runs of all workflows of an account whose runs may wait for events alone for ISOLATION_PERIOD, since the job of
    an event has killed its process."""
    run_sql(
        connection,
        "UPDATE workflows SET isolated_until = :until WHERE account_id = :account AND id IN "
        "(SELECT workflow_id FROM workflow_versions WHERE account_id = :account AND awaits <> '{}')",
        {"account": account_id, "until": now + ISOLATION_PERIOD},
    )


def clear_dead_workers(connection: sa.Connection, account_id: int, run_id: UUID) -> None:
    """Forget the dead workers of a run's workflow, since this run was executed alone and its process lives."""
    run_sql(
        connection,
        "UPDATE workflows SET dead_workers = '{}' FROM runs WHERE runs.account_id = :account AND runs.id = :run "
        "AND workflows.account_id = :account AND workflows.id = runs.workflow_id AND dead_workers <> '{}'",
        {"account": account_id, "run": run_id},
    )
