"""Failed runs, grouped by what failed: the target that was called, and the kind of error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed runs with the same target (None: no call failed) and the same class of error (None: not recorded).

    `subjects`: how many subjects are affected. `first_at`, `last_at`: when the first and
    the last of the runs failed. `error` and `run_id` are of the latest run, `workflows` are names.
    """

    target: str | None
    error_class: str | None
    runs: int
    subjects: int
    first_at: datetime
    last_at: datetime
    workflows: Sequence[str]
    error: str | None
    run_id: UUID


# The limit inside bounds what is read, whatever the account has; runs_failed_idx is in the order of ids.
_GROUPS = """
WITH latest AS (
    SELECT id, workflow_id, distinct_id, parent_id, error, error_target, error_class, finished_at FROM runs
    WHERE account_id = :account AND status = 'failed' ORDER BY id DESC LIMIT :scanned
), found AS (
    SELECT latest.*, workflows.name FROM latest JOIN workflows ON account_id = :account AND workflows.id = workflow_id
    WHERE parent_id IS NULL AND finished_at >= :since AND (CAST(:workflow AS text) IS NULL OR workflows.name = :workflow)
)
SELECT error_target, error_class, count(*), count(DISTINCT distinct_id), min(finished_at), max(finished_at),
    array_agg(DISTINCT name), (array_agg(left(error, 500) ORDER BY id DESC))[1], (array_agg(id ORDER BY id DESC))[1]
FROM found GROUP BY error_target, error_class ORDER BY max(finished_at) DESC, min(id::text) LIMIT :limit
"""


def find_failures(
    connection: sa.Connection, account_id: int, since: datetime, workflow: str | None, scanned: int, limit: int
) -> list[FailureGroup]:
    """The failures since a time among the latest `scanned` failed runs and blocks, the latest first; at most `limit` groups."""
    values = {"account": account_id, "since": since, "workflow": workflow, "scanned": scanned, "limit": limit}
    return [FailureGroup(*row) for row in run_sql(connection, _GROUPS, values)]


def has_more_failed_runs(connection: sa.Connection, account_id: int, number: int) -> bool:
    """Whether the account has more failed runs and blocks than this number."""
    query = "SELECT FROM runs WHERE account_id = :account AND status = 'failed' ORDER BY id DESC OFFSET :number LIMIT 1"
    return run_sql(connection, query, {"account": account_id, "number": number}).first() is not None
