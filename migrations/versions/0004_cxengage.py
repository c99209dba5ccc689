"""What the CxEngage routes need: names of accounts and of their attributes, OAuth clients, and by which way events came.

Locks: `accounts` and then `events`, each in a transaction of its own, ACCESS EXCLUSIVE for a moment (new columns, null or with a
constant default: nothing is rewritten). Both at once would be waited for in a circle with the statements that record events. The
index on `events` is built partition by partition, CONCURRENTLY: writers go on. What is done twice when a migration is called again
does nothing the second time.
Safe with the previous code: yes, it names the columns that it writes, and knows nothing of the rest.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

ACCOUNTS = """
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS name TEXT;
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS key_attribute TEXT DEFAULT 'key' NOT NULL;
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS event_attribute TEXT DEFAULT 'type' NOT NULL;
COMMENT ON COLUMN accounts.name IS 'what people call it; null: the slug';
COMMENT ON COLUMN accounts.key_attribute IS 'the attribute of its CxEngage events that says whom they are about';
COMMENT ON COLUMN accounts.event_attribute IS 'the attribute of its CxEngage events that names them';

CREATE TABLE IF NOT EXISTS clients (
    account_id BIGINT NOT NULL,
    id TEXT NOT NULL,
    digest BYTEA NOT NULL,
    name TEXT NOT NULL,
    token_prefix TEXT,
    token_digest BYTEA,
    token_expires_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    last_used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT clients_pkey PRIMARY KEY (id),
    CONSTRAINT clients_token_prefix_key UNIQUE (token_prefix),
    CONSTRAINT clients_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS clients_account_id_idx ON clients (account_id);
COMMENT ON TABLE clients IS 'OAuth clients of the CxEngage routes, each with its access token; secrets are kept as hashes';
COMMENT ON COLUMN clients.account_id IS 'the account that owns the row';
COMMENT ON COLUMN clients.id IS 'its client_id (cl_…)';
COMMENT ON COLUMN clients.digest IS 'SHA-256 of its client_secret; the secret itself is kept nowhere';
COMMENT ON COLUMN clients.name IS 'what its owner calls it';
COMMENT ON COLUMN clients.token_prefix IS 'public part of its access token (sbt_PREFIX_…); null: it has none';
COMMENT ON COLUMN clients.token_digest IS 'SHA-256 of its access token; null: it has none';
COMMENT ON COLUMN clients.token_expires_at IS 'when its access token ends; null: it has none';
COMMENT ON COLUMN clients.created_at IS 'when it was made';
COMMENT ON COLUMN clients.revoked_at IS 'when it was revoked; null: it is in force';
COMMENT ON COLUMN clients.last_used_at IS 'when its token was last used, to the minute; null: never';
"""
EVENTS = """
ALTER TABLE events ADD COLUMN IF NOT EXISTS via TEXT;
COMMENT ON COLUMN events.via IS 'how it came: receiver (CxEngage); null: by POST /api/v1/cvf-events';
CREATE INDEX IF NOT EXISTS events_via_idx ON ONLY events (account_id, id) WHERE via IS NOT NULL;
"""

PARTITIONS = """
SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass AND NOT EXISTS (
    SELECT FROM pg_index JOIN pg_inherits AS attached ON attached.inhrelid = indexrelid
    WHERE indrelid = pg_inherits.inhrelid AND attached.inhparent = 'events_via_idx'::regclass)
ORDER BY 1
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(ACCOUNTS)
    op.execute(EVENTS)
    partitions = [name for (name,) in op.get_bind().exec_driver_sql(PARTITIONS)]
    for name in partitions:
        # The partitions had their comments before the column came.
        op.execute(
            f"COMMENT ON COLUMN {name}.via IS 'how it came: receiver (CxEngage); null: by POST /api/v1/cvf-events'"
        )
    with op.get_context().autocommit_block():
        for name in partitions:
            # One that was given up half-way is in the way, and not attached.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}_via_idx")
            op.execute(f"CREATE INDEX CONCURRENTLY {name}_via_idx ON {name} (account_id, id) WHERE via IS NOT NULL")
            op.execute(f"ALTER INDEX events_via_idx ATTACH PARTITION {name}_via_idx")
