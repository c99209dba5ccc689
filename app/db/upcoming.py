"""What happens by itself at a time to come: runs go on after a wait, and workflows start at a deadline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql

# What distinguishes two rows, in the order of the list.
Cursor = tuple[datetime, str, str, str]


@dataclass(frozen=True, slots=True)
class Upcoming:
    """At `at`, a run goes on, or a workflow starts unless an event comes before (`run_id` is None)."""

    at: datetime
    workflow: str
    subject: str
    run_id: UUID | None

    @property
    def cursor(self) -> Cursor:
        """Where the list continues after this row."""
        return self.at, self.workflow, str(self.run_id or ""), self.subject


_ORDER = "ORDER BY at, workflow, run, subject LIMIT :limit"
# Each part is cut for itself, so that it is read in the order of time, by `runs_wake_at_idx` and `progress_deadline_idx`, and no
# further than the page. Blocks of a run wait as the run does: they are one row. LIMIT 1: the workflow is looked up for each row;
# Postgres underestimates how many rows of an account a join with its workflows has, and would read and sort all of them.
_UPCOMING = f"""
SELECT at, workflow, run, subject FROM (
    (SELECT DISTINCT wake_at AS at, name AS workflow, coalesce(root_id, runs.id)::text AS run, distinct_id AS subject
    FROM runs CROSS JOIN LATERAL (
        SELECT name FROM workflows WHERE workflows.account_id = runs.account_id AND workflows.id = workflow_id LIMIT 1
    ) AS workflow
    WHERE runs.account_id = :account AND status = 'running' AND wake_at >= :since AND wake_at < :until
        AND (wake_at, name, coalesce(root_id, runs.id)::text, distinct_id) > (:since, :workflow, :run, :subject)
    {_ORDER})
    UNION ALL
    (SELECT deadline AS at, name AS workflow, '' AS run, subject
    FROM progress CROSS JOIN LATERAL (
        SELECT name FROM workflows WHERE workflows.account_id = progress.account_id AND workflows.id = workflow_id
            AND workflows.enablement = progress.enablement AND enabled_version IS NOT NULL LIMIT 1
    ) AS workflow
    WHERE progress.account_id = :account AND deadline >= :since AND deadline < :until
        AND (deadline, name, '', subject) > (:since, :workflow, :run, :subject)
    {_ORDER})
) AS found {_ORDER}
"""


def find_upcoming(
    connection: sa.Connection, account_id: int, period: tuple[datetime, datetime], after: Cursor | None, limit: int
) -> Sequence[Upcoming]:
    """At most `limit` rows of a period (from, until before), the first to come first: those after a cursor."""
    since, until = period
    at, workflow, run, subject = max(after or (since, "", "", ""), (since, "", "", ""))
    values = {"account": account_id, "since": at, "until": until, "limit": limit}
    values |= {"workflow": workflow, "run": run, "subject": subject}
    rows = run_sql(connection, _UPCOMING, values)
    return [Upcoming(row.at, row.workflow, row.subject, UUID(row.run) if row.run else None) for row in rows]
