"""The audit log, and the functions that alone delete and mask its rows.

A trigger refuses UPDATE and DELETE to every role that is not the owner of the table, whatever is granted to it: the role of the
processes adds rows and reads them. The functions run with the rights of the owner.

Locks: none; the table and the functions are new.
Safe with the previous code: yes, it does not know them. Its changes are not in the log.
"""

from alembic import op

revision = "0018"
down_revision = "0017"

TABLE = """
CREATE TABLE audit_log (
    id UUID NOT NULL,
    account_id BIGINT,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT NOT NULL,
    via TEXT NOT NULL,
    action TEXT NOT NULL,
    object_type TEXT NOT NULL,
    object_id TEXT,
    before JSONB,
    after JSONB,
    request_id TEXT,
    CONSTRAINT audit_log_pkey PRIMARY KEY (id),
    CONSTRAINT audit_log_via_check CHECK (via IN ('cli', 'http', 'console', 'worker'))
);
COMMENT ON TABLE audit_log IS
    'who changed what in the configuration, and when; only added to, by the transaction that makes the change';
COMMENT ON COLUMN audit_log.id IS 'UUIDv7: sorts by time of the change';
COMMENT ON COLUMN audit_log.account_id IS 'the account that was changed; null: the change concerns no single one';
COMMENT ON COLUMN audit_log.at IS 'when';
COMMENT ON COLUMN audit_log.actor IS 'who: a person at the command line, an OAuth client (cl_…) or an API key (sb_PREFIX)';
COMMENT ON COLUMN audit_log.via IS 'through what: cli, http, console, or worker (Signalbox by itself)';
COMMENT ON COLUMN audit_log.action IS 'the type of the object and what was done to it, such as workflow.disable';
COMMENT ON COLUMN audit_log.object_type IS 'workflow, key, integration, …: the action up to its dot';
COMMENT ON COLUMN audit_log.object_id IS 'the name or id of the object in its account; null: several objects';
COMMENT ON COLUMN audit_log.before IS 'what has changed, as it was, without secrets; null: not known or nothing';
COMMENT ON COLUMN audit_log.after IS 'what has changed, as it is now, without secrets; null: the object is gone';
COMMENT ON COLUMN audit_log.request_id IS 'X-Request-Id of the request that made the change; null: none did';
CREATE INDEX audit_log_account_idx ON audit_log (account_id, id);
CREATE INDEX audit_log_object_idx ON audit_log (object_id, account_id, id);
"""

# The first schema is that of the tables: a schema that another role can write to must not come before it.
SETTINGS = "SET search_path = {schema}, pg_temp"

KEEP = """
CREATE FUNCTION keep_audit_log() RETURNS trigger LANGUAGE plpgsql {settings} AS $$
BEGIN
    IF NOT pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE pg_class.oid = TG_RELID), 'USAGE') THEN
        RAISE insufficient_privilege USING MESSAGE = 'rows of audit_log cannot be changed or deleted';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION keep_audit_log IS 'refuses changes of the audit log to all roles but its owner';
CREATE TRIGGER audit_log_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_log();
"""

# An id of the time is the end of the range of the index: without it, a call that finds nothing would read all rows of an account.
DELETE = """
CREATE FUNCTION delete_audit_log(account bigint, older_than timestamptz, at_most bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER {settings} SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    until timestamptz := least(older_than, now() - interval '30 days');
    end_id uuid := (lpad(to_hex(floor(extract(epoch FROM until) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;
    deleted bigint;
BEGIN
    DELETE FROM audit_log WHERE id = ANY (ARRAY(
        SELECT id FROM audit_log
        WHERE (account_id = account OR account IS NULL AND account_id IS NULL) AND id < end_id AND at < until
        ORDER BY id LIMIT at_most
    ));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
COMMENT ON FUNCTION delete_audit_log IS
    'deletes the oldest rows of an account (null: of none), none younger than 30 days; how many';
"""

MASK = """
CREATE FUNCTION mask_in_json(value jsonb, pattern text) RETURNS jsonb LANGUAGE sql IMMUTABLE {settings} AS $$
    SELECT CASE jsonb_typeof(value)
        WHEN 'object' THEN (
            SELECT coalesce(jsonb_object_agg(regexp_replace(key, pattern, '***', 'g'), mask_in_json(member, pattern)), '{{}}')
            FROM jsonb_each(value) AS members (key, member))
        WHEN 'array' THEN (
            SELECT coalesce(jsonb_agg(mask_in_json(member, pattern) ORDER BY number), '[]')
            FROM jsonb_array_elements(value) WITH ORDINALITY AS members (member, number))
        WHEN 'string' THEN to_jsonb(regexp_replace(value #>> '{{}}', pattern, '***', 'g'))
        ELSE value END
$$;
COMMENT ON FUNCTION mask_in_json IS 'a JSON value with *** in place of what matches in its texts and names';
"""

ERASE = """
CREATE FUNCTION erase_from_audit_log(account bigint, whose text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER {settings} AS $$
DECLARE
    escaped text := regexp_replace(whose, '([^[:alnum:]])', '\\\\\\1', 'g');
    -- The subject as a word of its own; a short one, such as 1, only as a whole text.
    pattern text := CASE WHEN length(whose) < 5 THEN '^' || escaped || '$'
        ELSE '(?<![[:alnum:]])' || escaped || '(?![[:alnum:]])' END;
    -- The URL of a target may name the person whose run disabled it.
    targets text[] := ARRAY(
        SELECT object_id FROM audit_log JOIN runs ON runs.account_id = account AND runs.id::text = after ->> 'run'
        WHERE audit_log.account_id = account AND object_type = 'target' AND distinct_id = whose
    );
    changed bigint;
BEGIN
    UPDATE audit_log SET before = mask_in_json(before, pattern), after = mask_in_json(after, pattern),
        object_id = CASE WHEN object_type <> 'target' THEN object_id WHEN object_id = ANY (targets) THEN '***'
            ELSE regexp_replace(object_id, pattern, '***', 'g') END
    WHERE account_id = account AND (mask_in_json(before, pattern) IS DISTINCT FROM before
        OR mask_in_json(after, pattern) IS DISTINCT FROM after
        OR object_type = 'target' AND (object_id ~ pattern OR object_id = ANY (targets)));
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;
COMMENT ON FUNCTION erase_from_audit_log IS 'masks the id of a subject in the audit log of an account; in how many rows';
"""

FUNCTIONS = (
    "keep_audit_log()",
    "delete_audit_log(bigint, timestamptz, bigint)",
    "mask_in_json(jsonb, text)",
    "erase_from_audit_log(bigint, text)",
)


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(TABLE)
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
    for text in (KEEP, DELETE, MASK, ERASE):
        connection.exec_driver_sql(text.format(settings=SETTINGS.format(schema=schema)))
    for function in FUNCTIONS:
        connection.exec_driver_sql(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP TABLE audit_log")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
