"""The first tables: accounts, keys, workflows, events (partitioned by month), runs with their steps and attempts.

Locks: none that matter; everything is new.
Safe with the previous code: there is none.
"""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE accounts (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    slug TEXT NOT NULL,
    plan TEXT NOT NULL,
    events_per_second INTEGER,
    plan_ends_at TIMESTAMP WITH TIME ZONE,
    disabled_at TIMESTAMP WITH TIME ZONE,
    version BIGINT DEFAULT 1 NOT NULL,
    signing_secret BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT accounts_pkey PRIMARY KEY (id),
    CONSTRAINT accounts_slug_key UNIQUE (slug),
    CONSTRAINT accounts_plan_check CHECK (plan IN ('trial', 'standard', 'unlimited'))
);
COMMENT ON TABLE accounts IS 'who owns everything';
COMMENT ON COLUMN accounts.id IS 'the id that senders put into x-fb-account-id';
COMMENT ON COLUMN accounts.slug IS 'short unique name; the tenant name of the CxEngage routes';
COMMENT ON COLUMN accounts.plan IS 'trial, standard or unlimited: how many events a second are let in';
COMMENT ON COLUMN accounts.events_per_second IS 'overrides the plan''s rate; null: the plan''s own';
COMMENT ON COLUMN accounts.plan_ends_at IS 'events are refused from this moment on; null: no end';
COMMENT ON COLUMN accounts.disabled_at IS 'when the account was switched off; null: it is on';
COMMENT ON COLUMN accounts.version IS 'grows with every change that web processes keep in memory (keys, plan, workflows); checked by each event';
COMMENT ON COLUMN accounts.signing_secret IS 'secret of the signatures on outbound calls (Standard Webhooks), encrypted';
COMMENT ON COLUMN accounts.created_at IS 'when the account was made';

CREATE TABLE attempts (
    account_id BIGINT NOT NULL,
    run_id UUID NOT NULL,
    ordinal INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    error_class TEXT,
    error TEXT,
    request JSONB,
    response JSONB,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT attempts_pkey PRIMARY KEY (account_id, run_id, ordinal, attempt),
    CONSTRAINT attempts_outcome_check CHECK (outcome IN ('done', 'retry', 'failed'))
);
COMMENT ON TABLE attempts IS 'every try of every action';
COMMENT ON COLUMN attempts.account_id IS 'the account that owns the row';
COMMENT ON COLUMN attempts.run_id IS 'the run';
COMMENT ON COLUMN attempts.ordinal IS 'the step, by its ordinal in the run';
COMMENT ON COLUMN attempts.attempt IS '1, 2, 3 … within the step';
COMMENT ON COLUMN attempts.outcome IS 'done, retry (tried again later) or failed';
COMMENT ON COLUMN attempts.error_class IS 'one word for what went wrong, such as timeout or http_5xx; null: nothing';
COMMENT ON COLUMN attempts.error IS 'what went wrong, in one line; null: nothing';
COMMENT ON COLUMN attempts.request IS 'what was sent, secrets masked, body capped; null: nothing is sent by this action';
COMMENT ON COLUMN attempts.response IS 'what came back: status and first bytes; null: nothing did';
COMMENT ON COLUMN attempts.started_at IS 'when the attempt began';
COMMENT ON COLUMN attempts.finished_at IS 'when it ended';

CREATE TABLE events (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    event TEXT NOT NULL,
    distinct_id TEXT NOT NULL,
    phone TEXT,
    data JSONB NOT NULL,
    extra JSONB,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    decisions JSONB,
    idempotency_key TEXT,
    warnings JSONB,
    CONSTRAINT events_pkey PRIMARY KEY (account_id, id, received_at)
)
 PARTITION BY RANGE (received_at);
CREATE INDEX events_subject_idx ON events (account_id, distinct_id, id);
COMMENT ON TABLE events IS 'every accepted event, one row each, never updated; partitioned by month of received_at';
COMMENT ON COLUMN events.account_id IS 'the account that owns the row';
COMMENT ON COLUMN events.id IS 'UUIDv7: sorts by time of acceptance';
COMMENT ON COLUMN events.event IS 'name of the event, exactly as sent';
COMMENT ON COLUMN events.distinct_id IS 'whom the event is about (the subject)';
COMMENT ON COLUMN events.phone IS 'the subject''s phone number in E.164 (+ and digits); null: not sent';
COMMENT ON COLUMN events.data IS 'the data object as sent, every number exact';
COMMENT ON COLUMN events.extra IS 'unknown top-level fields of the request; null: none';
COMMENT ON COLUMN events.received_at IS 'when the event was accepted';
COMMENT ON COLUMN events.decisions IS 'what each workflow that looked concluded, and why; null: none looked';
COMMENT ON COLUMN events.idempotency_key IS 'the sender''s Idempotency-Key or webhook-id; null: none sent';
COMMENT ON COLUMN events.warnings IS 'what the sender was told about the event beside success; null: nothing';

