"""An index of the runs at each step of a workflow, from which the console counts who waits where.

Locks: none that anybody waits for (the index is built concurrently).
Safe with the previous code: yes, it keeps the index up to date. Broken off on the way, it goes on when it is run again.
"""

from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS runs_steps_idx")
        op.execute(
            "CREATE INDEX CONCURRENTLY runs_steps_idx ON runs (account_id, workflow_id, at, id) WHERE status = 'running'"
        )


def downgrade() -> None:
    op.execute("DROP INDEX runs_steps_idx")
