"""Workflows, their versions and triggers, and the progress of subjects in their patterns."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from app.db.tables.columns import NOW, account_table, column, index, timestamp

workflows = account_table(
    "workflows",
    column("id", UUID(as_uuid=True), "id of the workflow"),
    column("name", sa.Text, "unique in the account; letters, digits, - and _"),
    column("enabled_version", sa.Integer, "the version that looks at events; null: disabled", null=True),
    column("latest_version", sa.Integer, "the newest version there is"),
    column(
        "enablement",
        sa.Integer,
        "grows each time a version is enabled or disabled; progress counts from then",
        default="0",
    ),
    timestamp("created_at", "when its first version was saved", default=NOW),
    timestamp("updated_at", "when it was last changed, enabled or disabled", default=NOW),
    column(
        "dead_workers",
        ARRAY(UUID(as_uuid=True)),
        "workers that died while they executed runs of it, until one of its runs ends a job alone",
        default="'{}'",
    ),
    timestamp(
        "isolated_until",
        "until when its runs are executed alone, since one of them has killed its process; null: they are not",
        null=True,
    ),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # The rule: a name means one workflow of an account.
    sa.UniqueConstraint("account_id", "name"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="workflows by name; their documents are in workflow_versions",
)

workflow_versions = account_table(
    "workflow_versions",
    column("workflow_id", UUID(as_uuid=True), "the workflow"),
    column("version", sa.Integer, "1, 2, 3 …; never changed once saved"),
    column("source", sa.Text, "the document as it was given, comments included"),
    column("document", JSONB, "the document as data"),
    column(
        "awaits",
        ARRAY(sa.Text),
        "names of the events that its runs may wait for or end by (*: any); others cost them no look-up",
        default="'{}'",
    ),
    timestamp("created_at", "when it was saved", default=NOW),
    sa.PrimaryKeyConstraint("account_id", "workflow_id", "version"),
    sa.ForeignKeyConstraint(
        ["account_id", "workflow_id"], ["workflows.account_id", "workflows.id"], ondelete="CASCADE"
    ),
    # Serves find_correlation_keys: by which fields, beside distinct_id, runs wait for events.
    index("workflow_versions_key_idx", "account_id", where="awaits <> '{}' AND document ? 'key'"),
    comment="every version of every workflow; a run stays on the version that started it",
)

workflow_triggers = account_table(
    "workflow_triggers",
    column("event", sa.Text, "name of the event; *: any name"),
    column("workflow_id", UUID(as_uuid=True), "the workflow"),
    column("version", sa.Integer, "its enabled version"),
    # Serves "what starts on this event name?" (docs/sql.md).
    sa.PrimaryKeyConstraint("account_id", "event", "workflow_id"),
    sa.ForeignKeyConstraint(
        ["account_id", "workflow_id", "version"],
        ["workflow_versions.account_id", "workflow_versions.workflow_id", "workflow_versions.version"],
        ondelete="CASCADE",
    ),
    # Serves find_account_snapshot, write_triggers and the deletion of a workflow.
    sa.Index("workflow_triggers_workflow_idx", "account_id", "workflow_id"),
    comment="the event names that each enabled workflow looks at; written when a version is enabled or disabled",
)

progress = account_table(
    "progress",
    column("workflow_id", UUID(as_uuid=True), "the workflow"),
    column("subject", sa.Text, "whose progress: distinct_id, or the value that the workflow's key names"),
    column(
        "enablement",
        sa.Integer,
        "the enablement of the workflow that it belongs to; progress of an older one counts as none",
    ),
    column(
        "progress", JSONB, "the partial matches, as app/workflows/matching/progress_json.py describes them; {}: none"
    ),
    timestamp("deadline", "when a none fires unless it is disarmed; null: none is armed", null=True),
    timestamp("last_event_at", "received_at of the last event that the workflow looked at"),
    timestamp("last_started_at", "the last start, for again; null: none", null=True),
    timestamp("lapses_at", "from when on all its windows are over; null: it does not lapse by itself", null=True),
    sa.PrimaryKeyConstraint("account_id", "workflow_id", "subject"),
    sa.ForeignKeyConstraint(
        ["account_id", "workflow_id"], ["workflows.account_id", "workflows.id"], ondelete="CASCADE"
    ),
    # Serves find_progress_of_subject.
    sa.Index("progress_subject_idx", "account_id", "subject"),
    # Serves enqueue_overdue_deadlines.
    index("progress_deadline_idx", "deadline", where="deadline IS NOT NULL"),
    # Serves forget_stale_progress.
    index("progress_stale_idx", "last_event_at", where="progress = '{}' AND last_started_at IS NULL"),
    index("progress_lapses_idx", "lapses_at", where="lapses_at IS NOT NULL"),
    comment="how far subjects have come in workflows whose pattern is more than one event, or that say again",
)
