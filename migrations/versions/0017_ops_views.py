"""The schema `ops`: views for people who look after Signalbox, with a version, and a comment on each view and column.

The names and types of their columns are a promise (docs/sql.md). A later migration adds views and columns, and then makes
`ops.version` one greater; it does not rename or remove any. Comments on columns of tables that used old words are replaced.

Locks: none that matter; views and a schema are new, and comments lock out neither readers nor writers.
Safe with the previous code: yes, it does not know the schema.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

FIRST_ID_AT = """
CREATE FUNCTION ops.first_id_at(since timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    lpad(to_hex(floor(extract(epoch FROM since) * 1000000)::bigint / 1000), 12, '0') || '7'
    || lpad(to_hex(floor(extract(epoch FROM since) * 1000000)::bigint % 1000 * 4096 / 1000), 3, '0')
    || '8000000000000000'
)::uuid;
COMMENT ON FUNCTION ops.first_id_at IS
    'the smallest id (UUIDv7) of a time: earlier ids are smaller, later ones are not; bounds a query by an index on id';
"""

# Each view: its comment, its columns (name, expression, comment), and where they come from. A subquery for each account, with a
# limit or a GROUP BY, is executed by the index that begins with account_id, whatever the planner believes about the table.
VIEWS = {
    "version": (
        "the version of this schema; grows with each view or column that is added",
        [("version", "1", "the version")],
        "",
    ),
    "events_recent": (
        "the latest 1,000 events of each account, not older than 24 hours; look for others in events",
        [
            ("account_id", "accounts.id", "the account that owns the row"),
            ("account", "accounts.slug", "its slug"),
            ("id", "event.id", "id of the event (UUIDv7)"),
            ("received_at", "event.received_at", "when the event was accepted"),
            ("event", "event.event", "name of the event"),
            ("distinct_id", "event.distinct_id", "whom the event is about (the subject)"),
            ("phone", "event.phone", "the phone number of the subject; null: not sent"),
            ("data", "event.data", "the data object as sent"),
            ("extra", "event.extra", "unknown top-level fields of the request; null: none"),
            ("warnings", "event.warnings", "warnings in the response to the sender; null: none"),
            (
                "runs_started",
                "coalesce(jsonb_array_length(jsonb_path_query_array(event.decisions, '$[*] ? (@.started == true)')), 0)",
                "how many runs it started",
            ),
            ("decisions", "event.decisions", "what each workflow that looked concluded, and why; null: none looked"),
        ],
        """
        FROM accounts CROSS JOIN LATERAL (
            SELECT id, received_at, event, distinct_id, phone, data, extra, warnings, decisions FROM events
            WHERE events.account_id = accounts.id AND events.id >= ops.first_id_at(now() - interval '24 hours')
            AND events.received_at >= now() - interval '24 hours'
            ORDER BY events.id DESC LIMIT 1000
        ) AS event
        """,
    ),
    "events_per_minute": (
        "how many events of each name each account sent in each minute of the last hour",
        [
            ("account_id", "accounts.id", "the account that owns the events"),
            ("account", "accounts.slug", "its slug"),
            ("minute", "counted.minute", "the minute, by its begin"),
            ("event", "counted.event", "name of the events"),
            ("events", "counted.events", "how many were accepted"),
        ],
        """
        FROM accounts CROSS JOIN LATERAL (
            SELECT date_trunc('minute', received_at) AS minute, event, count(*) AS events FROM events
            WHERE events.account_id = accounts.id AND events.id >= ops.first_id_at(now() - interval '1 hour')
            AND events.received_at >= now() - interval '1 hour'
            GROUP BY 1, 2
        ) AS counted
        """,
    ),
    "runs_failed": (
        "the latest 1,000 failed runs of each account, by their start",
        [
            ("account_id", "accounts.id", "the account that owns the row"),
            ("account", "accounts.slug", "its slug"),
            ("run_id", "run.id", "the run"),
            ("workflow", "workflows.name", "name of its workflow; null: the workflow was deleted"),
            ("version", "run.version", "the version of the workflow"),
            ("distinct_id", "run.distinct_id", "the subject"),
            ("event_id", "run.event_id", "the event that started it"),
            ("at", "run.at", "path of the step that failed, such as steps[1]"),
            ("error", "run.error", "why it failed, in one line"),
            (
                "error_class",
                "latest.error_class",
                "one word for what went wrong in its last attempt, such as timeout or http_5xx; null: no attempt failed",
            ),
            ("started_at", "run.created_at", "when it was started"),
            ("finished_at", "run.finished_at", "when it failed"),
        ],
        """
        FROM accounts CROSS JOIN LATERAL (
            SELECT id, workflow_id, version, distinct_id, event_id, at, error, created_at, finished_at FROM runs
            WHERE runs.account_id = accounts.id AND runs.status = 'failed' AND runs.parent_id IS NULL
            ORDER BY runs.id DESC LIMIT 1000
        ) AS run
        LEFT JOIN workflows ON workflows.account_id = accounts.id AND workflows.id = run.workflow_id
        LEFT JOIN LATERAL (
            SELECT error_class FROM attempts WHERE attempts.account_id = accounts.id AND attempts.run_id = run.id
            ORDER BY ordinal DESC, attempt DESC LIMIT 1
        ) AS latest ON true
        """,
    ),
    "runs_stuck": (
        "runs and blocks of runs whose job has been due for five minutes and has not been done",
        [
            ("account_id", "runs.account_id", "the account that owns the row"),
            ("account", "accounts.slug", "its slug"),
            ("run_id", "runs.id", "the run or block"),
            ("root_id", "runs.root_id", "of a block of par: the run that it belongs to; null: it is a run"),
            ("workflow", "workflows.name", "name of its workflow; null: the workflow was deleted"),
            ("distinct_id", "runs.distinct_id", "the subject"),
            ("at", "runs.at", "path of its current step, such as steps[1]"),
            ("attempt", "runs.attempt", "failed attempts of the step so far"),
            ("due_at", "runs.wake_at", "since when it is due"),
            (
                "reason",
                "CASE WHEN jobs.id IS NULL THEN 'it has no job' "
                "WHEN jobs.worker_id IS NULL AND jobs.due_at > now() THEN 'its job has failed and is tried again later' "
                "WHEN jobs.worker_id IS NULL THEN 'no worker has claimed its job' "
                "WHEN jobs.due_at <= now() THEN 'the worker of its job does not respond' "
                "ELSE 'a worker is executing it' END",
                "what its job waits for",
            ),
            ("job_failures", "jobs.attempts", "how often its job has failed; null: it has no job"),
            (
                "deaths",
                "cardinality(jobs.dead_workers) + cardinality(jobs.dead_alone)",
                "how many processes died while they executed it; null: it has no job",
            ),
            ("worker_id", "jobs.worker_id", "the worker that has claimed its job; null: none"),
            ("held_by", "runs.held_by", "the target whose circuit breaker holds it back; null: none"),
        ],
        """
        FROM runs
        JOIN accounts ON accounts.id = runs.account_id
        LEFT JOIN workflows ON workflows.account_id = runs.account_id AND workflows.id = runs.workflow_id
        LEFT JOIN jobs ON jobs.dedupe_key = runs.account_id || ':' || runs.id || ':' || runs.job
        WHERE runs.status = 'running' AND runs.wake_at < now() - interval '5 minutes'
        """,
    ),
    "runs_waiting": (
        "runs and blocks of runs that wait for a time, an event, or their next attempt",
        [
            ("account_id", "runs.account_id", "the account that owns the row"),
            ("account", "accounts.slug", "its slug"),
            ("run_id", "runs.id", "the run or block"),
            ("root_id", "runs.root_id", "of a block of par: the run that it belongs to; null: it is a run"),
            ("workflow", "workflows.name", "name of its workflow; null: the workflow was deleted"),
            ("version", "runs.version", "the version of the workflow"),
            ("distinct_id", "runs.distinct_id", "the subject"),
            ("at", "runs.at", "path of the step in which it waits, such as steps[1]; null: past the last one"),
            (
                "action",
                "(SELECT steps.action FROM steps WHERE steps.account_id = runs.account_id AND steps.run_id = runs.id "
                "AND steps.ordinal = runs.ordinal)",
                "what the step does, such as wait or wait_for; null: it was not begun",
            ),
            ("attempt", "runs.attempt", "failed attempts of the step so far"),
            ("wake_at", "runs.wake_at", "when it goes on at the latest"),
            ("held_by", "runs.held_by", "the target whose circuit breaker holds it back; null: none"),
            ("started_at", "runs.created_at", "when it was started"),
        ],
        """
        FROM runs
        JOIN accounts ON accounts.id = runs.account_id
        LEFT JOIN workflows ON workflows.account_id = runs.account_id AND workflows.id = runs.workflow_id
        WHERE runs.status = 'running' AND runs.wake_at > now()
        """,
    ),
    "deliveries_by_target": (
        "what was sent by runs that started in the last 24 hours, by target, and how it was answered",
        [
            ("account_id", "accounts.id", "the account that owns the runs"),
            ("account", "accounts.slug", "its slug"),
            (
                "target",
                "sent.target",
                "method and URL without its query; * for parts of the path that look like an id, a name or a secret",
            ),
            ("attempts", "sent.attempts", "how many attempts were made"),
            ("done", "sent.done", "how many of them succeeded"),
            ("retried", "sent.retried", "how many failed and are tried again"),
            ("failed", "sent.failed", "how many failed for good"),
            ("median_seconds", "sent.median_seconds", "how long an attempt takes (median)"),
            ("last_done_at", "sent.last_done_at", "end of the last attempt that succeeded; null: none did"),
            ("last_failed_at", "sent.last_failed_at", "end of the last attempt that did not; null: all did"),
            ("last_error", "sent.last_error", "its error; null: all succeeded"),
        ],
        """
        FROM accounts CROSS JOIN LATERAL (
            SELECT concat(request ->> 'method', ' ', substring(request ->> 'url' FROM '^[^:]+://[^/?#]*'),
                    regexp_replace(substring(request ->> 'url' FROM '^[^:]+://[^/?#]*([^?#]*)'),
                        '[^/]*([0-9]{3}|[@%])[^/]*|[^/]{25,}', '*', 'g')) AS target,
                count(*) AS attempts, count(*) FILTER (WHERE outcome = 'done') AS done,
                count(*) FILTER (WHERE outcome = 'retry') AS retried, count(*) FILTER (WHERE outcome = 'failed') AS failed,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)::float)
                    AS median_seconds,
                max(finished_at) FILTER (WHERE outcome = 'done') AS last_done_at,
                max(finished_at) FILTER (WHERE outcome <> 'done') AS last_failed_at,
                (array_agg(error ORDER BY finished_at DESC) FILTER (WHERE outcome <> 'done'))[1] AS last_error
            FROM attempts
            WHERE attempts.account_id = accounts.id AND attempts.run_id >= ops.first_id_at(now() - interval '24 hours')
            AND request IS NOT NULL
            GROUP BY 1
        ) AS sent
        """,
    ),
    "circuits_open": (
        "targets that are not called as usual: they keep failing, or answered 410 and are disabled",
        [
            ("account_id", "accounts.id", "the account that owns the row"),
            ("account", "accounts.slug", "its slug"),
            (
                "target",
                "found.target",
                "a method and a URL without its query, a host, a WhatsApp template, or a sender",
            ),
            ("state", "found.state", "failing (called only now and then) or disabled (until a person enables it)"),
            ("since", "found.since", "since when"),
            ("failures", "found.failures", "how often it has failed in a row; null: it is disabled"),
            ("retry_at", "found.retry_at", "when it is called next; null: it is disabled"),
            ("runs_held", "found.runs_held", "how many runs wait for it; null: it is disabled"),
            ("reason", "found.reason", "why it was disabled; null: it is not"),
            ("run_id", "found.run_id", "the run that disabled it; null: it is not disabled"),
        ],
        """
        FROM accounts JOIN (
            SELECT circuit.account_id, target, 'failing' AS state, opened_at AS since, failures, retry_at,
                held.runs AS runs_held, NULL AS reason, NULL::uuid AS run_id
            FROM open_circuits AS circuit CROSS JOIN LATERAL (
                SELECT count(*) AS runs FROM runs
                WHERE runs.account_id = circuit.account_id AND held_by = circuit.target AND status = 'running'
            ) AS held
            WHERE retry_at > now() - interval '10 minutes' OR held.runs > 0
            UNION ALL
            SELECT account_id, target, 'disabled', disabled_at, NULL, NULL, NULL, reason, run_id FROM disabled_targets
        ) AS found ON found.account_id = accounts.id
        """,
    ),
    "subjects_in_progress": (
        "subjects that have come a part of the way in an enabled workflow whose pattern needs several events",
        [
            ("account_id", "progress.account_id", "the account that owns the row"),
            ("account", "accounts.slug", "its slug"),
            ("workflow", "workflows.name", "name of the workflow"),
            ("subject", "progress.subject", "whose progress: distinct_id, or the value that the workflow's key names"),
            (
                "events",
                "(SELECT count(*) FROM jsonb_object_keys(progress.progress -> 'events'))",
                "how many events its partial matches use",
            ),
            ("last_event_at", "progress.last_event_at", "the last event that the workflow looked at"),
            (
                "deadline",
                "progress.deadline",
                "when the workflow starts, unless an event disarms it before; null: it waits for an event",
            ),
            ("lapses_at", "progress.lapses_at", "when all its windows are over; null: it does not lapse by itself"),
            ("progress", "progress.progress", "the partial matches"),
        ],
        """
        FROM progress
        JOIN accounts ON accounts.id = progress.account_id
        JOIN workflows ON workflows.account_id = progress.account_id AND workflows.id = progress.workflow_id
            AND workflows.enablement = progress.enablement AND workflows.enabled_version IS NOT NULL
        WHERE progress.progress <> '{}' AND (progress.lapses_at IS NULL OR progress.lapses_at > now())
        """,
    ),
    "latency": (
        "how long runs of the last hour took, by workflow",
        [
            ("account_id", "accounts.id", "the account that owns the runs"),
            ("account", "accounts.slug", "its slug"),
            ("workflow", "workflows.name", "name of the workflow; null: it was deleted"),
            ("runs", "took.runs", "how many runs started"),
            ("ended", "took.ended", "how many of them have ended"),
            ("begin_p50_seconds", "took.begin[1]", "from the start of a run to the begin of its first step: median"),
            ("begin_p95_seconds", "took.begin[2]", "the same: 95th percentile"),
            ("begin_p99_seconds", "took.begin[3]", "the same: 99th percentile"),
            ("end_p50_seconds", "took.total[1]", "from the start of a run to its end, waits included: median"),
            ("end_p95_seconds", "took.total[2]", "the same: 95th percentile"),
            ("end_p99_seconds", "took.total[3]", "the same: 99th percentile"),
        ],
        """
        FROM accounts CROSS JOIN LATERAL (
            SELECT runs.workflow_id, count(*) AS runs, count(runs.finished_at) AS ended,
                percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP
                    (ORDER BY extract(epoch FROM first.started_at - runs.created_at)::float) AS begin,
                percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP
                    (ORDER BY extract(epoch FROM runs.finished_at - runs.created_at)::float) AS total
            FROM runs
            LEFT JOIN LATERAL (
                SELECT started_at FROM steps
                WHERE steps.account_id = runs.account_id AND steps.run_id = runs.id AND steps.ordinal = 0 LIMIT 1
            ) AS first ON true
            WHERE runs.account_id = accounts.id AND runs.id >= ops.first_id_at(now() - interval '1 hour')
            AND runs.parent_id IS NULL
            GROUP BY runs.workflow_id
        ) AS took
        LEFT JOIN workflows ON workflows.account_id = accounts.id AND workflows.id = took.workflow_id
        """,
    ),
    "backlog": (
        "the jobs of the queue that are due, claimed, or due within an hour, by kind; a kind without such jobs has no row",
        [
            ("kind", "kind", "what the jobs are for: run, event or deadline"),
            ("due", "count(*) FILTER (WHERE worker_id IS NULL AND due_at <= now())", "how many wait for a worker"),
            (
                "oldest_due_at",
                "min(due_at) FILTER (WHERE worker_id IS NULL AND due_at <= now())",
                "since when the oldest of them waits; null: none waits",
            ),
            (
                "oldest_due_seconds",
                "extract(epoch FROM now() - min(due_at) FILTER (WHERE worker_id IS NULL AND due_at <= now()))::float",
                "for how long; null: none waits",
            ),
            ("claimed", "count(*) FILTER (WHERE worker_id IS NOT NULL)", "how many a worker has claimed"),
            (
                "due_within_hour",
                "count(*) FILTER (WHERE worker_id IS NULL AND due_at > now())",
                "how many become due within the next hour: the ends of waits, and retries",
            ),
            ("failing", "count(*) FILTER (WHERE attempts > 0)", "how many have failed before"),
        ],
        "FROM jobs WHERE due_at <= now() + interval '1 hour' GROUP BY kind",
    ),
    "usage_by_account": (
        "the plan of each account, and what it has used in the last 24 hours",
        [
            ("account_id", "accounts.id", "the account"),
            ("account", "accounts.slug", "its slug"),
            ("plan", "accounts.plan", "its plan"),
            (
                "events_per_second",
                "accounts.events_per_second",
                "its rate, where that is not the plan's; null: the plan's",
            ),
            ("plan_ends_at", "accounts.plan_ends_at", "events are refused from then on; null: no end"),
            ("disabled_at", "accounts.disabled_at", "when it was disabled; null: it is not"),
            ("events_last_hour", "received.last_hour", "events accepted in the last hour"),
            ("events_last_24_hours", "received.last_24_hours", "events accepted in the last 24 hours"),
            ("last_event_at", "latest.received_at", "when its last event was accepted; null: there is none"),
            ("runs_last_24_hours", "started.runs", "runs started in the last 24 hours"),
            ("runs_running", "coalesce(running.runs, 0)", "runs and blocks of runs that have not ended"),
        ],
        """
        FROM accounts CROSS JOIN LATERAL (
            SELECT count(*) AS last_24_hours, count(*) FILTER (WHERE received_at >= now() - interval '1 hour') AS last_hour
            FROM events
            WHERE events.account_id = accounts.id AND events.id >= ops.first_id_at(now() - interval '24 hours')
            AND events.received_at >= now() - interval '24 hours'
        ) AS received CROSS JOIN LATERAL (
            SELECT count(*) AS runs FROM runs
            WHERE runs.account_id = accounts.id AND runs.id >= ops.first_id_at(now() - interval '24 hours')
            AND runs.parent_id IS NULL
        ) AS started LEFT JOIN (
            SELECT account_id, count(*) AS runs FROM runs WHERE runs.status = 'running' GROUP BY account_id
        ) AS running ON running.account_id = accounts.id LEFT JOIN LATERAL (
            SELECT received_at FROM events WHERE events.account_id = accounts.id ORDER BY events.id DESC LIMIT 1
        ) AS latest ON true
        """,
    ),
    "table_sizes": (
        "the size of each table and partition; a partitioned table has the sum of its partitions",
        [
            ("table_name", "class.relname::text", "the table or partition"),
            ("partition_of", "parent.relname::text", "the table that it is a partition of; null: none"),
            (
                "rows",
                "CASE WHEN class.reltuples >= 0 THEN class.reltuples::bigint END",
                "estimated rows; null: not known yet",
            ),
            ("total_bytes", "size.total", "the size of all"),
            ("table_bytes", "size.total - size.indexes", "the size without indexes"),
            ("index_bytes", "size.indexes", "the size of the indexes"),
            ("dead_rows", "statistics.n_dead_tup", "rows that wait for vacuum; null: of a partitioned table"),
            (
                "vacuumed_at",
                "greatest(statistics.last_vacuum, statistics.last_autovacuum)",
                "when it was last vacuumed; null: never",
            ),
            ("description", "obj_description(class.oid, 'pg_class')", "what it is for"),
        ],
        """
        FROM pg_class AS class
        CROSS JOIN LATERAL (
            SELECT sum(pg_total_relation_size(part.oid))::bigint AS total, sum(pg_indexes_size(part.oid))::bigint AS indexes
            FROM (SELECT class.oid UNION SELECT relid FROM pg_partition_tree(class.oid)) AS part (oid)
        ) AS size
        LEFT JOIN pg_inherits ON inhrelid = class.oid
        LEFT JOIN pg_class AS parent ON parent.oid = inhparent
        LEFT JOIN pg_stat_all_tables AS statistics ON statistics.relid = class.oid
        WHERE class.relkind IN ('r', 'p')
        AND class.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
        """,
    ),
}
# New and previous text.
COMMENTS = {
    "COLUMN access_tokens.client_id": ("the client that it was made for", "the client that asked for it"),
    "COLUMN accounts.plan_ends_at": (
        "events are refused from then on; null: no end",
        "events are refused from this moment on; null: no end",
    ),
    "COLUMN augments.number": (
        "1 is AU1; they are used in this order",
        "1 is AU1; they are asked in this order",
    ),
    "COLUMN augments.url": (
        "api: the URL that is called; null: of a file",
        "api: where it is asked; null: of a file",
    ),
    "COLUMN augments.method": (
        "api: the method of the call; GET: the key is in the query, POST: the whole event is the body",
        "api: how it is asked; GET: the key in the query, POST: the whole event",
    ),
    "COLUMN events.warnings": (
        "warnings in the response to the sender; null: none",
        "what the sender was told about the event beside success; null: nothing",
    ),
    "COLUMN messages.run_id": (
        "the run that made it",
        "the run that said it",
    ),
    "COLUMN messages.ordinal": (
        "the step that made it, by its ordinal in the run",
        "the step that said it, by its ordinal in the run",
    ),
    "COLUMN messages.text": (
        "its text",
        "what it says",
    ),
    "COLUMN progress.enablement": (
        "the enablement of the workflow that it belongs to; progress of an older one counts as none",
        "the workflow's enablement in which it stands; an older one counts as none",
    ),
    "COLUMN progress.progress": (
        "the partial matches, as app/workflows/matching/progress_json.py describes them; {}: none",
        "the partial matches, as app/workflows/matching/state_json.py describes them; {}: none",
    ),
    "COLUMN progress.last_event_at": (
        "received_at of the last event that the workflow looked at",
        "the last event that was looked at; later ones are later",
    ),
    "COLUMN runs.forgiven": (
        "how many of these do not count, because a person retried the run",
        "how many of these do not count, since a person had it retried",
    ),
    "COLUMN runs.job": (
        "number of the job that may advance it",
        "number of the queue job that may move it",
    ),
    "COLUMN runs.match_key": (
        "what it was started for, unique per workflow: the id of the last matched event, with its deadline if one fired; of a block its parent's, with its number there",
        "what it was started for, unique per workflow: the id of the last matched event, with its deadline if one fired; of a block its parent's, with its place there",
    ),
    "COLUMN runs.rounds": (
        "rounds begun of the repeat that it is in",
        "rounds begun of the repeat in which it stands",
    ),
    "COLUMN runs.turn": (
        "grows with each change; a worker that has seen an older number changes nothing",
        "grows with every settled change; guards against two workers",
    ),
    "COLUMN runs.updated_at": (
        "when it was last changed",
        "when it last moved",
    ),
    "COLUMN steps.finished_at": (
        "when it ended; null: it has not",
        "when it was settled; null: it is not",
    ),
    "COLUMN steps.path": (
        "path of the step in the document, such as steps[1]",
        "where the step stands in the document, such as steps[1]",
    ),
    "TABLE messages": (
        "messages of message steps of the last 30 days; the account's stream delivers them",
        "what message steps said in the last 30 days; delivered by the account's stream",
    ),
    "TABLE workflows": (
        "workflows by name; their documents are in workflow_versions",
        "workflows by name; what they say is in workflow_versions",
    ),
}


def upgrade() -> None:
    # Not IF NOT EXISTS: a role that may not create schemas may own this one.
    if execute("SELECT to_regnamespace('ops')").scalar() is None:
        execute("CREATE SCHEMA ops")
    execute("COMMENT ON SCHEMA ops IS 'views for people who look after Signalbox; see docs/sql.md'")
    execute(FIRST_ID_AT)
    for name, (comment, columns, source) in VIEWS.items():
        create_view(name, comment, columns, source)
    replace_comments(new=True)


def execute(statement: str) -> sa.CursorResult[Any]:
    return op.get_bind().execute(sa.text(statement))


def create_view(name: str, comment: str, columns: list[tuple[str, str, str]], source: str) -> None:
    """A view with the rights of whoever reads it."""
    selected = ", ".join(f"{expression} AS {column}" for column, expression, _ in columns)
    execute(f"CREATE VIEW ops.{name} WITH (security_invoker) AS SELECT {selected} {source}")
    set_comment(f"VIEW ops.{name}", comment)
    for column, _, text in columns:
        set_comment(f"COLUMN ops.{name}.{column}", text)


def set_comment(what: str, text: str) -> None:
    quoted = text.replace("'", "''")
    execute(f"COMMENT ON {what} IS '{quoted}'")


def replace_comments(*, new: bool) -> None:
    partitions = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
    names = list(execute(partitions).scalars())
    for what, (now, before) in COMMENTS.items():
        set_comment(what, now if new else before)
        # A partition has comments of its own.
        if what.startswith("COLUMN events."):
            for name in names:
                set_comment(what.replace("events", name, 1), now if new else before)


def downgrade() -> None:
    replace_comments(new=False)
    for name in VIEWS:
        execute(f"DROP VIEW ops.{name}")
    execute("DROP FUNCTION ops.first_id_at(timestamptz)")
    execute("DROP SCHEMA ops")
