"""An index of the deliveries of each source: the console lists and counts them by source.

Locks: none that anybody waits for (the index is built concurrently).
Safe with the previous code: yes. Broken off on the way, it goes on when it is run again.
"""

from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS deliveries_source_idx")
        op.execute("CREATE INDEX CONCURRENTLY deliveries_source_idx ON deliveries (account_id, source_id, id)")


def downgrade() -> None:
    op.execute("DROP INDEX deliveries_source_idx")
