"""Answers of the management API that are kept for their Idempotency-Key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from app.db.connection import delete_batch, run_sql

# How long an answer is kept.
KEPT = timedelta(hours=24)
# How many answers of an account are kept, and their bytes together (encrypted).
MAX_ANSWERS, MAX_BYTES = 50_000, 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What an answer is kept for: the account, the caller (its API key or OAuth client), and the Idempotency-Key."""

    account_id: int
    caller: str
    key: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer and the digest of its request. `request_digest` and `body` are encrypted."""

    request_digest: bytes
    status: int
    headers: dict[str, str]
    body: bytes


def lock_key(connection: sa.Connection, wanted: RequestKey) -> bool:
    """Lock the key until the transaction ends; False when another transaction has it."""
    text = f"{wanted.account_id}/{wanted.caller}/{wanted.key}"
    locked: bool = run_sql(
        connection, "SELECT pg_try_advisory_xact_lock(hashtextextended(:text, 0))", {"text": text}
    ).scalar_one()
    return locked


def find_answer(connection: sa.Connection, wanted: RequestKey, now: datetime) -> StoredAnswer | None:
    """The answer that is kept for a key."""
    row = run_sql(
        connection,
        "SELECT request_digest, status, headers, body FROM stored_answers "
        "WHERE account_id = :account AND caller = :caller AND key = :key AND created_at > :since",
        {"account": wanted.account_id, "caller": wanted.caller, "key": wanted.key, "since": now - KEPT},
    ).one_or_none()
    return None if row is None else StoredAnswer(bytes(row[0]), row[1], dict(row[2]), bytes(row[3]))


def has_too_many(connection: sa.Connection, account_id: int, now: datetime) -> bool:
    """Whether so many answers of an account are kept that there is no place for another one."""
    # The length of a body is known without reading it.
    return (
        run_sql(
            connection,
            "SELECT count(*) >= :max_rows OR sum(size) >= :bytes FROM (SELECT octet_length(body) AS size FROM stored_answers "
            "WHERE account_id = :account AND created_at > :since LIMIT :max_rows) AS found",
            {"account": account_id, "since": now - KEPT, "max_rows": MAX_ANSWERS, "bytes": MAX_BYTES},
        ).scalar_one()
        is True
    )


def store_answer(connection: sa.Connection, wanted: RequestKey, answer: StoredAnswer, now: datetime) -> None:
    """Keep an answer, in place of one that has expired."""
    values = {"account": wanted.account_id, "caller": wanted.caller, "key": wanted.key, "now": now}
    run_sql(
        connection,
        "INSERT INTO stored_answers (account_id, caller, key, request_digest, status, headers, body, created_at) "
        "VALUES (:account, :caller, :key, :digest, :status, CAST(:headers AS jsonb), :body, :now) "
        "ON CONFLICT (account_id, caller, key) DO UPDATE SET request_digest = excluded.request_digest, "
        "status = excluded.status, headers = excluded.headers, body = excluded.body, created_at = excluded.created_at",
        {
            **values,
            "digest": answer.request_digest,
            "status": answer.status,
            "headers": json.dumps(answer.headers),
            "body": answer.body,
        },
    )


def forget_old_answers(connection: sa.Connection, now: datetime) -> int:
    """Delete answers that are kept no longer; at most 10,000."""
    return delete_batch(connection, "stored_answers", "created_at < :before", {"before": now - KEPT})
