"""The table `workers`: which workers there are, and when each was last seen."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

import app
from app.db.connection import (
    Database,
    PgConnection,
    delete_batch,
    execute,
    run_sql,
    unavailable_on_transient_errors,
)

HOST = socket.gethostname()
# A worker is alive if it has not stopped and was seen within this time. The server's clock decides, not those of the hosts.
ALIVE_WITHIN = timedelta(minutes=1)
_KEPT_FOR = timedelta(days=30)


def record_heartbeat(connection: PgConnection, worker_id: UUID) -> None:
    """Record that this process, as a worker with this id, is alive now. Raises Unavailable."""
    with unavailable_on_transient_errors():
        execute(
            connection,
            "INSERT INTO workers (id, host, pid, version, started_at, seen_at) VALUES (%s, %s, %s, %s, now(), now()) "
            "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
            (str(worker_id), HOST, os.getpid(), app.__version__),
        )


def record_stop(database: Database, worker_id: UUID) -> None:
    """Record that a worker has stopped. Raises Unavailable."""
    database.execute("UPDATE workers SET stopped_at = now() WHERE id = %s", (str(worker_id),))


def count_alive(connection: sa.Connection) -> int:
    """How many workers are alive."""
    query = "SELECT count(*) FROM workers WHERE stopped_at IS NULL AND seen_at > now() - CAST(:within AS interval)"
    found: int = run_sql(connection, query, {"within": ALIVE_WITHIN}).scalar_one()
    return found


def forget_old_workers(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of workers that were last seen 30 days ago; how many."""
    return delete_batch(connection, "workers", "seen_at < :before", {"before": now - _KEPT_FOR})
