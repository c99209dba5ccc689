"""Messages of workflows, the order in which they were kept, and the tickets that open an account's stream of them.

Locks: `accounts` SHARE ROW EXCLUSIVE for the moment of the transaction (foreign keys to it); everything else is new, but for a
comment on `integrations`.
Safe with the previous code: yes, it knows nothing of these tables. Its workers fail steps `message`, which it does not know.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = """
CREATE TABLE streams (
    account_id BIGINT NOT NULL,
    latest BIGINT NOT NULL,
    CONSTRAINT streams_pkey PRIMARY KEY (account_id),
    CONSTRAINT streams_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE streams IS 'how far the messages of each account have been counted';
COMMENT ON COLUMN streams.account_id IS 'the account that owns the row';
COMMENT ON COLUMN streams.latest IS 'number of its latest message; locked until that is committed, so that numbers are committed in order';

CREATE TABLE messages (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    number BIGINT NOT NULL,
    run_id UUID NOT NULL,
    ordinal INTEGER NOT NULL,
    distinct_id TEXT NOT NULL,
    text TEXT NOT NULL,
    data JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT messages_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT messages_account_id_number_key UNIQUE (account_id, number),
    CONSTRAINT messages_account_id_run_id_ordinal_key UNIQUE (account_id, run_id, ordinal)
);
CREATE INDEX messages_created_at_idx ON messages USING brin (created_at);
COMMENT ON TABLE messages IS 'what message steps said in the last 30 days; delivered by the account''s stream';
COMMENT ON COLUMN messages.account_id IS 'the account that owns the row';
COMMENT ON COLUMN messages.id IS 'UUIDv7; the id of the message in the stream';
COMMENT ON COLUMN messages.number IS '1, 2, 3 … in the order of commits, with gaps: the order of the stream';
COMMENT ON COLUMN messages.run_id IS 'the run that said it';
COMMENT ON COLUMN messages.ordinal IS 'the step that said it, by its ordinal in the run';
COMMENT ON COLUMN messages.distinct_id IS 'the subject of the run';
COMMENT ON COLUMN messages.text IS 'what it says';
COMMENT ON COLUMN messages.data IS 'what goes along with it';
COMMENT ON COLUMN messages.created_at IS 'when it was made; it is kept for 30 days from then';

CREATE TABLE tickets (
    digest BYTEA NOT NULL,
    account_id BIGINT NOT NULL,
    key_prefix TEXT NOT NULL,
    position BIGINT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT tickets_pkey PRIMARY KEY (digest),
    CONSTRAINT tickets_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE tickets IS 'what opens an account''s stream of messages to an application that holds no key';
COMMENT ON COLUMN tickets.digest IS 'SHA-256 of the ticket; the ticket itself is kept nowhere';
COMMENT ON COLUMN tickets.account_id IS 'the account that owns the row';
COMMENT ON COLUMN tickets.key_prefix IS 'the key or access token that it was made with; it is good only while that is in force';
COMMENT ON COLUMN tickets.position IS 'number of the account''s latest message when it was made; the stream begins after it';
COMMENT ON COLUMN tickets.created_at IS 'when it was made; it has to be used within 60 seconds';
COMMENT ON COLUMN tickets.used_at IS 'when it was first used; it is good for 12 hours from then; null: not yet';

COMMENT ON TABLE integrations IS 'the services that accounts send with: WhatsApp, Twilio, SendGrid, SMTP';
COMMENT ON COLUMN integrations.kind IS 'whatsapp, twilio, sendgrid or smtp';
"""


def upgrade() -> None:
    op.execute(TABLES)
