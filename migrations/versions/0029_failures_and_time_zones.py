"""What failed runs are grouped by, indexes of the console's filters of runs, and the time zone of an account.

Locks: `runs` and `accounts`, ACCESS EXCLUSIVE for the moment of a transaction (columns that may be null, or have a constant default:
no row is rewritten); none that anybody waits for while the indexes are built concurrently.
Safe with the previous code: yes, it names the columns that it writes and reads. Runs that it lets fail have neither a target nor a class;
a run that it retries keeps those of its failure until it fails again. Broken off on the way, it goes on when it is run again.
"""

from alembic import op

revision = "0029"
down_revision = "0028"

INDEXES = {
    "runs_failures_idx": "runs (account_id, error_target, error_class, id) WHERE status = 'failed'",
    "runs_ended_early_idx": "runs (account_id, id) WHERE status IN ('cancelled', 'exited')",
    "runs_workflow_idx": "runs (account_id, workflow_id, id) INCLUDE (status) WHERE parent_id IS NULL",
}


def upgrade() -> None:
    op.execute("ALTER TABLE runs ADD COLUMN IF NOT EXISTS error_target TEXT, ADD COLUMN IF NOT EXISTS error_class TEXT")
    op.execute(
        "COMMENT ON COLUMN runs.error_target IS "
        "'of a failed run: the target of the call that failed, as circuit breakers name it; null: no call failed'"
    )
    op.execute(
        "COMMENT ON COLUMN runs.error_class IS "
        "'of a failed run: one word for what went wrong, such as timeout or http_5xx; null: not recorded'"
    )
    op.execute("ALTER TABLE accounts ADD COLUMN IF NOT EXISTS time_zone TEXT DEFAULT 'UTC' NOT NULL")
    op.execute(
        "COMMENT ON COLUMN accounts.time_zone IS 'in which people enter times in the console, such as Asia/Kolkata'"
    )
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    op.execute("ALTER TABLE runs DROP COLUMN error_target, DROP COLUMN error_class")
    op.execute("ALTER TABLE accounts DROP COLUMN time_zone")
