"""Scopes of OAuth clients, access tokens with fewer scopes than their client, and the method that calls an augment's API.

Existing clients get all scopes, so their tokens stay as they are. Existing augments of the type `api` keep GET.

Locks: `accounts` SHARE ROW EXCLUSIVE (a foreign key to it), `clients` and `augments` ACCESS EXCLUSIVE (columns with a constant
default: no row is rewritten), each for the moment of the transaction; `access_tokens` is new.
Safe with the previous code: yes, its defaults are what it means. Until its web processes are gone, they refuse tokens with fewer
scopes, and call new augments by GET.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

TABLES = """
ALTER TABLE clients ADD COLUMN scopes TEXT[] DEFAULT '{events:write,events:read,account:manage}' NOT NULL,
    ADD UNIQUE (account_id, id);
COMMENT ON COLUMN clients.scopes IS 'what its tokens may do at most, such as events:write';

CREATE TABLE access_tokens (
    account_id BIGINT NOT NULL,
    client_id TEXT NOT NULL,
    scopes TEXT[] NOT NULL,
    prefix TEXT NOT NULL,
    digest BYTEA NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT access_tokens_pkey PRIMARY KEY (account_id, client_id, scopes),
    CONSTRAINT access_tokens_prefix_key UNIQUE (prefix),
    CONSTRAINT access_tokens_account_id_client_id_fkey FOREIGN KEY(account_id, client_id)
        REFERENCES clients (account_id, id) ON DELETE CASCADE
);
COMMENT ON TABLE access_tokens IS 'access tokens with fewer scopes than their OAuth client has; the one with all is in clients';
COMMENT ON COLUMN access_tokens.account_id IS 'the account that owns the row';
COMMENT ON COLUMN access_tokens.client_id IS 'the client that asked for it';
COMMENT ON COLUMN access_tokens.scopes IS 'what it may do';
COMMENT ON COLUMN access_tokens.prefix IS 'public part of the token (sbt_PREFIX_…)';
COMMENT ON COLUMN access_tokens.digest IS 'SHA-256 of the token; the token itself is kept nowhere';
COMMENT ON COLUMN access_tokens.expires_at IS 'when it ends';

COMMENT ON COLUMN tickets.created_at IS 'when it was made; it has to be used within two minutes';

ALTER TABLE augments ADD COLUMN method TEXT DEFAULT 'GET' NOT NULL,
    ADD CONSTRAINT augments_method_check CHECK (method IN ('GET', 'POST'));
COMMENT ON COLUMN augments.method IS 'api: how it is asked; GET: the key in the query, POST: the whole event';
"""


def upgrade() -> None:
    op.execute(TABLES)
