"""What the house does with PgQueuer's tables beside working on its jobs: orphans, leftovers, and a look at the backlog."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

ORPHANED_AFTER = timedelta(seconds=60)


def enqueue_orphans(connection: sa.Connection, now: datetime) -> int:
    """Give a job to each run that should have moved a minute ago but has none in the queue; how many there were.

    It takes a lost queue row to make an orphan, which the code tries never to do; this is the net below. The unique
    dedupe key sees to it that two sweeps at once enqueue one job.
    """
    rows = connection.execute(
        sa.text(
            "INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload) "
            "SELECT 0, 'run', 'queued', name.text, convert_to(name.text, 'UTF8') "
            "FROM runs, LATERAL (SELECT account_id || ':' || id || ':' || job) AS name (text) "
            "WHERE status = 'running' AND wake_at < :before AND NOT EXISTS ("
            "  SELECT FROM pgqueuer WHERE dedupe_key = name.text AND pgqueuer.status IN ('queued', 'picked')) "
            "ORDER BY wake_at LIMIT 1000 "
            "ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL DO NOTHING "
            "RETURNING 1"
        ),
        {"before": now - ORPHANED_AFTER},
    )
    return len(rows.all())


def prune_queue_log(connection: sa.Connection, now: datetime) -> None:
    """Drop the queue's log entries of more than ten minutes ago and its statistics of more than 30 days ago."""
    connection.execute(
        sa.text("DELETE FROM pgqueuer_log WHERE created < :before"), {"before": now - timedelta(minutes=10)}
    )
    connection.execute(
        sa.text("DELETE FROM pgqueuer_statistics WHERE created < :before"), {"before": now - timedelta(days=30)}
    )


def forget_old_idempotency_keys(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of idempotency keys that were used more than 30 days ago; how many."""
    return connection.execute(
        sa.text(
            "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY("
            "SELECT ctid FROM idempotency_keys WHERE received_at < :before LIMIT 10000))"
        ),
        {"before": now - timedelta(days=30)},
    ).rowcount
