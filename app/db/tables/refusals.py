"""Requests of authenticated senders that were refused."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, UUID

from app.db.tables.columns import account_table, column, timestamp

refusals = account_table(
    "refusals",
    column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of refusal"),
    timestamp("refused_at", "when the request was refused"),
    column("route", sa.Text, "path of the request, without its query"),
    column("key_prefix", sa.Text, "public part of the key or access token that it came with"),
    column("status", sa.SmallInteger, "HTTP status of the response; 207: some items of a batch were refused"),
    column("type", sa.Text, "problem type, such as validation-failed; of several refused items that of the first"),
    column("detail", sa.Text, "what was wrong, in words"),
    column("errors", JSONB, "the faults, as [{field, message}]; null: none are listed", null=True),
    column(
        "items",
        JSONB,
        "the refused items of a batch: index (from 0), type, detail, errors, where the item is in body (start, bytes), and "
        "event_id once it was replayed; null: the whole request was refused",
        null=True,
    ),
    column("request_id", sa.Text, "X-Request-Id of the response"),
    column("idempotency_key", sa.Text, "the Idempotency-Key or webhook-id of the request; null: none sent", null=True),
    column("is_webhook_id", sa.Boolean, "whether that is a webhook-id", default="false"),
    column("content_type", sa.Text, "Content-Type of the request; null: none sent", null=True),
    column("content_encoding", sa.Text, "how body is packed, where it could not be unpacked; null: not", null=True),
    column(
        "body", BYTEA, "the body, compressed with zlib; of some refused items only these; null: not kept", null=True
    ),
    column("body_bytes", sa.Integer, "bytes of body before it was compressed", default="0"),
    column("replayable", sa.Boolean, "false where a part of the body is missing"),
    column("not_kept", sa.Integer, "further refusals of the account that followed and were not kept", default="0"),
    timestamp("replayed_at", "when the body, or each of its items, was accepted by a replay; null: was not", null=True),
    column("replayed_event_id", UUID(as_uuid=True), "the event, or the first one, of that replay", null=True),
    sa.PrimaryKeyConstraint("account_id", "id"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    # Serves find_latest_refusals: the one that a sender asks about.
    sa.Index("refusals_request_id_idx", "account_id", "request_id"),
    # Serves delete_older for all accounts.
    sa.Index("refusals_refused_at_idx", "refused_at", postgresql_using="brin"),
    comment="refused requests of authenticated senders, with what they sent; kept for 7 days",
)
