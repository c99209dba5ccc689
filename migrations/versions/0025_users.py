"""People who sign in to the console, their roles in accounts, and their sessions.

Locks: none; the tables are new.
Safe with the previous code: yes, it does not know them.
"""

from alembic import op

revision = "0025"
down_revision = "0024"

TABLES = """
CREATE TABLE users (
    id UUID NOT NULL,
    email TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    is_operator BOOLEAN DEFAULT false NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    password_changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    disabled_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email_key UNIQUE (email)
);
COMMENT ON TABLE users IS 'people who sign in to the console';
COMMENT ON COLUMN users.id IS 'UUIDv7';
COMMENT ON COLUMN users.email IS 'what they sign in with, in lower case';
COMMENT ON COLUMN users.password_hash IS 'Argon2id, with its parameters';
COMMENT ON COLUMN users.is_operator IS 'whether they have all rights in all accounts';
COMMENT ON COLUMN users.created_at IS 'when the user was made';
COMMENT ON COLUMN users.password_changed_at IS 'when the password was set';
COMMENT ON COLUMN users.disabled_at IS 'when the user was disabled; null: is not';
CREATE TABLE memberships (
    account_id BIGINT NOT NULL,
    user_id UUID NOT NULL,
    role TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT memberships_pkey PRIMARY KEY (account_id, user_id),
    CONSTRAINT memberships_account_id_fkey FOREIGN KEY (account_id) REFERENCES accounts (id) ON DELETE CASCADE,
    CONSTRAINT memberships_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT memberships_role_check CHECK (role IN ('owner', 'editor', 'viewer'))
);
CREATE INDEX memberships_user_idx ON memberships (user_id);
COMMENT ON TABLE memberships IS 'what users may do in which accounts';
COMMENT ON COLUMN memberships.account_id IS 'the account that owns the row';
COMMENT ON COLUMN memberships.user_id IS 'the user';
COMMENT ON COLUMN memberships.role IS 'owner (everything), editor (everything but keys, users and settings) or viewer (reads)';
COMMENT ON COLUMN memberships.created_at IS 'when the role was given';
CREATE TABLE user_sessions (
    digest BYTEA NOT NULL,
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL,
    CONSTRAINT user_sessions_pkey PRIMARY KEY (digest),
    CONSTRAINT user_sessions_id_key UNIQUE (id),
    CONSTRAINT user_sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX user_sessions_user_idx ON user_sessions (user_id);
COMMENT ON TABLE user_sessions IS 'browsers that are signed in to the console; a row that is gone is signed out';
COMMENT ON COLUMN user_sessions.digest IS 'SHA-256 of the random text in the cookie';
COMMENT ON COLUMN user_sessions.id IS 'names the session in lists; UUIDv7';
COMMENT ON COLUMN user_sessions.user_id IS 'who signed in';
COMMENT ON COLUMN user_sessions.created_at IS 'when they signed in';
COMMENT ON COLUMN user_sessions.seen_at IS 'the last request, to the minute';
COMMENT ON COLUMN user_sessions.address IS 'the address from which they signed in';
COMMENT ON COLUMN user_sessions.agent IS 'the browser, as it names itself';
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(TABLES)


def downgrade() -> None:
    op.execute("DROP TABLE user_sessions, memberships, users")
