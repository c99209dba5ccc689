"""Indexes of the API keys and OAuth clients of an account by their age, in place of those of the account alone, so that a page of
a list sorts nothing.

Locks: none that anybody waits for (the indexes are built and dropped concurrently).
Safe with the previous code: yes, the new indexes begin with the account, too. Broken off on the way, it goes on when it is run
again.
"""

from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table, identity in (("keys", "prefix"), ("clients", "id")):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {table}_created_at_idx")
            op.execute(
                f"CREATE INDEX CONCURRENTLY {table}_created_at_idx ON {table} (account_id, created_at, {identity})"
            )
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {table}_account_id_idx")


def downgrade() -> None:
    for table in ("keys", "clients"):
        op.execute(f"CREATE INDEX {table}_account_id_idx ON {table} (account_id)")
        op.execute(f"DROP INDEX {table}_created_at_idx")
