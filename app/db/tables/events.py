"""Events, and the tables that find them by idempotency key or by a workflow's key."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, UUID

from app.db.tables.columns import account_table, column, index, timestamp

events = account_table(
    "events",
    column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of acceptance"),
    column("event", sa.Text, "name of the event, exactly as sent"),
    column("distinct_id", sa.Text, "whom the event is about (the subject)"),
    column("phone", sa.Text, "the subject's phone number in E.164 (+ and digits); null: not sent", null=True),
    column("data", JSONB, "the data object as sent, every number exact"),
    column("extra", JSONB, "unknown top-level fields of the request; null: none", null=True),
    column(
        "augmented", JSONB, "what augments added: workflows see it over data, field by field; null: nothing", null=True
    ),
    timestamp("received_at", "when the event was accepted"),
    timestamp("occurred_at", "when the event happened, as its sender says; null: not sent", null=True),
    column("decisions", JSONB, "what each workflow that looked concluded, and why; null: none looked", null=True),
    column("idempotency_key", sa.Text, "the sender's Idempotency-Key or webhook-id; null: none sent", null=True),
    column("warnings", JSONB, "warnings in the response to the sender; null: none", null=True),
    column("via", sa.Text, "how it came: receiver (CxEngage); null: by POST /api/v1/cvf-events", null=True),
    sa.PrimaryKeyConstraint("account_id", "id", "received_at"),
    # Serves find_latest_received: the latest events that did not come by cvf-events.
    index("events_via_idx", "account_id", "id", where="via IS NOT NULL"),
    # Serves find_latest_events: the events of a subject, newest first.
    sa.Index("events_subject_idx", "account_id", "distinct_id", "id"),
    # Serves find_latest_events: those of one name, newest first.
    sa.Index("events_name_idx", "account_id", "event", "id"),
    postgresql_partition_by="RANGE (received_at)",
    comment="every accepted event, one row each; what was sent is never changed; partitioned by month of received_at",
)

idempotency_keys = account_table(
    "idempotency_keys",
    column("key", sa.Text, "the Idempotency-Key or webhook-id that came with the event"),
    column("digest", BYTEA, "SHA-256 of the request body: the same key with another body is refused"),
    column("event_id", UUID(as_uuid=True), "the event that was stored for it"),
    timestamp("received_at", "when; the key is remembered for 30 days from then"),
    # The rule: one event per key and account.
    sa.PrimaryKeyConstraint("account_id", "key"),
    # Serves forget_old_idempotency_keys.
    sa.Index("idempotency_keys_received_at_idx", "received_at", postgresql_using="brin"),
    comment="which idempotency keys were used in the last 30 days, and for which event",
)

keyed_events = account_table(
    "keyed_events",
    column("key", sa.Text, "the field that some workflow has for its key, such as data.order_id"),
    column("subject", sa.Text, "what the event has there"),
    column("event_id", UUID(as_uuid=True), "the event"),
    timestamp("received_at", "received_at of that event (finds its partition)"),
    # Serves find_events_by_key; the rule: an event has one value under a key.
    sa.PrimaryKeyConstraint("account_id", "key", "subject", "event_id"),
    # Serves the retention and the erasure of events: who waits for this event?
    sa.Index("keyed_events_event_idx", "account_id", "event_id"),
    # Serves delete_old_keys.
    sa.Index("keyed_events_received_at_idx", "received_at", postgresql_using="brin"),
    comment="awaited events by the keys of workflows that count by another field than distinct_id; kept for 30 days",
)
