"""Retention per account and kind, receipts of erasures, and the sizes of tables, day by day.

Locks: `accounts` SHARE ROW EXCLUSIVE for the moment of two foreign keys. The settings for autovacuum take SHARE UPDATE EXCLUSIVE, which
stops neither readers nor writers. The indexes on `runs` and `keyed_events` are built concurrently.
Safe with the previous code: yes, it neither reads nor writes what is new, and nothing is deleted until a retention is set. Broken
off on the way, it goes on when it is run again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

TABLES = """
CREATE TABLE IF NOT EXISTS account_retention (
    account_id BIGINT NOT NULL,
    kind TEXT NOT NULL,
    keep INTERVAL,
    changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT account_retention_pkey PRIMARY KEY (account_id, kind),
    CONSTRAINT account_retention_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE account_retention IS 'how long accounts keep each kind of rows; a kind without a row has its default';
COMMENT ON COLUMN account_retention.account_id IS 'the account that owns the row';
COMMENT ON COLUMN account_retention.kind IS 'what is kept, such as events or runs';
COMMENT ON COLUMN account_retention.keep IS 'how long rows are kept; null: for ever';
COMMENT ON COLUMN account_retention.changed_at IS 'when it was set';

CREATE TABLE IF NOT EXISTS erasure_receipts (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    subject_hash BYTEA NOT NULL,
    counts JSONB NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT NOT NULL,
    CONSTRAINT erasure_receipts_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT erasure_receipts_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE erasure_receipts IS 'which data subjects were erased: proof for who knows the id, nothing for others';
COMMENT ON COLUMN erasure_receipts.account_id IS 'the account that owns the row';
COMMENT ON COLUMN erasure_receipts.id IS 'UUIDv7: sorts by time of the erasure';
COMMENT ON COLUMN erasure_receipts.subject_hash IS 'HMAC-SHA256 of the erased distinct_id, with a key made of the account''s signing secret; the id itself is kept nowhere';
COMMENT ON COLUMN erasure_receipts.counts IS 'how many rows of each table were deleted, and in how many texts were removed';
COMMENT ON COLUMN erasure_receipts.at IS 'when the erasure was complete';
COMMENT ON COLUMN erasure_receipts.actor IS 'who called for it';

CREATE TABLE IF NOT EXISTS table_sizes_daily (
    table_name TEXT NOT NULL,
    day DATE NOT NULL,
    row_estimate BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    CONSTRAINT table_sizes_daily_pkey PRIMARY KEY (table_name, day)
);
COMMENT ON TABLE table_sizes_daily IS 'sizes of all tables, once a day, for 400 days: how they grow';
COMMENT ON COLUMN table_sizes_daily.table_name IS 'the table, or a partition of events; events: the sum of its partitions';
COMMENT ON COLUMN table_sizes_daily.day IS 'the day (UTC)';
COMMENT ON COLUMN table_sizes_daily.row_estimate IS 'how many rows it has, as PostgreSQL estimates; -1: never counted';
COMMENT ON COLUMN table_sizes_daily.bytes IS 'its size on disk, with indexes and TOAST';
"""

# The first schema is that of the tables, as in migration 0013. While DROP TABLE waits for its lock on `events`, events wait behind it.
DROP = """
CREATE OR REPLACE FUNCTION drop_events_partition(name text, at timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp SET timezone = 'UTC' SET lock_timeout = '300ms' AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('signalbox partitions')) THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM events_partitions() AS one WHERE one.name = drop_events_partition.name
            AND one.ends <= least(at, now())) THEN
        RAISE 'events has no partition % that has ended', name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    BEGIN
        EXECUTE format('DROP TABLE %I', name);
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    RETURN true;
END $$;
COMMENT ON FUNCTION drop_events_partition IS 'drops a partition of events whose months have ended; false: it is in use, call again later';
REVOKE ALL ON FUNCTION drop_events_partition(text, timestamptz) FROM PUBLIC;
"""
INDEXES = {
    "runs_matched_idx": "runs USING gin (matched) WHERE status = 'running' AND cardinality(matched) > 1",
    "keyed_events_event_idx": "keyed_events (account_id, event_id)",
}
# Deleted a thousand at a time: a fifth of a large table (the default) would be too many dead rows.
VACUUM = "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000"
VACUUMED = ("steps", "attempts", "keyed_events", "messages")


def upgrade() -> None:
    connection = op.get_bind()
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
    connection.execute(sa.text(TABLES))
    connection.execute(sa.text(DROP.format(schema=schema)))
    for table in VACUUMED:
        op.execute(f"ALTER TABLE {table} SET ({VACUUM})")
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    for table in VACUUMED:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
    op.execute("DROP FUNCTION drop_events_partition(text, timestamptz)")
    op.execute("DROP TABLE table_sizes_daily, erasure_receipts, account_retention")
