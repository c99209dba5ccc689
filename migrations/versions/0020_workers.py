"""Which workers there are, and when each was last seen.

Locks: none; the table is new.
Safe with the previous code: yes, it neither reads nor writes the table. Its workers are not in it: until they are replaced, `/readyz`
reports that no worker has been seen.
"""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE workers (
            id UUID NOT NULL,
            host TEXT NOT NULL,
            pid INTEGER NOT NULL,
            version TEXT NOT NULL,
            started_at TIMESTAMP WITH TIME ZONE NOT NULL,
            seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
            stopped_at TIMESTAMP WITH TIME ZONE,
            CONSTRAINT workers_pkey PRIMARY KEY (id)
        );
        COMMENT ON TABLE workers IS 'the workers of the last 30 days; one is alive if it has not stopped and was seen in the last minute';
        COMMENT ON COLUMN workers.id IS 'made at its start; jobs.worker_id names it';
        COMMENT ON COLUMN workers.host IS 'name of its host';
        COMMENT ON COLUMN workers.pid IS 'process id there';
        COMMENT ON COLUMN workers.version IS 'its release';
        COMMENT ON COLUMN workers.started_at IS 'when it was first seen';
        COMMENT ON COLUMN workers.seen_at IS 'its last heartbeat, which also extends the leases of its jobs';
        COMMENT ON COLUMN workers.stopped_at IS 'when it was told to stop and had finished its jobs; null: it runs, or it died';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE workers")