CREATE TABLE idempotency_keys (
    account_id BIGINT NOT NULL,
    key TEXT NOT NULL,
    digest BYTEA NOT NULL,
    event_id UUID NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (account_id, key)
);
CREATE INDEX idempotency_keys_received_at_idx ON idempotency_keys USING brin (received_at);
COMMENT ON TABLE idempotency_keys IS 'which idempotency keys were used in the last 30 days, and for which event';
COMMENT ON COLUMN idempotency_keys.account_id IS 'the account that owns the row';
COMMENT ON COLUMN idempotency_keys.key IS 'the Idempotency-Key or webhook-id that came with the event';
COMMENT ON COLUMN idempotency_keys.digest IS 'SHA-256 of the request body: the same key with another body is refused';
COMMENT ON COLUMN idempotency_keys.event_id IS 'the event that was stored for it';
COMMENT ON COLUMN idempotency_keys.received_at IS 'when; the key is remembered for 30 days from then';

CREATE TABLE runs (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    workflow_id UUID NOT NULL,
    version INTEGER NOT NULL,
    match_key TEXT NOT NULL,
    event_id UUID NOT NULL,
    event_received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    matched UUID[] NOT NULL,
    distinct_id TEXT NOT NULL,
    status TEXT NOT NULL,
    at TEXT,
    ordinal INTEGER DEFAULT 0 NOT NULL,
    attempt INTEGER DEFAULT 0 NOT NULL,
    forgiven INTEGER DEFAULT 0 NOT NULL,
    turn BIGINT DEFAULT 0 NOT NULL,
    job INTEGER DEFAULT 1 NOT NULL,
    wake_at TIMESTAMP WITH TIME ZONE,
    step_started_at TIMESTAMP WITH TIME ZONE,
    error TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT runs_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT runs_account_id_workflow_id_match_key_key UNIQUE (account_id, workflow_id, match_key),
    CONSTRAINT runs_status_check CHECK (status IN ('running', 'done', 'failed', 'cancelled', 'exited'))
);
CREATE INDEX runs_event_idx ON runs (account_id, event_id);
CREATE INDEX runs_failed_idx ON runs (account_id, id) WHERE status = 'failed';
CREATE INDEX runs_running_idx ON runs (account_id, distinct_id) WHERE status = 'running';
CREATE INDEX runs_subject_idx ON runs (account_id, distinct_id, id);
CREATE INDEX runs_wake_at_idx ON runs (wake_at) WHERE status = 'running';
COMMENT ON TABLE runs IS 'one execution of one workflow version for one match';
COMMENT ON COLUMN runs.account_id IS 'the account that owns the row';
COMMENT ON COLUMN runs.id IS 'UUIDv7: sorts by time of start';
COMMENT ON COLUMN runs.workflow_id IS 'the workflow';
COMMENT ON COLUMN runs.version IS 'the version of it that runs';
COMMENT ON COLUMN runs.match_key IS 'what it was started for, unique per workflow: the id of the last matched event, with its deadline if one fired';
COMMENT ON COLUMN runs.event_id IS 'the event that started it';
COMMENT ON COLUMN runs.event_received_at IS 'received_at of that event (finds its partition)';
COMMENT ON COLUMN runs.matched IS 'all events that the pattern used, in order';
COMMENT ON COLUMN runs.distinct_id IS 'the subject';
COMMENT ON COLUMN runs.status IS 'running, done, failed, cancelled (by a person) or exited (by exit_on)';
COMMENT ON COLUMN runs.at IS 'path of the current step such as steps[1]; null: past the last one';
COMMENT ON COLUMN runs.ordinal IS 'how many steps it has entered before the current one';
COMMENT ON COLUMN runs.attempt IS 'failed attempts of the current step so far';
COMMENT ON COLUMN runs.forgiven IS 'how many of these do not count, since a person had it retried';
COMMENT ON COLUMN runs.turn IS 'grows with every settled change; guards against two workers';
COMMENT ON COLUMN runs.job IS 'number of the queue job that may move it';
COMMENT ON COLUMN runs.wake_at IS 'when its job is due: now, the end of a wait, or the next attempt; null: ended';
COMMENT ON COLUMN runs.step_started_at IS 'when the current step was entered; null: not yet';
COMMENT ON COLUMN runs.error IS 'why it failed, or ended early, in one line; null: it did not';
COMMENT ON COLUMN runs.created_at IS 'when it was started';
COMMENT ON COLUMN runs.updated_at IS 'when it last moved';
COMMENT ON COLUMN runs.finished_at IS 'when it ended; null: it has not';

