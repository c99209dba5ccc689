"""Sources, their versions, and what was posted to them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, UUID

from app.db.tables.columns import NOW, account_table, column, index, timestamp

sources = account_table(
    "sources",
    column("id", UUID(as_uuid=True), "UUIDv7; idempotency keys of its events begin with it"),
    column("name", sa.Text, "name of the source; its events have the via source:NAME"),
    column("enabled", sa.Boolean, "false: what is posted is kept, and makes no events", default="true"),
    column("latest_version", sa.Integer, "the newest version, which is in use"),
    timestamp("created_at", "when its first version was saved", default=NOW),
    timestamp("updated_at", "when it was last changed, enabled or disabled", default=NOW),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # The rule: a name means one source of an account.
    sa.UniqueConstraint("account_id", "name"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="URLs to which third parties post; the documents are in source_versions, the tokens in keys",
)

source_versions = account_table(
    "source_versions",
    column("source_id", UUID(as_uuid=True), "the source"),
    column("version", sa.Integer, "1, 2, 3 …; never changed once saved"),
    column("source", sa.Text, "the document as it was given, comments included"),
    column("document", JSONB, "the document as data"),
    timestamp("created_at", "when it was saved", default=NOW),
    sa.PrimaryKeyConstraint("account_id", "source_id", "version"),
    sa.ForeignKeyConstraint(["account_id", "source_id"], ["sources.account_id", "sources.id"], ondelete="CASCADE"),
    comment="every version of every source",
)

deliveries = account_table(
    "deliveries",
    column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of arrival"),
    column("source_id", UUID(as_uuid=True), "the source to which it was posted"),
    column("source_version", sa.Integer, "the version of the source that mapped it last"),
    timestamp("received_at", "when it arrived"),
    column("method", sa.Text, "HTTP method of the request"),
    column("query", sa.Text, "query of the URL, secrets masked; null: none", null=True),
    column("headers", JSONB, "the request's headers by their names in lower case, secrets masked"),
    column("body", BYTEA, "the body as it arrived"),
    column("content_encoding", sa.Text, "how body is packed: gzip; null: it is not", null=True),
    column("verified", sa.Boolean, "whether its sender was verified"),
    column(
        "result",
        sa.Text,
        "accepted; duplicate (all its events were stored before); partly (a part was not mapped); unmapped; unverified (refused)",
    ),
    column("events", JSONB, "ids of its events, also of those that were stored before", default="'[]'"),
    column("duplicates", sa.Integer, "how many of these were stored before", default="0"),
    column(
        "problems", JSONB, "what was not mapped or verified, and why: [{item, path, message}]; null: nothing", null=True
    ),
    column("request_id", sa.Text, "X-Request-Id of the response"),
    timestamp("replayed_at", "when it was last mapped again; null: never", null=True),
    sa.PrimaryKeyConstraint("account_id", "id"),
    sa.CheckConstraint(
        "result IN ('accepted', 'duplicate', 'partly', 'unmapped', 'unverified')",
        name="result",
    ),
    # Serves find_latest_deliveries of one source, and count_by_source.
    sa.Index("deliveries_source_idx", "account_id", "source_id", "id"),
    # Serves the same for what needs a look, and find_first_deliveries. Small, since most deliveries are accepted.
    index(
        "deliveries_open_idx",
        "account_id",
        "source_id",
        "id",
        where="result IN ('partly', 'unmapped', 'unverified')",
    ),
    # Serves find_latest_deliveries of one result, of all sources. Small for the same reason.
    index("deliveries_result_idx", "account_id", "result", "id", where="result <> 'accepted'"),
    comment="posts to sources as they arrived, and what became of them; kept for 30 days",
)
