"""What people do to runs: retry failed ones, and start missed ones. `runs.end_run_tree` cancels runs.

Each is one statement: the run, its step and its job change together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.core.models import NewRun
from app.db.connection import run_sql
from app.db.job_queue import enqueue_runs
from app.db.match_state import StateKey, lock_number
from app.db.runs import START_RUN, start_run_values

# The run continues at the step that failed, with the same idempotency key. Earlier attempts and the time that the step has
# taken no longer count. The new job number fences off the failed job, which may still be queued. Failed blocks continue, and
# their parents wait for them again.
_RETRY = f"""
WITH root AS (
    SELECT id FROM runs
    WHERE account_id = :account AND id = ANY (CAST(:runs AS uuid[])) AND status = 'failed' AND parent_id IS NULL
), failed AS (
    SELECT found.id, (SELECT count(*) FROM runs AS block WHERE block.account_id = :account AND block.parent_id = found.id
        AND block.parent_ordinal = found.ordinal AND block.status = 'failed')::int AS blocks
    FROM (SELECT runs.* FROM root JOIN runs ON account_id = :account AND runs.id = root.id
          UNION ALL SELECT runs.* FROM root JOIN runs ON account_id = :account AND root_id = root.id) AS found
    WHERE status = 'failed'
), run AS (
    UPDATE runs SET status = 'running', forgiven = attempt, turn = turn + 1, job = job + 1,
        wake_at = CASE WHEN blocks = 0 THEN CAST(:now AS timestamptz) END, blocks_left = nullif(blocks, 0), error = NULL,
        step_started_at = :now, updated_at = greatest(updated_at, :now), finished_at = NULL
    FROM failed WHERE account_id = :account AND runs.id = failed.id AND status = 'failed'
    RETURNING account_id, runs.id, ordinal, job, parent_id, blocks
), step AS (
    UPDATE steps SET status = 'waiting', finished_at = NULL
    FROM run WHERE steps.account_id = run.account_id AND run_id = run.id AND steps.ordinal = run.ordinal
), job AS (
    {enqueue_runs("run WHERE blocks = 0", number="job")}
)
SELECT id FROM run WHERE parent_id IS NULL
"""


def retry_runs(connection: sa.Connection, account_id: int, run_ids: Iterable[UUID], now: datetime) -> set[UUID]:
    """Retry failed runs where they or their blocks failed, at once. Returns the runs that were failed; others are unchanged."""
    found = run_sql(connection, _RETRY, {"account": account_id, "runs": [str(run) for run in run_ids], "now": now})
    return {row.id for row in found}


def start_past_run(connection: sa.Connection, account_id: int, new: NewRun, now: datetime) -> bool:
    """Start a run for a past event; False when the match already has a run."""
    return bool(connection.exec_driver_sql(START_RUN, start_run_values(account_id, new, now)).scalar())


def find_run_of_match(connection: sa.Connection, account_id: int, workflow_id: UUID, match_key: str) -> UUID | None:
    """The run of a match."""
    found: UUID | None = run_sql(
        connection,
        "SELECT id FROM runs WHERE account_id = :account AND workflow_id = :workflow AND match_key = :match_key",
        {"account": account_id, "workflow": workflow_id, "match_key": match_key},
    ).scalar()
    return found


def lock_match_state(connection: sa.Connection, account_id: int, key: StateKey) -> datetime | None:
    """Lock the match state of a subject of a workflow until the transaction ends. Returns when the subject last started the
    workflow; None if no start is recorded."""
    number = lock_number(account_id, key)
    run_sql(connection, "SELECT pg_advisory_xact_lock(:number)", {"number": number})
    last: datetime | None = run_sql(
        connection,
        "SELECT last_started_at FROM progress "
        "WHERE account_id = :account AND workflow_id = :workflow AND subject = :subject",
        {"account": account_id, "workflow": key[0], "subject": key[1]},
    ).scalar()
    return last


def record_start(connection: sa.Connection, account_id: int, key: StateKey, enablement: int, now: datetime) -> None:
    """Record that a subject has started a workflow, for `again`; its match state is unchanged."""
    run_sql(
        connection,
        "INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, last_event_at, last_started_at) "
        "VALUES (:account, :workflow, :subject, :enablement, '{}', :now, :now) "
        "ON CONFLICT (account_id, workflow_id, subject) DO UPDATE SET last_started_at = :now",
        {"account": account_id, "workflow": key[0], "subject": key[1], "enablement": enablement, "now": now},
    )
