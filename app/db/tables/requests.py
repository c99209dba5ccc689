"""What is kept of requests to the management API."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

from app.db.tables.columns import account_table, column, timestamp

stored_answers = account_table(
    "stored_answers",
    column("caller", sa.Text, "the API key (sb_PREFIX) or OAuth client (cl_…) that sent the request"),
    column("key", sa.Text, "the Idempotency-Key of the request"),
    column(
        "request_digest",
        BYTEA,
        "SHA-256 of method, path, query and body, encrypted with ENCRYPTION_KEY: another request may not use the key",
    ),
    column("status", sa.SmallInteger, "the status of the answer"),
    column("headers", JSONB, "the header fields of the answer that are repeated"),
    column("body", BYTEA, "the body of the answer, encrypted with ENCRYPTION_KEY, since it may have a new secret"),
    timestamp("created_at", "when the request was carried out"),
    # The rule: a caller's key means one request.
    sa.PrimaryKeyConstraint("account_id", "caller", "key"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    # Serves forget_old_answers.
    sa.Index("stored_answers_created_at_idx", "created_at", postgresql_using="brin"),
    comment="answers of the management API of the last 24 hours, for requests that are sent again with their Idempotency-Key",
)
