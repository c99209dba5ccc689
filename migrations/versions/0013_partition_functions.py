"""Functions that create the partitions of `events`, and turn a filled default partition into a partition of its months.

They run with the rights of the role that runs this migration, so that the role of the processes needs no DDL. Nobody else may
execute them until it is granted (docs/deploying.md).

Locks: none; functions are new.
Safe with the previous code: yes, it creates partitions by statements of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

# The first schema is that of the tables: a schema that another role can write to must not come before it.
SETTINGS = "SET search_path = {schema}, pg_temp SET timezone = 'UTC' SET lock_timeout = '{wait}'"

PARTITIONS = """
CREATE FUNCTION events_partitions() RETURNS TABLE (name text, starts timestamptz, ends timestamptz)
LANGUAGE sql {settings} AS $$
    SELECT child.relname::text, bounds[1]::timestamptz, bounds[2]::timestamptz
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid,
        regexp_match(pg_get_expr(child.relpartbound, child.oid), $re$FROM \\('([^']+)'\\) TO \\('([^']+)'\\)$re$) AS bounds
    WHERE inhparent = 'events'::regclass
$$;
COMMENT ON FUNCTION events_partitions IS 'the partitions of events with a range, and their ranges';
"""

NAME = """
CREATE FUNCTION events_partition_name(starts timestamptz, ends timestamptz) RETURNS text
LANGUAGE plpgsql {settings} AS $$
DECLARE
    chosen text := to_char(starts, '"events_"YYYY_MM');
BEGIN
    IF ends > starts + interval '1 month' THEN
        chosen := chosen || to_char(ends - interval '1 day', '"_to_"YYYY_MM');
    END IF;
    -- A partition that somebody has detached keeps its name.
    WHILE to_regclass(chosen) IS NOT NULL LOOP
        chosen := chosen || '_more';
    END LOOP;
    RETURN chosen;
END $$;
COMMENT ON FUNCTION events_partition_name IS 'a name for a new partition of events';
"""

DESCRIBE = """
CREATE FUNCTION describe_events_partition(name text, starts timestamptz, ends timestamptz) RETURNS void
LANGUAGE plpgsql {settings} AS $$
BEGIN
    -- Its rows never change: the first vacuum freezes them, and later ones skip them.
    EXECUTE format('ALTER TABLE %I SET (autovacuum_freeze_min_age = 0)', name);
    EXECUTE format('COMMENT ON TABLE %I IS %L', name, 'events received from ' || to_char(starts, 'YYYY-MM-DD') || ' until '
        || to_char(ends, 'YYYY-MM-DD') || ' (UTC)');
END $$;
COMMENT ON FUNCTION describe_events_partition IS 'sets what each partition of events has';
"""

MAKE = """
CREATE FUNCTION make_events_partitions(months timestamptz[]) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER {settings} AS $$
DECLARE
    first timestamptz;
    name text;
    made text[] := '{{}}';
BEGIN
    FOR first IN SELECT DISTINCT date_trunc('month', month) FROM unnest(months) AS month ORDER BY 1 LOOP
        CONTINUE WHEN EXISTS (SELECT FROM events_partitions() WHERE first >= starts AND first < ends);
        PERFORM pg_advisory_xact_lock(hashtext('signalbox partitions'));
        -- Events in the default partition would make attaching fail: clear_events_default comes first.
        CONTINUE WHEN EXISTS (SELECT FROM events_partitions() WHERE first >= starts AND first < ends)
            OR EXISTS (SELECT FROM events_default WHERE received_at >= first AND received_at < first + interval '1 month');
        name := events_partition_name(first, first + interval '1 month');
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING ALL)', name);
        PERFORM describe_events_partition(name, first, first + interval '1 month');
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            name, first, first + interval '1 month');
        made := made || name;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION make_events_partitions IS 'creates the missing partitions of these months; their names';
"""

CONVERT = """
CREATE FUNCTION convert_events_default(starts timestamptz, ends timestamptz, constraint_name text) RETURNS text
LANGUAGE plpgsql {settings} AS $$
DECLARE
    name text := events_partition_name(starts, ends);
    index_name text;
BEGIN
    ALTER TABLE events DETACH PARTITION events_default;
    EXECUTE format('ALTER TABLE events_default RENAME TO %I', name);
    FOR index_name IN SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = to_regclass(name)
        AND starts_with(indexrelid::regclass::text, 'events_default_') LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', index_name, replace(index_name, 'events_default_', name || '_'));
    END LOOP;
    PERFORM describe_events_partition(name, starts, ends);
    -- The constraint implies the range, so that no row is read.
    EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, starts, ends);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', name, constraint_name);
    CREATE TABLE events_default (LIKE events INCLUDING ALL);
    COMMENT ON TABLE events_default IS 'events whose month has no partition yet; should stay empty';
    ALTER TABLE events ATTACH PARTITION events_default DEFAULT;
    RETURN name;
