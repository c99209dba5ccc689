"""Drop the tables of PgQueuer, which `jobs` has replaced since release 0.2.0; the jobs that are left in them move to `jobs`.

Locks: `pgqueuer`, ACCESS EXCLUSIVE while its jobs are moved. Only housekeeping and erasures of releases since 0.2.0 use it.
Safe with the previous code: yes, since 0.2.0 it looks whether the tables exist before it names them. Processes of 0.1.0 need the tables:
stop them first.
"""

from alembic import op

revision = "0033"
down_revision = "0032"

# A job whose worker has stopped without it is still `picked`.
MOVE = """
LOCK TABLE pgqueuer;
INSERT INTO jobs (kind, payload, dedupe_key, due_at, attempts, created_at)
    SELECT entrypoint, convert_from(payload, 'UTF8'), dedupe_key, execute_after, attempts, created FROM pgqueuer
    WHERE status IN ('queued', 'picked') ORDER BY execute_after, id
    ON CONFLICT (dedupe_key) DO NOTHING;
"""
DROP = """
DROP TABLE pgqueuer, pgqueuer_log, pgqueuer_schedules, pgqueuer_statistics;
DROP FUNCTION fn_pgqueuer_changed;
DROP TYPE pgqueuer_status;
"""


def upgrade() -> None:
    connection = op.get_bind()
    # Databases that were created by a later release than 0.1.0 do not have them.
    if connection.exec_driver_sql("SELECT to_regclass('pgqueuer') IS NOT NULL").scalar():
        connection.exec_driver_sql(MOVE)
        connection.exec_driver_sql(DROP)


def downgrade() -> None:
    """Nothing: the previous release works without the tables."""
