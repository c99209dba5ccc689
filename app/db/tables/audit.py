"""The audit log."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

from app.db.tables.columns import column, metadata, timestamp

# Without a foreign key: the log outlives what it is about, and some changes concern no account.
audit_log = sa.Table(
    "audit_log",
    metadata,
    column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of the change"),
    column(
        "account_id", sa.BigInteger, "the account that was changed; null: the change concerns no single one", null=True
    ),
    timestamp("at", "when"),
    column("actor", sa.Text, "who: a person at the command line, an OAuth client (cl_…) or an API key (sb_PREFIX)"),
    column("via", sa.Text, "through what: cli, http, console, or worker (Signalbox by itself)"),
    column("action", sa.Text, "the type of the object and what was done to it, such as workflow.disable"),
    column("object_type", sa.Text, "workflow, key, integration, …: the action up to its dot"),
    column("object_id", sa.Text, "the name or id of the object in its account; null: several objects", null=True),
    column("before", JSONB, "what has changed, as it was, without secrets; null: not known or nothing", null=True),
    column("after", JSONB, "what has changed, as it is now, without secrets; null: the object is gone", null=True),
    column("request_id", sa.Text, "X-Request-Id of the request that made the change; null: none did", null=True),
    sa.PrimaryKeyConstraint("id"),
    sa.CheckConstraint("via IN ('cli', 'http', 'console', 'worker')", name="via"),
    # Serves list_entries of one account, and the function delete_audit_log.
    sa.Index("audit_log_account_idx", "account_id", "id"),
    # Serves list_entries of one object.
    sa.Index("audit_log_object_idx", "object_id", "account_id", "id"),
    comment="who changed what in the configuration, and when; only added to, by the transaction that makes the change",
)
