"""Blocks that go on side by side are runs with a parent; runs count the rounds of a repeat, and know whose events they wait
for where their workflow's key is another field than distinct_id.

Locks: `runs` ACCESS EXCLUSIVE for a moment (columns without a rewrite); the indexes are built beside the traffic. That ends
the transaction; what is done twice when a migration is called again does nothing the second time.
Safe with the previous code: yes. It knows nothing of the columns, and cannot move blocks, or runs that stand at a form that
it does not know: their jobs go back to the queue until a worker of this release takes them.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

COLUMNS = """
ALTER TABLE runs
    ADD COLUMN IF NOT EXISTS root_id UUID,
    ADD COLUMN IF NOT EXISTS parent_id UUID,
    ADD COLUMN IF NOT EXISTS parent_ordinal INTEGER,
    ADD COLUMN IF NOT EXISTS blocks_left INTEGER,
    ADD COLUMN IF NOT EXISTS rounds INTEGER DEFAULT 0 NOT NULL,
    ADD COLUMN IF NOT EXISTS subject TEXT;
COMMENT ON TABLE runs IS 'one execution of one workflow version for one match, or a block of one that goes on beside others';
COMMENT ON COLUMN runs.match_key IS 'what it was started for, unique per workflow: the id of the last matched event, with its deadline if one fired; of a block its parent''s, with its place there';
COMMENT ON COLUMN runs.wake_at IS 'when its job is due: now, the end of a wait, or the next attempt; null: ended, or waiting for its blocks';
COMMENT ON COLUMN runs.root_id IS 'of a block of par: the run that it belongs to; null: no block';
COMMENT ON COLUMN runs.parent_id IS 'of a block: the run or block that waits for it';
COMMENT ON COLUMN runs.parent_ordinal IS 'of a block: the parent''s step that has it, by its ordinal';
COMMENT ON COLUMN runs.blocks_left IS 'for how many blocks it waits; null: for none';
COMMENT ON COLUMN runs.rounds IS 'rounds begun of the repeat in which it stands';
COMMENT ON COLUMN runs.subject IS 'whose events it waits for, where its workflow''s key is another field than distinct_id; null: it is not';

CREATE TABLE IF NOT EXISTS keyed_events (
    account_id BIGINT NOT NULL,
    key TEXT NOT NULL,
    subject TEXT NOT NULL,
    event_id UUID NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT keyed_events_pkey PRIMARY KEY (account_id, key, subject, event_id)
);
CREATE INDEX IF NOT EXISTS keyed_events_received_at_idx ON keyed_events USING brin (received_at);
COMMENT ON TABLE keyed_events IS 'awaited events by the keys of workflows that count by another field than distinct_id; kept for 30 days';
COMMENT ON COLUMN keyed_events.account_id IS 'the account that owns the row';
COMMENT ON COLUMN keyed_events.key IS 'the field that some workflow has for its key, such as data.order_id';
COMMENT ON COLUMN keyed_events.subject IS 'what the event has there';
COMMENT ON COLUMN keyed_events.event_id IS 'the event';
COMMENT ON COLUMN keyed_events.received_at IS 'received_at of that event (finds its partition)';
"""

INDEXES = {
    "runs_family_idx": "runs (account_id, root_id) WHERE root_id IS NOT NULL",
    "runs_blocks_idx": "runs (account_id, parent_id, parent_ordinal) WHERE parent_id IS NOT NULL",
    "runs_running_by_key_idx": "runs (account_id, subject) WHERE status = 'running' AND subject IS NOT NULL",
    "workflow_versions_key_idx": "workflow_versions (account_id) WHERE awaits <> '{}' AND document ? 'key'",
}


def upgrade() -> None:
    op.execute(COLUMNS)
    with op.get_context().autocommit_block():
        # A build that waits for an old transaction takes its time, and hinders nobody.
        op.execute("SET lock_timeout = 0")
        for name, of in INDEXES.items():
            op.execute(f"DROP INDEX IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {of}")
        op.execute("SET lock_timeout = '5s'")
