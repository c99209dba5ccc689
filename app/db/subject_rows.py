"""What is stored about a subject, for people: what its runs have sent, and how much there is. Reads a bounded number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql
from app.db.shared_sql import MAX_COUNTED, count_of

# The actions that reach people.
_SENDING = ("http", "whatsapp", "sms", "call", "email", "sendgrid", "message")


@dataclass(frozen=True, slots=True)
class SentMessage:
    """What a step of a run has sent, or tried to: `run_id` is the run without a parent. `text` is that of a `message` step."""

    run_id: UUID
    path: str
    action: str
    status: str
    started_at: datetime
    error: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class SubjectCounts:
    """How many rows are about a subject, each at most MAX_COUNTED."""

    events: int
    runs: int
    progress: int


def find_messages_of_runs(
    connection: sa.Connection, account_id: int, run_ids: Sequence[UUID], limit: int
) -> list[SentMessage]:
    """What the steps of these runs and of their blocks have sent, in order."""
    rows = run_sql(
        connection,
        "SELECT coalesce(run.root_id, run.id), path, action, steps.status, started_at, steps.error, messages.text "
        "FROM (SELECT id, root_id FROM runs WHERE account_id = :account AND id = ANY (CAST(:runs AS uuid[])) UNION ALL "
        "SELECT id, root_id FROM runs WHERE account_id = :account AND root_id = ANY (CAST(:runs AS uuid[])) LIMIT :limit) AS run "
        "CROSS JOIN LATERAL (SELECT * FROM steps WHERE steps.account_id = :account AND run_id = run.id "
        "AND action = ANY (CAST(:actions AS text[])) ORDER BY ordinal LIMIT :limit) AS steps "
        "LEFT JOIN messages ON messages.account_id = :account AND messages.run_id = run.id "
        "AND messages.ordinal = steps.ordinal ORDER BY started_at LIMIT :limit",
        {"account": account_id, "runs": [str(one) for one in run_ids], "actions": list(_SENDING), "limit": limit},
    )
    return [SentMessage(*row) for row in rows]


def count_subject(connection: sa.Connection, account_id: int, subject: str) -> SubjectCounts:
    """How much is stored about a subject under its own id."""

    sources = (
        "events WHERE account_id = :account AND distinct_id = :subject",
        "runs WHERE account_id = :account AND distinct_id = :subject AND parent_id IS NULL",
        "progress WHERE account_id = :account AND subject = :subject",
    )
    values = {"account": account_id, "subject": subject, "max_rows": MAX_COUNTED}
    return SubjectCounts(*run_sql(connection, f"SELECT {', '.join(map(count_of, sources))}", values).one())
