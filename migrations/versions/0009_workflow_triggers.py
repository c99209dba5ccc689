"""Which event names the enabled workflows look at, one row each: answers "what starts on order_placed?".

Locks: `workflow_versions` SHARE ROW EXCLUSIVE (a foreign key to it) for the moment of the transaction; the table is new.
Safe with the previous code: yes, it does not know the table. What it enables until its processes are gone has no rows; this
release adds them when it first loads the account.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

TABLE = """
CREATE TABLE workflow_triggers (
    account_id BIGINT NOT NULL,
    event TEXT NOT NULL,
    workflow_id UUID NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT workflow_triggers_pkey PRIMARY KEY (account_id, event, workflow_id),
    CONSTRAINT workflow_triggers_account_id_workflow_id_version_fkey FOREIGN KEY(account_id, workflow_id, version)
        REFERENCES workflow_versions (account_id, workflow_id, version) ON DELETE CASCADE
);
CREATE INDEX workflow_triggers_workflow_idx ON workflow_triggers (account_id, workflow_id);
COMMENT ON TABLE workflow_triggers IS 'the event names that each enabled workflow looks at; written when a version is enabled or disabled';
COMMENT ON COLUMN workflow_triggers.account_id IS 'the account that owns the row';
COMMENT ON COLUMN workflow_triggers.event IS 'name of the event; *: any name';
COMMENT ON COLUMN workflow_triggers.workflow_id IS 'the workflow';
COMMENT ON COLUMN workflow_triggers.version IS 'its enabled version';
"""
ENABLED = """
SELECT saved.account_id, saved.workflow_id, saved.version, saved.document -> 'on' FROM workflow_versions AS saved
JOIN workflows ON workflows.account_id = saved.account_id AND workflows.id = saved.workflow_id AND enabled_version = saved.version
"""
MAX_NAME_LENGTH = 255


def upgrade() -> None:
    op.execute(TABLE)
    connection = op.get_bind()
    rows = [
        {"account": account_id, "event": event, "workflow": workflow_id, "version": version}
        for account_id, workflow_id, version, pattern in connection.exec_driver_sql(ENABLED).all()
        for event in _trigger_names(pattern)
    ]
    if rows:
        connection.execute(
            sa.text("INSERT INTO workflow_triggers VALUES (:account, :event, :workflow, :version)"), rows
        )


def _trigger_names(pattern: object) -> set[str]:
    names = set(_names(pattern))
    return {"*"} if "*" in names else {name for name in names if len(name) <= MAX_NAME_LENGTH}


def _names(pattern: object) -> list[str]:
    """All event names in a pattern, those of `unless` and `none` included."""
    if isinstance(pattern, str):
        return [pattern]
    if isinstance(pattern, list):
        return [name for part in pattern for name in _names(part)]
    if isinstance(pattern, dict):
        parts = [pattern[field] for field in ("event", "of", "seq", "all", "any", "unless", "none") if field in pattern]
        return _names(parts)
    return []
