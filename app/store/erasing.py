"""Deleting what is kept of a person, or of a workflow. Jobs of runs that are gone find nothing and end."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of each kind were deleted."""

    events: int
    runs: int
    progress: int


_RUN_PARTS = """
WITH gone AS (
    DELETE FROM runs WHERE account_id = :account AND {which} RETURNING id
), steps_gone AS (
    DELETE FROM steps USING gone WHERE account_id = :account AND run_id = gone.id
), attempts_gone AS (
    DELETE FROM attempts USING gone WHERE account_id = :account AND run_id = gone.id
)
SELECT count(*) FROM gone
"""


def erase_subject(connection: sa.Connection, account_id: int, subject: str) -> Erased:
    """Delete events, idempotency keys, progress and runs of a subject."""
    values = {"account": account_id, "subject": subject}
    runs = connection.execute(sa.text(_RUN_PARTS.format(which="distinct_id = :subject")), values).scalar_one()
    connection.execute(
        sa.text(
            "DELETE FROM idempotency_keys AS known USING events WHERE events.account_id = :account "
            "AND distinct_id = :subject AND known.account_id = :account AND known.key = events.idempotency_key"
        ),
        values,
    )
    events = connection.execute(
        sa.text("DELETE FROM events WHERE account_id = :account AND distinct_id = :subject"), values
    ).rowcount
    progress = connection.execute(
        sa.text("DELETE FROM progress WHERE account_id = :account AND subject = :subject"), values
    ).rowcount
    return Erased(events, runs, progress)


def erase_workflow(connection: sa.Connection, account_id: int, workflow_id: UUID) -> Erased:
    """Delete a workflow with its versions, progress and runs."""
    values = {"account": account_id, "workflow": workflow_id}
    runs = connection.execute(sa.text(_RUN_PARTS.format(which="workflow_id = :workflow")), values).scalar_one()
    progress = connection.execute(
        sa.text("DELETE FROM progress WHERE account_id = :account AND workflow_id = :workflow"), values
    ).rowcount
    connection.execute(sa.text("DELETE FROM workflows WHERE account_id = :account AND id = :workflow"), values)
    return Erased(0, runs, progress)
