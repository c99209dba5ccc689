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


# Blocks of a run wait as the run does.
_UPCOMING = """
SELECT at, workflow, subject, run_id FROM (
    SELECT wake_at AS at, name AS workflow, distinct_id AS subject, coalesce(root_id, runs.id) AS run_id
    FROM runs JOIN workflows ON workflows.account_id = runs.account_id AND workflows.id = workflow_id
    WHERE runs.account_id = :account AND status = 'running' AND wake_at >= :since AND wake_at < :until
    UNION
    SELECT deadline, name, subject, NULL
    FROM progress JOIN workflows ON workflows.account_id = progress.account_id AND workflows.id = workflow_id
        AND workflows.enablement = progress.enablement AND enabled_version IS NOT NULL
    WHERE progress.account_id = :account AND deadline >= :since AND deadline < :until
) AS found
WHERE CAST(:at AS timestamptz) IS NULL
    OR (at, workflow, coalesce(run_id::text, ''), subject) > (:at, :workflow, :run, :subject)
ORDER BY at, workflow, coalesce(run_id::text, ''), subject LIMIT :limit
"""


def find_upcoming(
    connection: sa.Connection, account_id: int, period: tuple[datetime, datetime], after: Cursor | None, limit: int
) -> Sequence[Upcoming]:
    """At most `limit` rows of a period (from, until before), the first to come first: those after a cursor."""
    at, workflow, run, subject = after or (None, None, None, None)
    values = {"account": account_id, "since": period[0], "until": period[1], "limit": limit}
    values |= {"at": at, "workflow": workflow, "run": run, "subject": subject}
    return [Upcoming(*row) for row in run_sql(connection, _UPCOMING, values)]
