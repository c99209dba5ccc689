"""`ops.workers` says of the same workers that they run as `/readyz` does, and an index of the deliveries that were not simply accepted.

Locks: the view, ACCESS EXCLUSIVE for the moment of a transaction; none that anybody waits for while the index is built concurrently.
Safe with the previous code: yes, it does not read the view. Its workers are seen every 15 seconds at least. Broken off on the way, it
goes on when it is run again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"

_VIEW = """
CREATE OR REPLACE VIEW ops.workers WITH (security_invoker) AS
SELECT workers.id, workers.host, workers.pid, workers.version,
    CASE WHEN workers.stopped_at IS NOT NULL THEN 'stopped' WHEN {running} THEN 'running' ELSE 'lost' END AS state,
    coalesce(claimed.jobs, 0) AS jobs, workers.started_at, workers.seen_at, workers.stopped_at
FROM workers LEFT JOIN (
    SELECT worker_id, count(*) AS jobs FROM jobs
    WHERE due_at <= now() + interval '1 hour' AND worker_id IS NOT NULL GROUP BY worker_id
) AS claimed ON claimed.worker_id = workers.id;
COMMENT ON COLUMN ops.workers.state IS '{column}';
COMMENT ON TABLE workers IS 'the workers of the last 30 days; one is alive if it has not stopped{table}'
"""


def upgrade() -> None:
    op.get_bind().execute(
        sa.text(
            _VIEW.format(
                running="workers.seen_at > now() - interval '20 seconds' "
                "AND 'signalbox worker ' || workers.id IN (SELECT application_name FROM pg_stat_activity)",
                column="running (seen within 20 seconds, and connected), stopped, or lost (it died, is frozen, or cannot reach the "
                "database)",
                table=", is connected, and was seen within 20 seconds",
            )
        )
    )
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS deliveries_result_idx")
        op.execute(
            "CREATE INDEX CONCURRENTLY deliveries_result_idx ON deliveries (account_id, result, id) WHERE result <> 'accepted'"
        )


def downgrade() -> None:
    op.execute("DROP INDEX deliveries_result_idx")
    op.get_bind().execute(
        sa.text(
            _VIEW.format(
                running="workers.seen_at > now() - interval '1 minute'",
                column="running (seen in the last minute), stopped, or lost (it died, or cannot reach the database)",
                table=" and was seen in the last minute",
            )
        )
    )
