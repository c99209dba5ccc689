"""Jobs and workflows name the workers that died with them, and open circuit breakers are rows that people can list.

Locks: `jobs`, `runs` and `workflows` ACCESS EXCLUSIVE for a moment each (columns without a scan of the table); `accounts` SHARE ROW
EXCLUSIVE for the moment of a foreign key. The indexes on `jobs` and `runs` are built concurrently.
Safe with the previous code: yes, it neither reads nor writes what is new. Its workers count no deaths. Broken off on the way, it
goes on when it is run again.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

COLUMNS = (
    "ALTER TABLE jobs ADD COLUMN IF NOT EXISTS claim TEXT, "
    "ADD COLUMN IF NOT EXISTS dead_workers UUID[] DEFAULT '{}' NOT NULL, "
    "ADD COLUMN IF NOT EXISTS dead_alone UUID[] DEFAULT '{}' NOT NULL",
    "ALTER TABLE runs ADD COLUMN IF NOT EXISTS held_by TEXT",
    "ALTER TABLE workflows ADD COLUMN IF NOT EXISTS dead_workers UUID[] DEFAULT '{}' NOT NULL, "
    "ADD COLUMN IF NOT EXISTS isolated_until TIMESTAMP WITH TIME ZONE",
)
CIRCUITS = """
CREATE TABLE IF NOT EXISTS open_circuits (
    account_id BIGINT NOT NULL,
    target TEXT NOT NULL,
    failures INTEGER NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
    retry_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT open_circuits_pkey PRIMARY KEY (account_id, target),
    CONSTRAINT open_circuits_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE open_circuits IS 'targets that keep failing, which workers call only now and then';
COMMENT ON COLUMN open_circuits.account_id IS 'the account that owns the row';
COMMENT ON COLUMN open_circuits.target IS 'the target: a method and a URL without its query, a host, a WhatsApp template, or a sender';
COMMENT ON COLUMN open_circuits.failures IS 'how often it has failed in a row, as the worker that wrote last has seen it';
COMMENT ON COLUMN open_circuits.opened_at IS 'since when it is not called as usual';
COMMENT ON COLUMN open_circuits.retry_at IS 'when it is called next, to find out whether it works again';
"""
COMMENTS = """
COMMENT ON COLUMN jobs.claim IS 'how the worker executes it: alone, or stopping (the worker is about to end); null: with other jobs';
COMMENT ON COLUMN jobs.dead_workers IS 'workers that died while they executed it with other jobs';
COMMENT ON COLUMN jobs.dead_alone IS 'processes that died while they executed nothing else';
COMMENT ON COLUMN runs.held_by IS 'the target whose circuit breaker holds it back; null: none';
COMMENT ON COLUMN workflows.dead_workers IS 'workers that died while they executed runs of it, until one of its runs ends a job alone';
COMMENT ON COLUMN workflows.isolated_until IS 'until when its runs are executed alone, since one of them has killed its process; null: they are not';
"""
INDEXES = {
    "jobs_dead_workers_idx": "jobs (id) WHERE dead_workers <> '{}' OR dead_alone <> '{}'",
    "runs_held_by_idx": "runs (account_id, held_by) WHERE held_by IS NOT NULL",
}


def upgrade() -> None:
    for statement in (*COLUMNS, CIRCUITS, COMMENTS):
        op.execute(statement)
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")
