"""When events happened: `occurred_at` of `events`, and of the view `ops.events_recent`, in version 3 of the schema `ops`.

Locks: `events` with its partitions, ACCESS EXCLUSIVE for the moment of the transaction (a column that may be null: no row is
rewritten).
Safe with the previous code: yes, it names the columns that it writes and reads. The events that it stores have no `occurred_at`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"

# A subquery for each account, with a limit, is executed by the index that begins with account_id.
_VIEW = """
VIEW ops.events_recent WITH (security_invoker) AS
SELECT accounts.id AS account_id, accounts.slug AS account, event.id, event.received_at, event.event, event.distinct_id,
    event.phone, event.data, event.extra, event.warnings,
    coalesce(jsonb_array_length(jsonb_path_query_array(event.decisions, '$[*] ? (@.started == true)')), 0) AS runs_started,
    event.decisions{event_more}
FROM accounts CROSS JOIN LATERAL (
    SELECT id, received_at, event, distinct_id, phone, data, extra, warnings, decisions{more} FROM events
    WHERE events.account_id = accounts.id AND events.id >= ops.first_id_at(now() - interval '24 hours')
    AND events.received_at >= now() - interval '24 hours'
    ORDER BY events.id DESC LIMIT 1000
) AS event
"""
_COMMENT = "'when the event happened, as its sender says; null: not sent'"
_COMMENT_PARTITIONS = f"""
DO $$
DECLARE
    part text;
BEGIN
    FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
        EXECUTE format('COMMENT ON COLUMN %s.occurred_at IS %L', part, {_COMMENT});
    END LOOP;
END $$
"""
_COMMENTS = """
SELECT format('COMMENT ON VIEW ops.events_recent IS %L', obj_description('ops.events_recent'::regclass, 'pg_class'))
UNION ALL
SELECT format('COMMENT ON COLUMN ops.events_recent.%I IS %L', attname, col_description(attrelid, attnum))
FROM pg_attribute WHERE attrelid = 'ops.events_recent'::regclass AND attnum > 0 AND attname <> 'occurred_at'
"""


def upgrade() -> None:
    op.execute("ALTER TABLE events ADD COLUMN occurred_at TIMESTAMP WITH TIME ZONE")
    op.execute(f"COMMENT ON COLUMN events.occurred_at IS {_COMMENT}")
    op.execute(_COMMENT_PARTITIONS)
    op.execute("CREATE OR REPLACE " + _VIEW.format(event_more=", event.occurred_at", more=", occurred_at"))
    op.execute(f"COMMENT ON COLUMN ops.events_recent.occurred_at IS {_COMMENT}")


def downgrade() -> None:
    comments = [statement for (statement,) in op.get_bind().execute(sa.text(_COMMENTS))]
    # A view loses no column otherwise. `signalbox db roles` grants the new view.
    op.execute("DROP VIEW ops.events_recent")
    op.execute("CREATE " + _VIEW.format(event_more="", more=""))
    for statement in comments:
        op.execute(sa.text(statement.replace(":", "\\:")))
    op.execute("ALTER TABLE events DROP COLUMN occurred_at")
