"""Events of a rare name are found at once, however many there are; autovacuum fits how each table is used.

Locks: the index of each partition is built concurrently; `events` and its partitions are SHARE UPDATE EXCLUSIVE
meanwhile, `events` SHARE for a moment. The settings take SHARE UPDATE EXCLUSIVE, which stops neither readers nor writers.
Safe with the previous code: yes, it asks the same questions and gets the same answers. Broken off on the way, it goes on when
it is run again.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

# Serves find_latest_events by name.
COLUMNS = "(account_id, event, id)"
# Rows of events never change: frozen when they are first looked at, they need never be again.
FROZEN = "autovacuum_freeze_min_age = 0"
SETTINGS = {
    # PgQueuer thinks that its log only grows; ours is pruned every ten seconds, and what is pruned has to be cleared away.
    "pgqueuer_log": "autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 10000",
    "pgqueuer_statistics": "autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 10000",
    # Each event of a pattern, each step of a run leaves a dead row: a fifth of a large table would be too many.
    "progress": "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000",
    "runs": "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000",
    # Deleted by the ten thousand once they are old.
    "idempotency_keys": "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 10000",
}
PARTITIONS = """
SELECT child.relname FROM pg_inherits
JOIN pg_class AS child ON child.oid = inhrelid WHERE inhparent = 'events'::regclass ORDER BY 1
"""


def upgrade() -> None:
    connection = op.get_bind()
    partitions = [name for (name,) in connection.exec_driver_sql(PARTITIONS)]
    for table, settings in {**SETTINGS, **dict.fromkeys(partitions, FROZEN)}.items():
        op.execute(f"ALTER TABLE {table} SET ({settings})")
    with op.get_context().autocommit_block():
        op.execute(f"CREATE INDEX IF NOT EXISTS events_name_idx ON ONLY events {COLUMNS}")
        for partition in partitions:
            own = f"{partition}_name_idx"
            if not _is_whole(own):
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {own}")
                op.execute(f"CREATE INDEX CONCURRENTLY {own} ON {partition} {COLUMNS}")
            op.execute(f"ALTER INDEX events_name_idx ATTACH PARTITION {own}")


def _is_whole(index: str) -> bool:
    found = op.get_bind().exec_driver_sql(f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')")
    return found.scalar() is True