CREATE TABLE steps (
    account_id BIGINT NOT NULL,
    run_id UUID NOT NULL,
    ordinal INTEGER NOT NULL,
    path TEXT NOT NULL,
    name TEXT,
    action TEXT NOT NULL,
    status TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    output JSONB,
    error TEXT,
    CONSTRAINT steps_pkey PRIMARY KEY (account_id, run_id, ordinal),
    CONSTRAINT steps_status_check CHECK (status IN ('waiting', 'done', 'failed', 'skipped'))
);
COMMENT ON TABLE steps IS 'the steps that a run has entered';
COMMENT ON COLUMN steps.account_id IS 'the account that owns the row';
COMMENT ON COLUMN steps.run_id IS 'the run';
COMMENT ON COLUMN steps.ordinal IS '0, 1, 2 … in the order in which the run entered them';
COMMENT ON COLUMN steps.path IS 'where the step stands in the document, such as steps[1]';
COMMENT ON COLUMN steps.name IS 'its id in the document; null: none given';
COMMENT ON COLUMN steps.action IS 'what it does: http, log, wait …';
COMMENT ON COLUMN steps.status IS 'waiting (for time, an event or the next attempt), done, failed or skipped';
COMMENT ON COLUMN steps.started_at IS 'when the run entered it';
COMMENT ON COLUMN steps.finished_at IS 'when it was settled; null: it is not';
COMMENT ON COLUMN steps.output IS 'what later steps see as steps.<id>; null: nothing';
COMMENT ON COLUMN steps.error IS 'what went wrong last, in one line; null: nothing';

