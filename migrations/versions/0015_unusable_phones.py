"""What an account does with an event whose phone number cannot be used: refuse it, as before, or store it without the number.

Locks: `accounts` ACCESS EXCLUSIVE for the moment of the transaction (a column with a constant default: no row is rewritten).
Safe with the previous code: yes, its default is what the code does.
"""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE accounts ADD COLUMN unusable_phone TEXT DEFAULT 'refuse' NOT NULL, "
        "ADD CONSTRAINT accounts_unusable_phone_check CHECK (unusable_phone IN ('refuse', 'store'))"
    )
    op.execute(
        "COMMENT ON COLUMN accounts.unusable_phone IS "
        "'what becomes of an event whose phone cannot be used: refuse it, or store it with the phone in extra'"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE accounts DROP COLUMN unusable_phone")
