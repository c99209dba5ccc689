"""Refused requests of authenticated senders are kept, with their bodies.

Locks: `accounts` SHARE ROW EXCLUSIVE for the moment of a foreign key; the table is new.
Safe with the previous code: yes, it neither reads nor writes the table.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

TABLE = """
CREATE TABLE refusals (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    refused_at TIMESTAMP WITH TIME ZONE NOT NULL,
    route TEXT NOT NULL,
    key_prefix TEXT NOT NULL,
    status SMALLINT NOT NULL,
    type TEXT NOT NULL,
    detail TEXT NOT NULL,
    errors JSONB,
    items JSONB,
    request_id TEXT NOT NULL,
    idempotency_key TEXT,
    is_webhook_id BOOLEAN DEFAULT false NOT NULL,
    content_type TEXT,
    content_encoding TEXT,
    body BYTEA,
    body_bytes INTEGER DEFAULT 0 NOT NULL,
    replayable BOOLEAN NOT NULL,
    not_kept INTEGER DEFAULT 0 NOT NULL,
    replayed_at TIMESTAMP WITH TIME ZONE,
    replayed_event_id UUID,
    CONSTRAINT refusals_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT refusals_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
CREATE INDEX refusals_request_id_idx ON refusals (account_id, request_id);
CREATE INDEX refusals_refused_at_idx ON refusals USING brin (refused_at);
-- Bodies are compressed already.
ALTER TABLE refusals ALTER COLUMN body SET STORAGE EXTERNAL;
"""
COMMENTS = """
COMMENT ON TABLE refusals IS 'refused requests of authenticated senders, with what they sent; kept for 7 days';
COMMENT ON COLUMN refusals.account_id IS 'the account that owns the row';
COMMENT ON COLUMN refusals.id IS 'UUIDv7: sorts by time of refusal';
COMMENT ON COLUMN refusals.refused_at IS 'when the request was refused';
COMMENT ON COLUMN refusals.route IS 'path of the request, without its query';
COMMENT ON COLUMN refusals.key_prefix IS 'public part of the key or access token that it came with';
COMMENT ON COLUMN refusals.status IS 'HTTP status of the response; 207: some items of a batch were refused';
COMMENT ON COLUMN refusals.type IS 'problem type, such as validation-failed; of several refused items that of the first';
COMMENT ON COLUMN refusals.detail IS 'what was wrong, in words';
COMMENT ON COLUMN refusals.errors IS 'the faults, as [{field, message}]; null: none are listed';
COMMENT ON COLUMN refusals.items IS 'the refused items of a batch: index (from 0), type, detail, errors, where the item is in body (start, bytes), and event_id once it was replayed; null: the whole request was refused';
COMMENT ON COLUMN refusals.request_id IS 'X-Request-Id of the response';
COMMENT ON COLUMN refusals.idempotency_key IS 'the Idempotency-Key or webhook-id of the request; null: none sent';
COMMENT ON COLUMN refusals.is_webhook_id IS 'whether that is a webhook-id';
COMMENT ON COLUMN refusals.content_type IS 'Content-Type of the request; null: none sent';
COMMENT ON COLUMN refusals.content_encoding IS 'how body is packed, where it could not be unpacked; null: not';
COMMENT ON COLUMN refusals.body IS 'the body, compressed with zlib; of some refused items only these; null: not kept';
COMMENT ON COLUMN refusals.body_bytes IS 'bytes of body before it was compressed';
COMMENT ON COLUMN refusals.replayable IS 'false where a part of the body is missing';
COMMENT ON COLUMN refusals.not_kept IS 'further refusals of the account that followed and were not kept';
COMMENT ON COLUMN refusals.replayed_at IS 'when the body, or each of its items, was accepted by a replay; null: was not';
COMMENT ON COLUMN refusals.replayed_event_id IS 'the event, or the first one, of that replay';
"""


def upgrade() -> None:
    op.execute(TABLE)
    op.execute(COMMENTS)


def downgrade() -> None:
    op.execute("DROP TABLE refusals")
