"""Views of `ops` over the tables of the last migrations: refused requests, changes of workflows, workers, growth. Version 2.

Locks: none that matter; the views are new, and that of the version is replaced.
Safe with the previous code: yes, it does not know the schema.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

# Each view: its comment, its columns (name, expression, comment), and where they come from.
VIEWS = {
    "refusals_recent": (
        "the latest 1,000 refused requests of each account, of the last 7 days; all that are kept are in refusals",
        [
            ("account_id", "accounts.id", "the account that owns the row"),
            ("account", "accounts.slug", "its slug"),
            ("id", "refused.id", "id of the refusal (UUIDv7)"),
            ("refused_at", "refused.refused_at", "when the request was refused"),
            (
                "sender",
                "coalesce("
                "(SELECT name FROM keys WHERE keys.account_id = accounts.id AND keys.prefix = refused.key_prefix), "
                "(SELECT name FROM clients WHERE clients.account_id = accounts.id "
                "AND clients.token_prefix = refused.key_prefix), "
                "(SELECT name FROM access_tokens JOIN clients ON clients.account_id = access_tokens.account_id "
                "AND clients.id = access_tokens.client_id "
                "WHERE access_tokens.account_id = accounts.id AND access_tokens.prefix = refused.key_prefix))",
                "name of its API key or OAuth client; null: it is gone",
            ),
            ("key_prefix", "refused.key_prefix", "public part of the key or access token"),
            ("route", "refused.route", "path of the request, without its query"),
            ("status", "refused.status", "HTTP status of the response; 207: some items of a batch were refused"),
            (
                "type",
                "refused.type",
                "problem type, such as validation-failed; of a batch that of its first refused item",
            ),
            ("detail", "refused.detail", "what was wrong, in words"),
            ("errors", "refused.errors", "the faults, as [{field, message}]; null: none are listed"),
            ("items", "refused.items", "the refused items of a batch; null: the whole request was refused"),
            ("request_id", "refused.request_id", "X-Request-Id of the response"),
            ("replayable", "refused.replayable", "false where a part of the body is missing"),
            ("replayed_at", "refused.replayed_at", "when it was accepted by a replay; null: was not"),
            ("replayed_event_id", "refused.replayed_event_id", "the event, or the first one, of that replay"),
            ("not_kept", "refused.not_kept", "further refusals of the account that followed and were not kept"),
        ],
        """
        FROM accounts CROSS JOIN LATERAL (
            SELECT id, refused_at, key_prefix, route, status, type, detail, errors, items, request_id, replayable,
                replayed_at, replayed_event_id, not_kept
            FROM refusals
            WHERE refusals.account_id = accounts.id AND refusals.id >= ops.first_id_at(now() - interval '7 days')
            ORDER BY refusals.id DESC LIMIT 1000
        ) AS refused
        """,
    ),
    "workflow_changes": (
        "who created, changed, enabled, disabled and deleted workflows, from audit_log",
        [
            ("account_id", "accounts.id", "the account that owns the workflow"),
            ("account", "accounts.slug", "its slug"),
            ("at", "audit_log.at", "when"),
            ("workflow", "audit_log.object_id", "name of the workflow"),
            (
                "change",
                "split_part(audit_log.action, '.', 2)",
                "what was done: create, change, enable, disable, delete",
            ),
            (
                "actor",
                "audit_log.actor",
                "who: a person at the command line, an OAuth client (cl_…) or an API key (sb_…)",
            ),
            ("via", "audit_log.via", "through what: cli, http, console, or worker (Signalbox by itself)"),
            ("before", "audit_log.before", "what has changed, as it was; null: nothing"),
            ("after", "audit_log.after", "what has changed, as it is now; null: the workflow is gone"),
            ("request_id", "audit_log.request_id", "X-Request-Id of the request that made the change; null: none did"),
            ("id", "audit_log.id", "id of the row in audit_log (UUIDv7)"),
        ],
        "FROM audit_log JOIN accounts ON accounts.id = audit_log.account_id WHERE audit_log.object_type = 'workflow'",
    ),
    "workers": (
        "the workers of the last 30 days, and whether each runs",
        [
            ("id", "workers.id", "id of the worker"),
            ("host", "workers.host", "name of its host"),
            ("pid", "workers.pid", "process id there"),
            ("version", "workers.version", "its release"),
            (
                "state",
                "CASE WHEN workers.stopped_at IS NOT NULL THEN 'stopped' "
                "WHEN workers.seen_at > now() - interval '1 minute' THEN 'running' ELSE 'lost' END",
                "running (seen in the last minute), stopped, or lost (it died, or cannot reach the database)",
            ),
            ("jobs", "coalesce(claimed.jobs, 0)", "how many jobs it has claimed"),
            ("started_at", "workers.started_at", "when it was first seen"),
            ("seen_at", "workers.seen_at", "when it was last seen"),
            ("stopped_at", "workers.stopped_at", "when it stopped; null: it runs, or it died"),
        ],
        """
        FROM workers LEFT JOIN (
            SELECT worker_id, count(*) AS jobs FROM jobs
            WHERE due_at <= now() + interval '1 hour' AND worker_id IS NOT NULL GROUP BY worker_id
        ) AS claimed ON claimed.worker_id = workers.id
        """,
    ),
    "table_growth": (
        "how the tables and the partitions of events grow, from table_sizes_daily",
        [
            ("table_name", "latest.table_name", "the table or partition; events: the sum of its partitions"),
            ("day", "latest.day", "the last day on which its size was recorded"),
            ("rows", "nullif(latest.row_estimate, -1)", "estimated rows on that day; null: not known"),
            ("bytes", "latest.bytes", "the size of all on that day"),
            ("growth_7_days", "latest.bytes - week.bytes", "by how much it has grown in 7 days; null: it is younger"),
            (
                "growth_30_days",
                "latest.bytes - month.bytes",
                "by how much it has grown in 30 days; null: it is younger",
            ),
        ],
        """
        FROM table_sizes_daily AS latest
        LEFT JOIN table_sizes_daily AS week ON week.table_name = latest.table_name AND week.day = latest.day - 7
        LEFT JOIN table_sizes_daily AS month ON month.table_name = latest.table_name AND month.day = latest.day - 30
        WHERE latest.day = (SELECT max(day) FROM table_sizes_daily WHERE table_name = 'accounts')
        """,
    ),
}


def upgrade() -> None:
    for name, (comment, columns, source) in VIEWS.items():
        create_view(name, comment, columns, source)
    execute("CREATE OR REPLACE VIEW ops.version WITH (security_invoker) AS SELECT 2 AS version")


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


def downgrade() -> None:
    execute("CREATE OR REPLACE VIEW ops.version WITH (security_invoker) AS SELECT 1 AS version")
    for name in VIEWS:
        execute(f"DROP VIEW ops.{name}")
