"""The table `workers`: which workers there are, and when each was last seen."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

import app
from app.core.durations import RETENTION
from app.db.connection import (
    Database,
    PgConnection,
    delete_batch,
    execute,
    run_sql,
    unavailable_on_transient_errors,
)
from app.db.job_queue import PRESENCE

HOST = socket.gethostname()
# A worker is alive if it has not stopped, was seen within this time (one that is frozen was not), and is present: of one that is
# killed, the kernel closes the connections at once, of a host that is gone Postgres does within 11 seconds. The server's clock
# decides, not those of the hosts.
ALIVE_WITHIN = timedelta(seconds=20)
_IS_ALIVE = f"""
stopped_at IS NULL AND seen_at > now() - CAST(:within AS interval)
    AND '{PRESENCE}' || id IN (SELECT application_name FROM pg_stat_activity)
"""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker that has not stopped: `running` or `lost`."""

    host: str
    pid: int
    version: str
    state: str
    seen_at: datetime


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
    query = f"SELECT count(*) FROM workers WHERE {_IS_ALIVE}"
    found: int = run_sql(connection, query, {"within": ALIVE_WITHIN}).scalar_one()
    return found


def list_workers(connection: sa.Connection, limit: int) -> list[WorkerRow]:
    """Workers that were seen within a day and have not stopped, the latest first."""
    rows = run_sql(
        connection,
        f"SELECT host, pid, version, CASE WHEN {_IS_ALIVE} THEN 'running' ELSE 'lost' END, seen_at FROM workers "
        "WHERE stopped_at IS NULL AND seen_at > now() - interval '1 day' ORDER BY seen_at DESC LIMIT :limit",
        {"within": ALIVE_WITHIN, "limit": limit},
    )
    return [WorkerRow(*row) for row in rows]


def forget_old_workers(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of workers that were last seen RETENTION ago; how many."""
    return delete_batch(connection, "workers", "seen_at < :before", {"before": now - RETENTION})
