"""The message stream of each account."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, UUID

from app.db.tables.columns import account_id, column, metadata, timestamp

streams = sa.Table(
    "streams",
    metadata,
    account_id(),
    column(
        "latest",
        sa.BigInteger,
        "number of its latest message; locked until that is committed, so that numbers are committed in order",
    ),
    sa.PrimaryKeyConstraint("account_id"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="how far the messages of each account have been counted",
)

messages = sa.Table(
    "messages",
    metadata,
    account_id(),
    column("id", UUID(as_uuid=True), "UUIDv7; the id of the message in the stream"),
    column("number", sa.BigInteger, "1, 2, 3 … in the order of commits, with gaps: the order of the stream"),
    column("run_id", UUID(as_uuid=True), "the run that said it"),
    column("ordinal", sa.Integer, "the step that said it, by its ordinal in the run"),
    column("distinct_id", sa.Text, "the subject of the run"),
    column("text", sa.Text, "what it says"),
    column("data", JSONB, "what goes along with it"),
    timestamp("created_at", "when it was made; it is kept for 30 days from then"),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # Serves find_messages_after.
    sa.UniqueConstraint("account_id", "number"),
    # The rule: a step of a run says its message once, however often it is tried.
    sa.UniqueConstraint("account_id", "run_id", "ordinal"),
    # Serves forget_old_messages.
    sa.Index("messages_created_at_idx", "created_at", postgresql_using="brin"),
    comment="what message steps said in the last 30 days; delivered by the account's stream",
)

tickets = sa.Table(
    "tickets",
    metadata,
    column("digest", BYTEA, "SHA-256 of the ticket; the ticket itself is kept nowhere"),
    account_id(),
    column(
        "key_prefix", sa.Text, "the key or access token that it was made with; it is good only while that is in force"
    ),
    column(
        "position", sa.BigInteger, "number of the account's latest message when it was made; the stream begins after it"
    ),
    timestamp("created_at", "when it was made; it has to be used within 60 seconds"),
    timestamp("used_at", "when it was first used; it is good for 12 hours from then; null: not yet", null=True),
    sa.PrimaryKeyConstraint("digest"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="what opens an account's stream of messages to an application that holds no key",
)
