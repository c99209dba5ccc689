"""Runs with their steps and attempts, the job queue, and the message stream of each account."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, UUID

from app.db.tables.columns import NOW, account_id, account_table, column, index, metadata, timestamp

runs = account_table(
    "runs",
    column("id", UUID(as_uuid=True), "UUIDv7: sorts by time of start"),
    column("workflow_id", UUID(as_uuid=True), "the workflow"),
    column("version", sa.Integer, "the version of it that runs"),
    column(
        "match_key",
        sa.Text,
        "what it was started for, unique per workflow: the id of the last matched event, with its deadline if one fired; "
        "of a block its parent's, with its number there",
    ),
    column("event_id", UUID(as_uuid=True), "the event that started it"),
    timestamp("event_received_at", "received_at of that event (finds its partition)"),
    column("matched", ARRAY(UUID(as_uuid=True)), "all events that the pattern used, in order"),
    column("distinct_id", sa.Text, "the subject"),
    column("status", sa.Text, "running, done, failed, cancelled (by a person) or exited (by exit_on)"),
    column("at", sa.Text, "path of the current step such as steps[1]; null: past the last one", null=True),
    column("ordinal", sa.Integer, "how many steps it has entered before the current one", default="0"),
    column("attempt", sa.Integer, "failed attempts of the current step so far", default="0"),
    column("forgiven", sa.Integer, "how many of these do not count, because a person retried the run", default="0"),
    column(
        "turn",
        sa.BigInteger,
        "grows with each change; a worker that has seen an older number changes nothing",
        default="0",
    ),
    column("job", sa.Integer, "number of the job that may advance it", default="1"),
    timestamp(
        "wake_at",
        "when its job is due: now, the end of a wait, or the next attempt; null: ended, or waiting for its blocks",
        null=True,
    ),
    timestamp("step_started_at", "when the current step was entered; null: not yet", null=True),
    column("error", sa.Text, "why it failed, or ended early, in one line; null: it did not", null=True),
    column(
        "error_target",
        sa.Text,
        "of a failed run: the target of the call that failed, as circuit breakers name it; null: no call failed",
        null=True,
    ),
    column(
        "error_class",
        sa.Text,
        "of a failed run: one word for what went wrong, such as timeout or http_5xx; null: not recorded",
        null=True,
    ),
    timestamp("created_at", "when it was started"),
    timestamp("updated_at", "when it was last changed"),
    timestamp("finished_at", "when it ended; null: it has not", null=True),
    column("root_id", UUID(as_uuid=True), "of a block of par: the run that it belongs to; null: no block", null=True),
    column("parent_id", UUID(as_uuid=True), "of a block: the run or block that waits for it", null=True),
    column("parent_ordinal", sa.Integer, "of a block: the parent's step that has it, by its ordinal", null=True),
    column("blocks_left", sa.Integer, "for how many blocks it waits; null: for none", null=True),
    column("rounds", sa.Integer, "rounds begun of the repeat that it is in", default="0"),
    column(
        "subject",
        sa.Text,
        "whose events it waits for, where its workflow's key is another field than distinct_id; null: it is not",
        null=True,
    ),
    column("held_by", sa.Text, "the target whose circuit breaker holds it back; null: none", null=True),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # The rule: one run per workflow and match, ever.
    sa.UniqueConstraint("account_id", "workflow_id", "match_key"),
    sa.CheckConstraint("status IN ('running', 'done', 'failed', 'cancelled', 'exited')", name="status"),
    # Serves find_runs_of_event.
    sa.Index("runs_event_idx", "account_id", "event_id"),
    # Serves find_latest_runs: the runs of a subject, newest first.
    sa.Index("runs_subject_idx", "account_id", "distinct_id", "id"),
    # Serves find_running_runs_of_subject: the runs that an event may wake or end.
    index("runs_running_idx", "account_id", "distinct_id", where="status = 'running'"),
    # Serves find_latest_runs, find_failures and count_failures: those that failed, newest first.
    index("runs_failed_idx", "account_id", "id", where="status = 'failed'"),
    # Serves find_latest_runs: the failed runs of a target, newest first.
    index("runs_failures_idx", "account_id", "error_target", "error_class", "id", where="status = 'failed'"),
    # Serves find_latest_runs: those that ended early, newest first.
    index("runs_ended_early_idx", "account_id", "id", where="status IN ('cancelled', 'exited')"),
    # Serves find_latest_runs and count_starts: the runs of a workflow, newest first. Counts read the index alone.
    sa.Index(
        "runs_workflow_idx",
        "account_id",
        "workflow_id",
        "id",
        postgresql_include=["status"],
        postgresql_where=sa.text("parent_id IS NULL"),
    ),
    # Serves count_running and find_waiting: the runs at each step of a workflow.
    index("runs_steps_idx", "account_id", "workflow_id", "at", "id", where="status = 'running'"),
    # Serves enqueue_orphans: runs without a job.
    index("runs_wake_at_idx", "wake_at", where="status = 'running'"),
    # Serves find_running_runs_of_subject, where the workflow's key is another field.
    index("runs_running_by_key_idx", "account_id", "subject", where="status = 'running' AND subject IS NOT NULL"),
    # Serves find_results, end_run_trees and retry_runs: a run with all its blocks.
    index("runs_family_idx", "account_id", "root_id", where="root_id IS NOT NULL"),
    # Serves find_failed_blocks and find_results: the blocks of a run.
    index("runs_blocks_idx", "account_id", "parent_id", "parent_ordinal", where="parent_id IS NOT NULL"),
    # Serves the retention of events: has the pattern of a running run used this event?
    sa.Index(
        "runs_matched_idx",
        "matched",
        postgresql_using="gin",
        postgresql_where=sa.text("status = 'running' AND cardinality(matched) > 1"),
    ),
    # Serves list_open_circuits: how many runs a target holds back.
    index("runs_held_by_idx", "account_id", "held_by", where="held_by IS NOT NULL"),
    comment="one execution of one workflow version for one match, or a block of one that goes on beside others",
)

steps = account_table(
    "steps",
    column("run_id", UUID(as_uuid=True), "the run"),
    column("ordinal", sa.Integer, "0, 1, 2 … in the order in which the run entered them"),
    column("path", sa.Text, "path of the step in the document, such as steps[1]"),
    column("name", sa.Text, "its id in the document; null: none given", null=True),
    column("action", sa.Text, "what it does: http, log, wait …"),
    column("status", sa.Text, "waiting (for time, an event or the next attempt), done, failed or skipped"),
    timestamp("started_at", "when the run entered it"),
    timestamp("finished_at", "when it ended; null: it has not", null=True),
    column("output", JSONB, "what later steps see as steps.<id>; null: nothing", null=True),
    column("error", sa.Text, "what went wrong last, in one line; null: nothing", null=True),
    sa.PrimaryKeyConstraint("account_id", "run_id", "ordinal"),
    sa.CheckConstraint("status IN ('waiting', 'done', 'failed', 'skipped')", name="status"),
    comment="the steps that a run has entered",
)

attempts = account_table(
    "attempts",
    column("run_id", UUID(as_uuid=True), "the run"),
    column("ordinal", sa.Integer, "the step, by its ordinal in the run"),
    column("attempt", sa.Integer, "1, 2, 3 … within the step"),
    column("outcome", sa.Text, "done, retry (tried again later) or failed"),
    column(
        "error_class", sa.Text, "one word for what went wrong, such as timeout or http_5xx; null: nothing", null=True
    ),
    column("error", sa.Text, "what went wrong, in one line; null: nothing", null=True),
    column(
        "request", JSONB, "what was sent, secrets masked, body capped; null: nothing is sent by this action", null=True
    ),
    column("response", JSONB, "what came back: status and first bytes; null: nothing did", null=True),
    timestamp("started_at", "when the attempt began"),
    timestamp("finished_at", "when it ended"),
    sa.PrimaryKeyConstraint("account_id", "run_id", "ordinal", "attempt"),
    sa.CheckConstraint("outcome IN ('done', 'retry', 'failed')", name="outcome"),
    comment="every try of every action",
)

jobs = sa.Table(
    "jobs",
    metadata,
    column("id", sa.BigInteger, "number of the job", sa.Identity(always=True)),
    column("kind", sa.Text, "what it is for: run, event, match, map or deadline"),
    column("payload", sa.Text, "account:run:number, account:event, or account:workflow:subject (base64url)"),
    column("dedupe_key", sa.Text, "at most one job has it; null: there may be several such jobs", null=True),
    timestamp(
        "due_at",
        "when a worker may claim it (the timer of waits and retries); of a claimed job, when its lease expires",
        default=NOW,
    ),
    column("attempts", sa.Integer, "how often it has failed", default="0"),
    column("worker_id", UUID(as_uuid=True), "the worker that has claimed it; null: none", null=True),
    timestamp("created_at", "when it was enqueued", default=NOW),
    column(
        "claim",
        sa.Text,
        "how the worker executes it: alone, or stopping (the worker is about to end); null: with other jobs",
        null=True,
    ),
    column(
        "dead_workers",
        ARRAY(UUID(as_uuid=True)),
        "workers that died while they executed it with other jobs",
        default="'{}'",
    ),
    column(
        "dead_alone", ARRAY(UUID(as_uuid=True)), "processes that died while they executed nothing else", default="'{}'"
    ),
    sa.PrimaryKeyConstraint("id"),
    # The rule: a run's job is enqueued once.
    sa.UniqueConstraint("dedupe_key"),
    # Serves exchange_jobs and due_in.
    sa.Index("jobs_due_at_idx", "due_at", "id"),
    # Serves find_due_accounts, and exchange_jobs while a worker is behind.
    sa.Index("jobs_account_idx", sa.text("split_part(payload, ':', 1)"), "due_at", "id"),
    # Serves extend_leases: a worker that was taken for dead is not.
    index("jobs_dead_workers_idx", "id", where="dead_workers <> '{}' OR dead_alone <> '{}'"),
    comment="the job queue: what workers have to do, and when",
)

workers = sa.Table(
    "workers",
    metadata,
    column("id", UUID(as_uuid=True), "made at its start; jobs.worker_id names it"),
    column("host", sa.Text, "name of its host"),
    column("pid", sa.Integer, "process id there"),
    column("version", sa.Text, "its release"),
    timestamp("started_at", "when it was first seen"),
    timestamp("seen_at", "its last heartbeat, which also extends the leases of its jobs"),
    timestamp("stopped_at", "when it was told to stop and had finished its jobs; null: it runs, or it died", null=True),
    sa.PrimaryKeyConstraint("id"),
    comment="the workers of the last 30 days; one is alive if it has not stopped, is connected, and was seen within 20 seconds",
)

open_circuits = account_table(
    "open_circuits",
    column(
        "target",
        sa.Text,
        "the target: a method and a URL without its query, a host, a WhatsApp template, or a sender",
    ),
    column("failures", sa.Integer, "how often it has failed in a row, as the worker that wrote last has seen it"),
    timestamp("opened_at", "since when it is not called as usual"),
    timestamp("retry_at", "when it is called next, to find out whether it works again"),
    sa.PrimaryKeyConstraint("account_id", "target"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="targets that keep failing, which workers call only now and then",
)

streams = account_table(
    "streams",
    column(
        "latest",
        sa.BigInteger,
        "number of its latest message; locked until that is committed, so that numbers are committed in order",
    ),
    sa.PrimaryKeyConstraint("account_id"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="how far the messages of each account have been counted",
)

messages = account_table(
    "messages",
    column("id", UUID(as_uuid=True), "UUIDv7; the id of the message in the stream"),
    column("number", sa.BigInteger, "1, 2, 3 … in the order of commits, with gaps: the order of the stream"),
    column("run_id", UUID(as_uuid=True), "the run that made it"),
    column("ordinal", sa.Integer, "the step that made it, by its ordinal in the run"),
    column("distinct_id", sa.Text, "the subject of the run"),
    column("text", sa.Text, "its text"),
    column("data", JSONB, "what goes along with it"),
    timestamp("created_at", "when it was made; it is kept for 30 days from then"),
    sa.PrimaryKeyConstraint("account_id", "id"),
    # Serves find_messages_after.
    sa.UniqueConstraint("account_id", "number"),
    # The rule: a step of a run says its message once, however often it is tried.
    sa.UniqueConstraint("account_id", "run_id", "ordinal"),
    # Serves forget_old_messages.
    sa.Index("messages_created_at_idx", "created_at", postgresql_using="brin"),
    comment="messages of message steps of the last 30 days; the account's stream delivers them",
)

tickets = sa.Table(
    "tickets",
    metadata,
    column("digest", BYTEA, "SHA-256 of the ticket; the ticket itself is kept nowhere"),
    account_id(),
    column(
        "key_prefix", sa.Text, "the key or access token that it was made with; it is good only while that is in force"
    ),
    column(
        "position", sa.BigInteger, "number of the account's latest message when it was made; the stream begins after it"
    ),
    timestamp("created_at", "when it was made; it has to be used within two minutes"),
    timestamp("used_at", "when it was first used; it is good for 12 hours from then; null: not yet", null=True),
    sa.PrimaryKeyConstraint("digest"),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
    comment="what opens an account's stream of messages to an application that holds no key",
)
