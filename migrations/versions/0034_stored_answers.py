"""Answers of the management API, kept for 24 hours for their Idempotency-Key.

Locks: `accounts` SHARE ROW EXCLUSIVE for the moment of the transaction (a foreign key to it); the table is new.
Safe with the previous code: yes, it does not know the table.
"""

from alembic import op

revision = "0034"
down_revision = "0033"

TABLE = """
CREATE TABLE stored_answers (
    account_id BIGINT NOT NULL,
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    request_digest BYTEA NOT NULL,
    status SMALLINT NOT NULL,
    headers JSONB NOT NULL,
    body BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT stored_answers_pkey PRIMARY KEY (account_id, caller, key),
    CONSTRAINT stored_answers_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
CREATE INDEX stored_answers_created_at_idx ON stored_answers USING brin (created_at);
COMMENT ON TABLE stored_answers IS
    'answers of the management API of the last 24 hours, for requests that are sent again with their Idempotency-Key';
COMMENT ON COLUMN stored_answers.account_id IS 'the account that owns the row';
COMMENT ON COLUMN stored_answers.caller IS 'the API key (sb_PREFIX) or OAuth client (cl_…) that sent the request';
COMMENT ON COLUMN stored_answers.key IS 'the Idempotency-Key of the request';
COMMENT ON COLUMN stored_answers.request_digest IS
    'SHA-256 of method, path, query and body, encrypted with ENCRYPTION_KEY: another request may not use the key';
COMMENT ON COLUMN stored_answers.status IS 'the status of the answer';
COMMENT ON COLUMN stored_answers.headers IS 'the header fields of the answer that are repeated';
COMMENT ON COLUMN stored_answers.body IS
    'the body of the answer, encrypted with ENCRYPTION_KEY, since it may have a new secret';
COMMENT ON COLUMN stored_answers.created_at IS 'when the request was carried out';
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE stored_answers")
