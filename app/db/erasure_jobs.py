"""Jobs that erase a data subject: `account:erasure:text`, where the text says whom, for whom, and how far it has come."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import run_sql
from app.db.due_accounts import ACCOUNT
from app.db.job_queue import ERASE, enqueue


class ErasureJob(NamedTuple):
    """An erasure that has not ended. `is_claimed`: a worker does it now."""

    id: UUID
    text: str
    is_claimed: bool


def enqueue_erasure(connection: sa.Connection, account_id: int, erasure_id: UUID, text: str, subject_hash: str) -> bool:
    """Enqueue an erasure, unless the subject is erased already; whether it was."""
    found = run_sql(
        connection,
        enqueue(ERASE, ":payload", "(SELECT) AS one", dedupe_key=":key"),
        {"payload": f"{account_id}:{erasure_id}:{text}", "key": f"{ERASE}:{account_id}:{subject_hash}"},
    )
    return bool(found.rowcount)


def list_erasures(connection: sa.Connection, account_id: int, limit: int) -> list[ErasureJob]:
    """The erasures of an account that have not ended, oldest first."""
    rows = run_sql(
        connection,
        "SELECT split_part(payload, ':', 2)::uuid, split_part(payload, ':', 3), worker_id IS NOT NULL FROM jobs "
        f"WHERE {ACCOUNT} = CAST(CAST(:account AS bigint) AS text) AND kind = :kind ORDER BY id LIMIT :limit",
        {"account": account_id, "kind": ERASE, "limit": limit},
    )
    return [ErasureJob(*row) for row in rows]


def save_text(connection: sa.Connection, account_id: int, erasure_id: UUID, before: str, text: str) -> bool:
    """Change the text of an erasure; False if it is not `before` any more, since another worker continues it."""
    start = f"{account_id}:{erasure_id}:"
    found = run_sql(
        connection,
        f"UPDATE jobs SET payload = :payload WHERE {ACCOUNT} = :account AND kind = :kind AND payload = :before",
        {"payload": start + text, "account": str(account_id), "kind": ERASE, "before": start + before},
    )
    return bool(found.rowcount)
