"""Secrets of accounts: values that sources and workflows read by their names, encrypted.

Locks: `accounts` SHARE ROW EXCLUSIVE for the moment of the transaction (a foreign key to it); the table is new.
Safe with the previous code: yes, it does not know the table.
"""

from alembic import op

revision = "0023"
down_revision = "0022"

TABLE = """
CREATE TABLE secrets (
    account_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    value BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT secrets_pkey PRIMARY KEY (account_id, name),
    CONSTRAINT secrets_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE,
    CONSTRAINT secrets_name_check CHECK (name ~ '^[A-Z][A-Z0-9_]{0,63}$')
);
COMMENT ON TABLE secrets IS 'values that sources and workflows read as {{ secrets.NAME }}';
COMMENT ON COLUMN secrets.account_id IS 'the account that owns the row';
COMMENT ON COLUMN secrets.name IS 'the name by which documents read it, such as SHOPIFY';
COMMENT ON COLUMN secrets.value IS 'the text, encrypted with ENCRYPTION_KEY';
COMMENT ON COLUMN secrets.created_at IS 'when it was first set';
COMMENT ON COLUMN secrets.updated_at IS 'when its value was last set';
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE secrets")
