"""How long accounts keep what is stored, receipts of erasures, and how tables grow."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, INTERVAL, JSONB, UUID

from app.db.tables.columns import account_table, column, metadata, timestamp

account_retention = account_table(
    "account_retention",
    column("kind", sa.Text, "what is kept, such as events or runs"),
    column("keep", INTERVAL, "how long rows are kept; null: for ever", null=True),
    timestamp("changed_at", "when it was set"),
    # The rule: an account has one retention for each kind.
    sa.PrimaryKeyConstraint("account_id", "kind"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="how long accounts keep each kind of rows; a kind without a row has its default",
)

erasure_receipts = account_table(
    "erasure_receipts",
    column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of the erasure"),
    column(
        "subject_hash",
        BYTEA,
        "HMAC-SHA256 of the erased distinct_id, with a key made of the account's signing secret; the id itself is kept nowhere",
    ),
    column("counts", JSONB, "how many rows of each table were deleted, and in how many texts were removed"),
    timestamp("at", "when the erasure was complete"),
    column("actor", sa.Text, "who called for it"),
    sa.PrimaryKeyConstraint("account_id", "id"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="which data subjects were erased: proof for who knows the id, nothing for others",
)

table_sizes_daily = sa.Table(
    "table_sizes_daily",
    metadata,
    column("table_name", sa.Text, "the table, or a partition of events; events: the sum of its partitions"),
    column("day", sa.Date, "the day (UTC)"),
    column("row_estimate", sa.BigInteger, "how many rows it has, as PostgreSQL estimates; -1: never counted"),
    column("bytes", sa.BigInteger, "its size on disk, with indexes and TOAST"),
    # The rule: a table has one size a day.
    sa.PrimaryKeyConstraint("table_name", "day"),
    comment="sizes of all tables, once a day, for 400 days: how they grow",
)