CREATE TABLE keys (
    account_id BIGINT NOT NULL,
    prefix TEXT NOT NULL,
    digest BYTEA NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    last_used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT keys_pkey PRIMARY KEY (prefix),
    CONSTRAINT keys_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
CREATE INDEX keys_account_id_idx ON keys (account_id);
COMMENT ON TABLE keys IS 'API keys: shown once, kept as a hash, scoped, revocable';
COMMENT ON COLUMN keys.account_id IS 'the account that owns the row';
COMMENT ON COLUMN keys.prefix IS 'public part of the key (sb_PREFIX_…), enough to name and find it';
COMMENT ON COLUMN keys.digest IS 'SHA-256 of the whole key; the key itself is kept nowhere';
COMMENT ON COLUMN keys.name IS 'what its owner calls it';
COMMENT ON COLUMN keys.scopes IS 'what it may do, such as events:write';
COMMENT ON COLUMN keys.created_at IS 'when it was made';
COMMENT ON COLUMN keys.expires_at IS 'from when on it is refused; null: never';
COMMENT ON COLUMN keys.revoked_at IS 'when it was revoked; null: it is in force';
COMMENT ON COLUMN keys.last_used_at IS 'when it was last used, to the minute; null: never';

CREATE TABLE workflows (
    account_id BIGINT NOT NULL,
    id UUID NOT NULL,
    name TEXT NOT NULL,
    enabled_version INTEGER,
    latest_version INTEGER NOT NULL,
    enablement INTEGER DEFAULT 0 NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT workflows_pkey PRIMARY KEY (account_id, id),
    CONSTRAINT workflows_account_id_name_key UNIQUE (account_id, name),
    CONSTRAINT workflows_account_id_fkey FOREIGN KEY(account_id) REFERENCES accounts (id) ON DELETE CASCADE
);
COMMENT ON TABLE workflows IS 'workflows by name; what they say is in workflow_versions';
COMMENT ON COLUMN workflows.account_id IS 'the account that owns the row';
COMMENT ON COLUMN workflows.id IS 'id of the workflow';
COMMENT ON COLUMN workflows.name IS 'unique in the account; letters, digits, - and _';
COMMENT ON COLUMN workflows.enabled_version IS 'the version that looks at events; null: disabled';
COMMENT ON COLUMN workflows.latest_version IS 'the newest version there is';
COMMENT ON COLUMN workflows.enablement IS 'grows each time a version is enabled or disabled; progress counts from then';
COMMENT ON COLUMN workflows.created_at IS 'when its first version was saved';
COMMENT ON COLUMN workflows.updated_at IS 'when it was last changed, enabled or disabled';

CREATE TABLE progress (
    account_id BIGINT NOT NULL,
    workflow_id UUID NOT NULL,
    subject TEXT NOT NULL,
    enablement INTEGER NOT NULL,
    progress JSONB NOT NULL,
    deadline TIMESTAMP WITH TIME ZONE,
    last_event_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_started_at TIMESTAMP WITH TIME ZONE,
    lapses_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT progress_pkey PRIMARY KEY (account_id, workflow_id, subject),
    CONSTRAINT progress_account_id_workflow_id_fkey FOREIGN KEY(account_id, workflow_id) REFERENCES workflows (account_id, id) ON DELETE CASCADE
);
CREATE INDEX progress_deadline_idx ON progress (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX progress_lapses_idx ON progress (lapses_at) WHERE lapses_at IS NOT NULL;
CREATE INDEX progress_stale_idx ON progress (last_event_at) WHERE progress = '{}' AND last_started_at IS NULL;
CREATE INDEX progress_subject_idx ON progress (account_id, subject);
COMMENT ON TABLE progress IS 'how far subjects have come in workflows whose pattern is more than one event, or that say again';
COMMENT ON COLUMN progress.account_id IS 'the account that owns the row';
COMMENT ON COLUMN progress.workflow_id IS 'the workflow';
COMMENT ON COLUMN progress.subject IS 'whose progress: distinct_id, or the value that the workflow''s key names';
COMMENT ON COLUMN progress.enablement IS 'the workflow''s enablement in which it stands; an older one counts as none';
COMMENT ON COLUMN progress.progress IS 'the partial matches, as app/workflows/matching/state_json.py describes them; {}: none';
COMMENT ON COLUMN progress.deadline IS 'when a none fires unless it is disarmed; null: none is armed';
COMMENT ON COLUMN progress.last_event_at IS 'the last event that was looked at; later ones are later';
COMMENT ON COLUMN progress.last_started_at IS 'the last start, for again; null: none';
COMMENT ON COLUMN progress.lapses_at IS 'from when on all its windows are over; null: it does not lapse by itself';

CREATE TABLE workflow_versions (
    account_id BIGINT NOT NULL,
    workflow_id UUID NOT NULL,
    version INTEGER NOT NULL,
    source TEXT NOT NULL,
    document JSONB NOT NULL,
    awaits TEXT[] DEFAULT '{}' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT workflow_versions_pkey PRIMARY KEY (account_id, workflow_id, version),
    CONSTRAINT workflow_versions_account_id_workflow_id_fkey FOREIGN KEY(account_id, workflow_id) REFERENCES workflows (account_id, id) ON DELETE CASCADE
);
COMMENT ON TABLE workflow_versions IS 'every version of every workflow; a run stays on the version that started it';
COMMENT ON COLUMN workflow_versions.account_id IS 'the account that owns the row';
COMMENT ON COLUMN workflow_versions.workflow_id IS 'the workflow';
COMMENT ON COLUMN workflow_versions.version IS '1, 2, 3 …; never changed once saved';
COMMENT ON COLUMN workflow_versions.source IS 'the document as it was given, comments included';
COMMENT ON COLUMN workflow_versions.document IS 'the document as data';
COMMENT ON COLUMN workflow_versions.awaits IS 'names of the events that its runs may wait for or end by (*: any); others cost them no look-up';
COMMENT ON COLUMN workflow_versions.created_at IS 'when it was saved';

CREATE TABLE events_default (LIKE events INCLUDING ALL);
ALTER TABLE events ATTACH PARTITION events_default DEFAULT;
COMMENT ON TABLE events_default IS 'events whose month has no partition yet; should stay empty';

COMMENT ON TABLE alembic_version IS 'which migrations have run';
COMMENT ON COLUMN alembic_version.version_num IS 'the newest migration that has run';
"""


def upgrade() -> None:
    op.execute(TABLES)
