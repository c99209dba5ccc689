"""The job queue is a table of our own, `jobs`, in place of PgQueuer's.

Locks: none that matter; everything is new. In a database without accounts, which nobody uses yet, PgQueuer's tables are dropped.
Safe with the previous code: yes, its processes go on with `pgqueuer`. Workers of this release move queued jobs from there to
`jobs` every ten seconds, so that waits and deadlines of the previous release are kept, and its web processes may run on. Stop
the workers of the previous release before workers of this one start. A later migration drops PgQueuer's tables.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

JOBS = """
CREATE TABLE jobs (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    dedupe_key TEXT,
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    worker_id UUID,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT jobs_pkey PRIMARY KEY (id),
    CONSTRAINT jobs_dedupe_key_key UNIQUE (dedupe_key)
) WITH (
    -- A job's row is updated when it is claimed and deleted soon after: vacuum early, without pauses.
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 500
);
CREATE INDEX jobs_due_at_idx ON jobs (due_at, id);
COMMENT ON TABLE jobs IS 'the job queue: what workers have to do, and when';
COMMENT ON COLUMN jobs.id IS 'number of the job';
COMMENT ON COLUMN jobs.kind IS 'what it is for: run, event or deadline';
COMMENT ON COLUMN jobs.payload IS 'account:run:number, account:event, or account:workflow:subject (base64url)';
COMMENT ON COLUMN jobs.dedupe_key IS 'at most one job has it; null: there may be several such jobs';
COMMENT ON COLUMN jobs.due_at IS 'when a worker may claim it (the timer of waits and retries); of a claimed job, when its lease expires';
COMMENT ON COLUMN jobs.attempts IS 'how often it has failed';
COMMENT ON COLUMN jobs.worker_id IS 'the worker that has claimed it; null: none';
COMMENT ON COLUMN jobs.created_at IS 'when it was enqueued';

CREATE FUNCTION notify_of_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY jobs;
    RETURN NULL;
END $$;
-- Workers look by themselves every five seconds: jobs that are due later than that need no notification.
CREATE TRIGGER jobs_notify AFTER INSERT ON jobs
    FOR EACH ROW WHEN (NEW.due_at < now() + interval '10 seconds') EXECUTE FUNCTION notify_of_jobs();
"""
DROP = """
DROP TABLE pgqueuer, pgqueuer_log, pgqueuer_schedules, pgqueuer_statistics;
DROP FUNCTION fn_pgqueuer_changed;
DROP TYPE pgqueuer_status;
"""


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(JOBS)
    if not connection.exec_driver_sql("SELECT EXISTS (SELECT FROM accounts)").scalar():
        connection.exec_driver_sql(DROP)
