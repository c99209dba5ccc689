"""What accounts send with, encrypted; and the targets that said to be gone.

Locks: `accounts` SHARE ROW EXCLUSIVE for the moment of the transaction (foreign keys to it); everything else is new.
Safe with the previous code: yes, it knows nothing of these tables.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
CREATE TABLE integrations (
    account_id BIGINT NOT NULL,
    kind TEXT NOT NULL,
    settings BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT integrations_pkey PRIMARY KEY (account_id, kind),
    CONSTRAINT integrations_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE integrations IS 'the services that accounts send with: WhatsApp, Twilio, SMTP';
COMMENT ON COLUMN integrations.account_id IS 'the account that owns the row';
COMMENT ON COLUMN integrations.kind IS 'whatsapp, twilio or smtp';
COMMENT ON COLUMN integrations.settings IS 'its fields, credentials among them, as JSON encrypted with ENCRYPTION_KEY';
COMMENT ON COLUMN integrations.created_at IS 'when it was set up';
COMMENT ON COLUMN integrations.updated_at IS 'when it was last changed';

CREATE TABLE disabled_targets (
    account_id BIGINT NOT NULL,
    target TEXT NOT NULL,
    reason TEXT NOT NULL,
    run_id UUID NOT NULL,
    disabled_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT disabled_targets_pkey PRIMARY KEY (account_id, target),
    CONSTRAINT disabled_targets_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE disabled_targets IS 'targets of http steps that answered 410 and are not called until a person enables them';
COMMENT ON COLUMN disabled_targets.account_id IS 'the account that owns the row';
COMMENT ON COLUMN disabled_targets.target IS 'the URL without its query';
COMMENT ON COLUMN disabled_targets.reason IS 'why, in words';
COMMENT ON COLUMN disabled_targets.run_id IS 'the run that found out';
COMMENT ON COLUMN disabled_targets.disabled_at IS 'since when';
"""


def upgrade() -> None:
    op.execute(TABLES)
