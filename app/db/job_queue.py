"""What the house does with PgQueuer's tables beside working on its jobs: orphans, leftovers, and a look at the backlog."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog

from app.core.durations import RETENTION

_log = structlog.get_logger()
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
    found = len(rows.all())
    if found:
        _log.warning("runs without a job were given one", runs=found)
    return found


def wake_parents_of_nobody(connection: sa.Connection, now: datetime) -> int:
    """Make due each run that waits for its blocks though none of them runs; how many there were.

    The statement that ends a block wakes its parent; like `enqueue_orphans` this is the net below it. That one gives them
    a job.
    """
    return connection.execute(
        sa.text(
            "UPDATE runs SET wake_at = :now, blocks_left = NULL WHERE status = 'running' AND wake_at IS NULL "
            "AND updated_at < :before AND NOT EXISTS (SELECT FROM runs AS block WHERE block.account_id = runs.account_id "
            "AND block.parent_id = runs.id AND block.status = 'running')"
        ),
        {"now": now, "before": now - ORPHANED_AFTER},
    ).rowcount


def cancel_runs_without_workflow(connection: sa.Connection, now: datetime) -> int:
    """End the runs that were started while their workflow was being deleted; how many."""
    return connection.execute(
        sa.text(
            "UPDATE runs SET status = 'cancelled', error = 'its workflow was deleted', turn = turn + 1, wake_at = NULL, "
            "finished_at = :now, updated_at = :now "
            "WHERE status = 'running' AND (wake_at < :before OR wake_at IS NULL) AND updated_at < :before AND NOT EXISTS ("
            "SELECT FROM workflows WHERE workflows.account_id = runs.account_id AND workflows.id = runs.workflow_id)"
        ),
        {"now": now, "before": now - ORPHANED_AFTER},
    ).rowcount


def enqueue_overdue_deadlines(connection: sa.Connection, now: datetime) -> int:
    """Give a job to each deadline that should have fired a minute ago and has none; how many there were.

    Like `enqueue_orphans` a net below: deadlines of workflows that are disabled, or were since, are not armed any more.
    """
    rows = connection.execute(
        sa.text(
            "INSERT INTO pgqueuer (priority, entrypoint, status, dedupe_key, payload) "
            "SELECT 0, 'deadline', 'queued', 'deadline:' || payload, convert_to(payload, 'UTF8') "
            "FROM progress JOIN workflows ON workflows.account_id = progress.account_id "
            "AND workflows.id = progress.workflow_id AND enabled_version IS NOT NULL "
            "AND workflows.enablement = progress.enablement, LATERAL (SELECT progress.account_id || ':' || workflow_id "
            "|| ':' || translate(encode(convert_to(subject, 'UTF8'), 'base64'), E'+/\n', '-_')) AS job (payload) "
            "WHERE deadline < :before LIMIT 1000 "
            "ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL DO NOTHING "
            "RETURNING 1"
        ),
        {"before": now - ORPHANED_AFTER},
    )
    return len(rows.all())


def prune_queue_log(connection: sa.Connection, now: datetime) -> None:
    """Drop the queue's log entries of more than ten minutes ago and its statistics that are older than RETENTION."""
    connection.execute(
        sa.text("DELETE FROM pgqueuer_log WHERE created < :before"), {"before": now - timedelta(minutes=10)}
    )
    connection.execute(sa.text("DELETE FROM pgqueuer_statistics WHERE created < :before"), {"before": now - RETENTION})


def forget_old_idempotency_keys(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of idempotency keys that are older than RETENTION; how many."""
    return connection.execute(
        sa.text(
            "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY("
            "SELECT ctid FROM idempotency_keys WHERE received_at < :before LIMIT 10000))"
        ),
        {"before": now - RETENTION},
    ).rowcount
