"""Say in the comment of `events` what of a row can change.

Locks: `events` for the moment of the change; the comment is no part of a plan.
Safe with the previous code: yes.
"""

from alembic import op

revision = "0028"
down_revision = "0027"

KEPT = "every accepted event, one row each; what was sent is never changed; partitioned by month of received_at"
BEFORE = "every accepted event, one row each, never updated; partitioned by month of received_at"


def upgrade() -> None:
    op.execute(f"COMMENT ON TABLE events IS '{KEPT}'")


def downgrade() -> None:
    op.execute(f"COMMENT ON TABLE events IS '{BEFORE}'")