END $$;
COMMENT ON FUNCTION convert_events_default IS 'turns the default partition into that of a range, and creates an empty one';
"""

MOVE = """
CREATE FUNCTION move_month_of_events_default(starts timestamptz) RETURNS text
LANGUAGE plpgsql {settings} AS $$
DECLARE
    ends timestamptz := starts + interval '1 month';
    name text := events_partition_name(starts, ends);
BEGIN
    LOCK TABLE events_default IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING ALL)', name);
    PERFORM describe_events_partition(name, starts, ends);
    EXECUTE format('WITH moved AS (DELETE FROM events_default WHERE received_at >= %L AND received_at < %L RETURNING *) '
        'INSERT INTO %I SELECT * FROM moved', starts, ends, name);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, starts, ends);
    RETURN name;
END $$;
COMMENT ON FUNCTION move_month_of_events_default IS 'moves the rows of one month from the default partition to a new one';
"""

CLEAR = """
CREATE FUNCTION clear_events_default(at timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER {settings} AS $$
DECLARE
    bounds record;
    oldest timestamptz;
    newest timestamptz;
    starts timestamptz;
    ends timestamptz;
    next_starts timestamptz;
    is_empty boolean;
    -- Whether new events go to the default partition.
    in_use boolean;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('signalbox partitions')) THEN
        RETURN NULL;
    END IF;
    SELECT conname AS name, convalidated AS checked, parts[1]::timestamptz AS starts, parts[2]::timestamptz AS ends
    INTO bounds FROM pg_constraint, regexp_match(conname, '^events_default_from_([0-9-]+)_to_([0-9-]+)$') AS parts
    WHERE conrelid = 'events_default'::regclass AND parts IS NOT NULL;
    is_empty := NOT EXISTS (SELECT FROM events_default);
    in_use := NOT EXISTS (SELECT FROM events_partitions() AS one WHERE at >= one.starts AND at < one.ends);
    IF bounds.name IS NOT NULL AND (is_empty OR in_use AND at + interval '1 hour' > bounds.ends) THEN
        -- It would soon refuse events.
        EXECUTE format('ALTER TABLE events_default DROP CONSTRAINT %I', bounds.name);
        RETURN 'dropped ' || bounds.name;
    ELSIF is_empty THEN
        RETURN NULL;
    ELSIF bounds.checked THEN
        RETURN convert_events_default(bounds.starts, bounds.ends, bounds.name);
    ELSIF bounds.name IS NOT NULL THEN
        BEGIN
            -- Reads all rows and blocks no reader or writer.
            EXECUTE format('ALTER TABLE events_default VALIDATE CONSTRAINT %I', bounds.name);
        EXCEPTION WHEN check_violation THEN
            -- Rows came in after the bounds were chosen, from a host whose clock is days ahead.
            EXECUTE format('ALTER TABLE events_default DROP CONSTRAINT %I', bounds.name);
        END;
        RETURN 'checked ' || bounds.name;
    END IF;
    SELECT min(received_at), max(received_at) INTO oldest, newest FROM events_default;
    SELECT min(one.starts) INTO next_starts FROM events_partitions() AS one WHERE one.starts > oldest;
    starts := date_trunc('month', oldest);
    IF newest >= next_starts OR in_use AND at >= next_starts THEN
        RETURN move_month_of_events_default(starts);
    END IF;
    IF in_use THEN
        newest := greatest(newest, at + interval '1 day');
    END IF;
    ends := least(date_trunc('month', newest) + interval '1 month', next_starts);
    EXECUTE format('ALTER TABLE events_default ADD CONSTRAINT %I CHECK (received_at >= %L AND received_at < %L) NOT VALID',
        format('events_default_from_%s_to_%s', starts::date, ends::date), starts, ends);
    RETURN 'bounded';
END $$;
COMMENT ON FUNCTION clear_events_default IS
    'does the next step of turning a filled default partition into one with a range; what it did, null: nothing to do';
"""

# What one call may wait for a lock. While a statement waits for a lock on `events`, events wait behind it.
WAITS = {PARTITIONS: "1s", NAME: "1s", DESCRIBE: "1s", MAKE: "2s", CONVERT: "500ms", MOVE: "500ms", CLEAR: "500ms"}
FUNCTIONS = (
    "events_partitions()",
    "events_partition_name(timestamptz, timestamptz)",
    "describe_events_partition(text, timestamptz, timestamptz)",
    "make_events_partitions(timestamptz[])",
    "convert_events_default(timestamptz, timestamptz, text)",
    "move_month_of_events_default(timestamptz)",
    "clear_events_default(timestamptz)",
)


def upgrade() -> None:
    connection = op.get_bind()
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
    for text, wait in WAITS.items():
        connection.execute(sa.text(text.format(settings=SETTINGS.format(schema=schema, wait=wait))))
    for function in FUNCTIONS:
        connection.exec_driver_sql(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
