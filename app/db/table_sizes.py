"""The sizes of all tables, once a day: how they grow. That of `events` is the sum of its partitions."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from app.db.connection import run_sql

_KEPT_FOR = timedelta(days=400)
# Of two workers that record at the same time, one does. A table that is dropped meanwhile has no size.
_RECORD = """
INSERT INTO table_sizes_daily (table_name, day, row_estimate, bytes)
SELECT relname, CAST(:day AS date), size.rows, size.bytes FROM pg_class CROSS JOIN LATERAL (
    SELECT CAST(coalesce(sum(part.reltuples) FILTER (WHERE part.reltuples >= 0 AND part.relkind = 'r'), -1) AS bigint) AS rows,
        CAST(coalesce(sum(pg_total_relation_size(part.oid)), 0) AS bigint) AS bytes
    FROM pg_class AS part
    WHERE part.oid = pg_class.oid OR part.oid IN (SELECT relid FROM pg_partition_tree(pg_class.oid))
) AS size
WHERE relkind IN ('r', 'p') AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = CAST('events' AS regclass))
    AND NOT EXISTS (SELECT FROM table_sizes_daily WHERE table_name = 'accounts' AND day = CAST(:day AS date))
ON CONFLICT (table_name, day) DO NOTHING
"""


def record_table_sizes(connection: sa.Connection, now: datetime) -> int:
    """Record the sizes of all tables and partitions unless that was done on this day (UTC), and delete those older than 400 days;
    how many were recorded."""
    recorded = run_sql(connection, _RECORD, {"day": now.date()}).rowcount
    if recorded:
        run_sql(connection, "DELETE FROM table_sizes_daily WHERE day < :before", {"before": (now - _KEPT_FOR).date()})
    return recorded
