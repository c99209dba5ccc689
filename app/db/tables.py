"""The tables as the migrations leave them; every table and column says in its comment what it holds.

Nothing here runs SQL. `tests/db/test_migrate.py` holds this model against all migrations replayed. The tables of
the previous release's queue (`pgqueuer*`) are not listed.

No foreign keys lead to or from `events`, `runs`, `steps` and `attempts`: each of their rows is written by a statement
that has just read or changed the row it belongs to, and the check would cost a lock on a hot row per event.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TIMESTAMP, UUID

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

_NOW = sa.text("now()")


def _column(name: str, type_: Any, comment: str, *arguments: Any, null: bool = False, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, *arguments, nullable=null, comment=comment, **options)


def _moment(name: str, comment: str, **options: Any) -> sa.Column[Any]:
    return _column(name, TIMESTAMP(timezone=True), comment, **options)


def _account() -> sa.Column[Any]:
    return _column("account_id", sa.BigInteger, "the account that owns the row")


accounts = sa.Table(
    "accounts",
    metadata,
    _column("id", sa.BigInteger, "the id that senders put into x-fb-account-id", sa.Identity(always=True)),
    _column("slug", sa.Text, "short unique name; the tenant name of the CxEngage routes"),
    _column("plan", sa.Text, "trial, standard or unlimited: how many events a second are let in"),
    _column("events_per_second", sa.Integer, "overrides the plan's rate; null: the plan's own", null=True),
    _moment("plan_ends_at", "events are refused from this moment on; null: no end", null=True),
    _moment("disabled_at", "when the account was switched off; null: it is on", null=True),
    _column(
        "version",
        sa.BigInteger,
        "grows with every change that web processes keep in memory (keys, plan, workflows); checked by each event",
        server_default=sa.text("1"),
    ),
    _column("signing_secret", BYTEA, "secret of the signatures on outbound calls (Standard Webhooks), encrypted"),
    _moment("created_at", "when the account was made", server_default=_NOW),
    _column("name", sa.Text, "what people call it; null: the slug", null=True),
    _column(
        "key_attribute",
        sa.Text,
        "the attribute of its CxEngage events that says whom they are about",
        server_default=sa.text("'key'"),
    ),
    _column(
        "event_attribute",
        sa.Text,
        "the attribute of its CxEngage events that names them",
        server_default=sa.text("'type'"),
    ),
    sa.PrimaryKeyConstraint("id"),
    sa.UniqueConstraint("slug"),
    sa.CheckConstraint("plan IN ('trial', 'standard', 'unlimited')", name="plan"),
    comment="who owns everything",
)

keys = sa.Table(
    "keys",
    metadata,
    _account(),
    _column("prefix", sa.Text, "public part of the key (sb_PREFIX_…), enough to name and find it"),
    _column("digest", BYTEA, "SHA-256 of the whole key; the key itself is kept nowhere"),
    _column("name", sa.Text, "what its owner calls it"),
    _column("scopes", ARRAY(sa.Text), "what it may do, such as events:write"),
    _moment("created_at", "when it was made", server_default=_NOW),
    _moment("expires_at", "from when on it is refused; null: never", null=True),
    _moment("revoked_at", "when it was revoked; null: it is in force", null=True),
    _moment("last_used_at", "when it was last used, to the minute; null: never", null=True),
    sa.PrimaryKeyConstraint("prefix"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    # Serves list_keys and the copy that web processes keep of an account.
    sa.Index("keys_account_id_idx", "account_id"),
    comment="API keys: shown once, kept as a hash, scoped, revocable",
)

clients = sa.Table(
    "clients",
    metadata,
    _account(),
    _column("id", sa.Text, "its client_id (cl_…)"),
    _column("digest", BYTEA, "SHA-256 of its client_secret; the secret itself is kept nowhere"),
    _column("name", sa.Text, "what its owner calls it"),
    _column("token_prefix", sa.Text, "public part of its access token (sbt_PREFIX_…); null: it has none", null=True),
    _column("token_digest", BYTEA, "SHA-256 of its access token; null: it has none", null=True),
    _moment("token_expires_at", "when its access token ends; null: it has none", null=True),
    _moment("created_at", "when it was made", server_default=_NOW),
    _moment("revoked_at", "when it was revoked; null: it is in force", null=True),
    _moment("last_used_at", "when its token was last used, to the minute; null: never", null=True),
    sa.PrimaryKeyConstraint("id"),
    # The rule: a prefix means one token.
    sa.UniqueConstraint("token_prefix"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    # Serves list_clients and the copy that web processes keep of an account.
    sa.Index("clients_account_id_idx", "account_id"),
    comment="OAuth clients of the CxEngage routes, each with its access token; secrets are kept as hashes",
)

integrations = sa.Table(
    "integrations",
    metadata,
    _account(),
    _column("kind", sa.Text, "whatsapp, twilio, sendgrid or smtp"),
    _column("settings", BYTEA, "its fields, credentials among them, as JSON encrypted with ENCRYPTION_KEY"),
    _moment("created_at", "when it was set up", server_default=_NOW),
    _moment("updated_at", "when it was last changed", server_default=_NOW),
    sa.PrimaryKeyConstraint("account_id", "kind"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="the services that accounts send with: WhatsApp, Twilio, SendGrid, SMTP",
)

disabled_targets = sa.Table(
    "disabled_targets",
    metadata,
    _account(),
    _column("target", sa.Text, "the URL without its query"),
    _column("reason", sa.Text, "why, in words"),
    _column("run_id", UUID(as_uuid=True), "the run that found out"),
    _moment("disabled_at", "since when"),
    sa.PrimaryKeyConstraint("account_id", "target"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="targets of http steps that answered 410 and are not called until a person enables them",
)

workflows = sa.Table(
    "workflows",
    metadata,
    _account(),
    _column("id", UUID(as_uuid=True), "id of the workflow"),
    _column("name", sa.Text, "unique in the account; letters, digits, - and _"),
    _column("enabled_version", sa.Integer, "the version that looks at events; null: disabled", null=True),
    _column("latest_version", sa.Integer, "the newest version there is"),
    _column(
        "enablement",
        sa.Integer,
        "grows each time a version is enabled or disabled; progress counts from then",
        server_default=sa.text("0"),
    ),
    _moment("created_at", "when its first version was saved", server_default=_NOW),
    _moment("updated_at", "when it was last changed, enabled or disabled", server_default=_NOW),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # The rule: a name means one workflow of an account.
    sa.UniqueConstraint("account_id", "name"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="workflows by name; what they say is in workflow_versions",
)

workflow_versions = sa.Table(
    "workflow_versions",
    metadata,
    _account(),
    _column("workflow_id", UUID(as_uuid=True), "the workflow"),
    _column("version", sa.Integer, "1, 2, 3 …; never changed once saved"),
    _column("source", sa.Text, "the document as it was given, comments included"),
    _column("document", JSONB, "the document as data"),
    _column(
        "awaits",
        ARRAY(sa.Text),
        "names of the events that its runs may wait for or end by (*: any); others cost them no look-up",
        server_default=sa.text("'{}'"),
    ),
    _moment("created_at", "when it was saved", server_default=_NOW),
    sa.PrimaryKeyConstraint("account_id", "workflow_id", "version"),
    sa.ForeignKeyConstraint(
        ["account_id", "workflow_id"], ["workflows.account_id", "workflows.id"], ondelete="CASCADE"
    ),
    # Serves find_correlation_keys: by which fields, beside distinct_id, runs wait for events.
    sa.Index(
        "workflow_versions_key_idx", "account_id", postgresql_where=sa.text("awaits <> '{}' AND document ? 'key'")
    ),
    comment="every version of every workflow; a run stays on the version that started it",
)

workflow_triggers = sa.Table(
    "workflow_triggers",
    metadata,
    _account(),
    _column("event", sa.Text, "name of the event; *: any name"),
    _column("workflow_id", UUID(as_uuid=True), "the workflow"),
    _column("version", sa.Integer, "its enabled version"),
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

events = sa.Table(
    "events",
    metadata,
    _account(),
    _column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of acceptance"),
    _column("event", sa.Text, "name of the event, exactly as sent"),
    _column("distinct_id", sa.Text, "whom the event is about (the subject)"),
    _column("phone", sa.Text, "the subject's phone number in E.164 (+ and digits); null: not sent", null=True),
    _column("data", JSONB, "the data object as sent, every number exact"),
    _column("extra", JSONB, "unknown top-level fields of the request; null: none", null=True),
    _column(
        "augmented", JSONB, "what augments added: workflows see it over data, field by field; null: nothing", null=True
    ),
    _moment("received_at", "when the event was accepted"),
    _column("decisions", JSONB, "what each workflow that looked concluded, and why; null: none looked", null=True),
    _column("idempotency_key", sa.Text, "the sender's Idempotency-Key or webhook-id; null: none sent", null=True),
    _column("warnings", JSONB, "what the sender was told about the event beside success; null: nothing", null=True),
    _column("via", sa.Text, "how it came: receiver (CxEngage); null: by POST /api/v1/cvf-events", null=True),
    sa.PrimaryKeyConstraint("account_id", "id", "received_at"),
    # Serves find_latest_received: the last that came another way than cvf-events, however many came that way since.
    sa.Index("events_via_idx", "account_id", "id", postgresql_where=sa.text("via IS NOT NULL")),
    # Serves find_latest_events: the events of a person, newest first.
    sa.Index("events_subject_idx", "account_id", "distinct_id", "id"),
    # Serves find_latest_events: those of one name, newest first.
    sa.Index("events_name_idx", "account_id", "event", "id"),
    postgresql_partition_by="RANGE (received_at)",
    comment="every accepted event, one row each, never updated; partitioned by month of received_at",
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    _account(),
    _column("key", sa.Text, "the Idempotency-Key or webhook-id that came with the event"),
    _column("digest", BYTEA, "SHA-256 of the request body: the same key with another body is refused"),
    _column("event_id", UUID(as_uuid=True), "the event that was stored for it"),
    _moment("received_at", "when; the key is remembered for 30 days from then"),
    # The rule: one event per key and account.
    sa.PrimaryKeyConstraint("account_id", "key"),
    # Serves forget_old_idempotency_keys.
    sa.Index("idempotency_keys_received_at_idx", "received_at", postgresql_using="brin"),
    comment="which idempotency keys were used in the last 30 days, and for which event",
)

keyed_events = sa.Table(
    "keyed_events",
    metadata,
    _account(),
    _column("key", sa.Text, "the field that some workflow has for its key, such as data.order_id"),
    _column("subject", sa.Text, "what the event has there"),
    _column("event_id", UUID(as_uuid=True), "the event"),
    _moment("received_at", "received_at of that event (finds its partition)"),
    # Serves find_events_by_key; the rule: an event has one value under a key.
    sa.PrimaryKeyConstraint("account_id", "key", "subject", "event_id"),
    # Serves delete_old_keys.
    sa.Index("keyed_events_received_at_idx", "received_at", postgresql_using="brin"),
    comment="awaited events by the keys of workflows that count by another field than distinct_id; kept for 30 days",
)

runs = sa.Table(
    "runs",
    metadata,
    _account(),
    _column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of start"),
    _column("workflow_id", UUID(as_uuid=True), "the workflow"),
    _column("version", sa.Integer, "the version of it that runs"),
    _column(
        "match_key",
        sa.Text,
        "what it was started for, unique per workflow: the id of the last matched event, with its deadline if one fired; "
        "of a block its parent's, with its place there",
    ),
    _column("event_id", UUID(as_uuid=True), "the event that started it"),
    _moment("event_received_at", "received_at of that event (finds its partition)"),
    _column("matched", ARRAY(UUID(as_uuid=True)), "all events that the pattern used, in order"),
    _column("distinct_id", sa.Text, "the subject"),
    _column("status", sa.Text, "running, done, failed, cancelled (by a person) or exited (by exit_on)"),
    _column("at", sa.Text, "path of the current step such as steps[1]; null: past the last one", null=True),
    _column("ordinal", sa.Integer, "how many steps it has entered before the current one", server_default=sa.text("0")),
    _column("attempt", sa.Integer, "failed attempts of the current step so far", server_default=sa.text("0")),
    _column(
        "forgiven",
        sa.Integer,
        "how many of these do not count, since a person had it retried",
        server_default=sa.text("0"),
    ),
    _column(
        "turn",
        sa.BigInteger,
        "grows with every settled change; guards against two workers",
        server_default=sa.text("0"),
    ),
    _column("job", sa.Integer, "number of the queue job that may move it", server_default=sa.text("1")),
    _moment(
        "wake_at",
        "when its job is due: now, the end of a wait, or the next attempt; null: ended, or waiting for its blocks",
        null=True,
    ),
    _moment("step_started_at", "when the current step was entered; null: not yet", null=True),
    _column("error", sa.Text, "why it failed, or ended early, in one line; null: it did not", null=True),
    _moment("created_at", "when it was started"),
    _moment("updated_at", "when it last moved"),
    _moment("finished_at", "when it ended; null: it has not", null=True),
    _column("root_id", UUID(as_uuid=True), "of a block of par: the run that it belongs to; null: no block", null=True),
    _column("parent_id", UUID(as_uuid=True), "of a block: the run or block that waits for it", null=True),
    _column("parent_ordinal", sa.Integer, "of a block: the parent's step that has it, by its ordinal", null=True),
    _column("blocks_left", sa.Integer, "for how many blocks it waits; null: for none", null=True),
    _column("rounds", sa.Integer, "rounds begun of the repeat in which it stands", server_default=sa.text("0")),
    _column(
        "subject",
        sa.Text,
        "whose events it waits for, where its workflow's key is another field than distinct_id; null: it is not",
        null=True,
    ),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # The rule: one run per workflow and match, ever.
    sa.UniqueConstraint("account_id", "workflow_id", "match_key"),
    sa.CheckConstraint("status IN ('running', 'done', 'failed', 'cancelled', 'exited')", name="status"),
    # Serves find_runs_of_event.
    sa.Index("runs_event_idx", "account_id", "event_id"),
    # Serves find_latest_runs: the runs of a person, newest first.
    sa.Index("runs_subject_idx", "account_id", "distinct_id", "id"),
    # Serves find_running_runs_of_subject: whom an event may wake or end.
    sa.Index("runs_running_idx", "account_id", "distinct_id", postgresql_where=sa.text("status = 'running'")),
    # Serves find_latest_runs: those that failed, newest first.
    sa.Index("runs_failed_idx", "account_id", "id", postgresql_where=sa.text("status = 'failed'")),
    # Serves enqueue_orphans: runs whose job should have come long ago.
    sa.Index("runs_wake_at_idx", "wake_at", postgresql_where=sa.text("status = 'running'")),
    # Serves find_running_runs_of_subject, where the workflow's key is another field.
    sa.Index(
        "runs_running_by_key_idx",
        "account_id",
        "subject",
        postgresql_where=sa.text("status = 'running' AND subject IS NOT NULL"),
    ),
    # Serves find_results, end_run_tree and retry_runs: a run with all its blocks.
    sa.Index("runs_family_idx", "account_id", "root_id", postgresql_where=sa.text("root_id IS NOT NULL")),
    # Serves find_failed_blocks and find_results: the blocks of a run.
    sa.Index(
        "runs_blocks_idx",
        "account_id",
        "parent_id",
        "parent_ordinal",
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    ),
    comment="one execution of one workflow version for one match, or a block of one that goes on beside others",
)

jobs = sa.Table(
    "jobs",
    metadata,
    _column("id", sa.BigInteger, "number of the job", sa.Identity(always=True)),
    _column("kind", sa.Text, "what it is for: run, event or deadline"),
    _column("payload", sa.Text, "account:run:number, account:event, or account:workflow:subject (base64url)"),
    _column("dedupe_key", sa.Text, "at most one job has it; null: there may be several such jobs", null=True),
    _moment(
        "due_at",
        "when a worker may claim it (the timer of waits and retries); of a claimed job, when its lease expires",
        server_default=_NOW,
    ),
    _column("attempts", sa.Integer, "how often it has failed", server_default=sa.text("0")),
    _column("worker_id", UUID(as_uuid=True), "the worker that has claimed it; null: none", null=True),
    _moment("created_at", "when it was enqueued", server_default=_NOW),
    sa.PrimaryKeyConstraint("id"),
    # The rule: a run's job is enqueued once.
    sa.UniqueConstraint("dedupe_key"),
    # Serves exchange_jobs and due_in.
    sa.Index("jobs_due_at_idx", "due_at", "id"),
    comment="the job queue: what workers have to do, and when",
)

progress = sa.Table(
    "progress",
    metadata,
    _account(),
    _column("workflow_id", UUID(as_uuid=True), "the workflow"),
    _column("subject", sa.Text, "whose progress: distinct_id, or the value that the workflow's key names"),
    _column("enablement", sa.Integer, "the workflow's enablement in which it stands; an older one counts as none"),
    _column("progress", JSONB, "the partial matches, as app/workflows/matching/state_json.py describes them; {}: none"),
    _moment("deadline", "when a none fires unless it is disarmed; null: none is armed", null=True),
    _moment("last_event_at", "the last event that was looked at; later ones are later"),
    _moment("last_started_at", "the last start, for again; null: none", null=True),
    _moment("lapses_at", "from when on all its windows are over; null: it does not lapse by itself", null=True),
    sa.PrimaryKeyConstraint("account_id", "workflow_id", "subject"),
    sa.ForeignKeyConstraint(
        ["account_id", "workflow_id"], ["workflows.account_id", "workflows.id"], ondelete="CASCADE"
    ),
    # Serves find_progress_of_subject.
    sa.Index("progress_subject_idx", "account_id", "subject"),
    # Serves enqueue_overdue_deadlines.
    sa.Index("progress_deadline_idx", "deadline", postgresql_where=sa.text("deadline IS NOT NULL")),
    # Serves forget_stale_progress.
    sa.Index(
        "progress_stale_idx", "last_event_at", postgresql_where=sa.text("progress = '{}' AND last_started_at IS NULL")
    ),
    sa.Index("progress_lapses_idx", "lapses_at", postgresql_where=sa.text("lapses_at IS NOT NULL")),
    comment="how far subjects have come in workflows whose pattern is more than one event, or that say again",
)

steps = sa.Table(
    "steps",
    metadata,
    _account(),
    _column("run_id", UUID(as_uuid=True), "the run"),
    _column("ordinal", sa.Integer, "0, 1, 2 … in the order in which the run entered them"),
    _column("path", sa.Text, "where the step stands in the document, such as steps[1]"),
    _column("name", sa.Text, "its id in the document; null: none given", null=True),
    _column("action", sa.Text, "what it does: http, log, wait …"),
    _column("status", sa.Text, "waiting (for time, an event or the next attempt), done, failed or skipped"),
    _moment("started_at", "when the run entered it"),
    _moment("finished_at", "when it was settled; null: it is not", null=True),
    _column("output", JSONB, "what later steps see as steps.<id>; null: nothing", null=True),
    _column("error", sa.Text, "what went wrong last, in one line; null: nothing", null=True),
    sa.PrimaryKeyConstraint("account_id", "run_id", "ordinal"),
    sa.CheckConstraint("status IN ('waiting', 'done', 'failed', 'skipped')", name="status"),
    comment="the steps that a run has entered",
)

attempts = sa.Table(
    "attempts",
    metadata,
    _account(),
    _column("run_id", UUID(as_uuid=True), "the run"),
    _column("ordinal", sa.Integer, "the step, by its ordinal in the run"),
    _column("attempt", sa.Integer, "1, 2, 3 … within the step"),
    _column("outcome", sa.Text, "done, retry (tried again later) or failed"),
    _column(
        "error_class", sa.Text, "one word for what went wrong, such as timeout or http_5xx; null: nothing", null=True
    ),
    _column("error", sa.Text, "what went wrong, in one line; null: nothing", null=True),
    _column(
        "request", JSONB, "what was sent, secrets masked, body capped; null: nothing is sent by this action", null=True
    ),
    _column("response", JSONB, "what came back: status and first bytes; null: nothing did", null=True),
    _moment("started_at", "when the attempt began"),
    _moment("finished_at", "when it ended"),
    sa.PrimaryKeyConstraint("account_id", "run_id", "ordinal", "attempt"),
    sa.CheckConstraint("outcome IN ('done', 'retry', 'failed')", name="outcome"),
    comment="every try of every action",
)

streams = sa.Table(
    "streams",
    metadata,
    _account(),
    _column(
        "latest",
        sa.BigInteger,
        "number of its latest message; locked until that is committed, so that numbers are committed in order",
    ),
    sa.PrimaryKeyConstraint("account_id"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="how far the messages of each account have been counted",
)

messages = sa.Table(
    "messages",
    metadata,
    _account(),
    _column("id", UUID(as_uuid=True), "UUIDv7; the id of the message in the stream"),
    _column("number", sa.BigInteger, "1, 2, 3 … in the order of commits, with gaps: the order of the stream"),
    _column("run_id", UUID(as_uuid=True), "the run that said it"),
    _column("ordinal", sa.Integer, "the step that said it, by its ordinal in the run"),
    _column("distinct_id", sa.Text, "the subject of the run"),
    _column("text", sa.Text, "what it says"),
    _column("data", JSONB, "what goes along with it"),
    _moment("created_at", "when it was made; it is kept for 30 days from then"),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # Serves find_messages_after.
    sa.UniqueConstraint("account_id", "number"),
    # The rule: a step of a run says its message once, however often it is tried.
    sa.UniqueConstraint("account_id", "run_id", "ordinal"),
    # Serves forget_old_messages.
    sa.Index("messages_created_at_idx", "created_at", postgresql_using="brin"),
    comment="what message steps said in the last 30 days; delivered by the account's stream",
)

tickets = sa.Table(
    "tickets",
    metadata,
    _column("digest", BYTEA, "SHA-256 of the ticket; the ticket itself is kept nowhere"),
    _account(),
    _column(
        "key_prefix", sa.Text, "the key or access token that it was made with; it is good only while that is in force"
    ),
    _column(
        "position", sa.BigInteger, "number of the account's latest message when it was made; the stream begins after it"
    ),
    _moment("created_at", "when it was made; it has to be used within 60 seconds"),
    _moment("used_at", "when it was first used; it is good for 12 hours from then; null: not yet", null=True),
    sa.PrimaryKeyConstraint("digest"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="what opens an account's stream of messages to an application that holds no key",
)

resource_numbers = sa.Table(
    "resource_numbers",
    metadata,
    _account(),
    _column("prefix", sa.Text, "PT, TM, LI or AU"),
    _column("latest", sa.Integer, "the highest number given out; none is given out twice"),
    sa.PrimaryKeyConstraint("account_id", "prefix"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="how far the ids of CxEngage resources (PT1, TM1 …) have been counted",
)

patterns = sa.Table(
    "patterns",
    metadata,
    _account(),
    _column("number", sa.Integer, "1 is PT1"),
    _column("name", sa.Text, "what its owner calls it"),
    _column("description", sa.Text, "what it is for"),
    _column("when_text", sa.Text, "what has to happen, in the notation of 4.1; null: not given", null=True),
    _column("then_text", sa.Text, "what is to be done, in the notation of 4.1; null: not given", null=True),
    _column("code", sa.Text, "both as one script, in the notation of 4.2; null: not given", null=True),
    _column("key", sa.Text, "the field that says whom the script is about; null: the key attribute", null=True),
    _column(
        "workflow_id",
        UUID(as_uuid=True),
        "the workflow that it was compiled into, named PT1; it is switched on while that is enabled; null: never was",
        null=True,
    ),
    _moment("created_at", "when it was made"),
    _moment("updated_at", "when it was last changed"),
    sa.PrimaryKeyConstraint("account_id", "number"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="patterns in CxEngage's notation; those switched on are workflows as well",
)

templates = sa.Table(
    "templates",
    metadata,
    _account(),
    _column("number", sa.Integer, "1 is TM1"),
    _column("name", sa.Text, "what its owner calls it"),
    _column("description", sa.Text, "what it is for"),
    _column("template", sa.Text, "the text, in Mustache"),
    _moment("created_at", "when it was made"),
    _moment("updated_at", "when it was last changed"),
    sa.PrimaryKeyConstraint("account_id", "number"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="texts that patterns refer to as +TM1",
)

listeners = sa.Table(
    "listeners",
    metadata,
    _account(),
    _column("number", sa.Integer, "1 is LI1"),
    _column("name", sa.Text, "what its owner calls it"),
    _column("description", sa.Text, "what it is for"),
    _column("type", sa.Text, "what kind of third party posts to it, in its owner's words"),
    _column("status", sa.Boolean, "whether it takes events"),
    _column("mapping", JSONB, "field of the event: dotted path in what the third party posts"),
    _column("options", JSONB, "the owner's, kept as given"),
    _column(
        "more", JSONB, "other fields that were given (topic, hash …), kept as given", server_default=sa.text("'{}'")
    ),
    _column("received", sa.BigInteger, "how many events it has taken", server_default=sa.text("0")),
    _moment("last_received_at", "when it took the last one; null: none yet", null=True),
    _moment("created_at", "when it was made"),
    _moment("updated_at", "when it was last changed"),
    sa.PrimaryKeyConstraint("account_id", "number"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="where third parties post in a shape of their own; what they post with are keys of the scope listener:LI1",
)

augments = sa.Table(
    "augments",
    metadata,
    _account(),
    _column("number", sa.Integer, "1 is AU1; they are asked in this order"),
    _column("name", sa.Text, "what its owner calls it"),
    _column("description", sa.Text, "what it is for"),
    _column("type", sa.Text, "file or api"),
    _column("url", sa.Text, "api: where it is asked; null: of a file", null=True),
    _column("attributes", ARRAY(sa.Text), "the attributes that it may add; null: all it knows", null=True),
    _column("in_options", sa.Boolean, "whether url and attributes were given, and are answered, inside of options"),
    _column("columns", ARRAY(sa.Text), "names of the file's columns; null: no file yet", null=True),
    _column("rows", sa.Integer, "how many rows the file has", server_default=sa.text("0")),
    _column("bytes", sa.Integer, "how large the file was", server_default=sa.text("0")),
    _column("upload", sa.Integer, "grows with each file", server_default=sa.text("0")),
    _moment("created_at", "when it was made"),
    _moment("updated_at", "when it was last changed"),
    sa.PrimaryKeyConstraint("account_id", "number"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    sa.CheckConstraint("type IN ('file', 'api')", name="type"),
    comment="what is known beside the events and added to them before workflows look",
)

augment_rows = sa.Table(
    "augment_rows",
    metadata,
    _account(),
    _column("number", sa.Integer, "the augment"),
    _column("lookup", sa.Text, "value of the first column"),
    _column("position", sa.Integer, "1 is the first row of the file"),
    _column("cells", ARRAY(sa.Text), "values of the other columns"),
    # The rule: a value is looked up in one row. Serves find_augment_row.
    sa.PrimaryKeyConstraint("account_id", "number", "lookup"),
    sa.ForeignKeyConstraint(["account_id", "number"], ["augments.account_id", "augments.number"], ondelete="CASCADE"),
    comment="the rows of augments' files",
)
