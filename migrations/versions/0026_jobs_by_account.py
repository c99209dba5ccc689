"""An index of the jobs of each account: a worker that is behind claims jobs of all accounts in turn.

Locks: none that anybody waits for (the index is built concurrently).
Safe with the previous code: yes, its statements name no account, and keep the index up to date. Broken off on the way, it goes on when
it is run again.
"""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_account_idx")
        op.execute("CREATE INDEX CONCURRENTLY jobs_account_idx ON jobs (split_part(payload, ':', 1), due_at, id)")


def downgrade() -> None:
    op.execute("DROP INDEX jobs_account_idx")
