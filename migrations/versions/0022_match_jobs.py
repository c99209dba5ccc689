"""Say in comments that there are jobs of the kind `match`: they decide what a web process postponed.

Locks: none that anybody waits for (comments only).
Safe with the previous code: yes, its workers do not claim jobs of this kind.
"""

from alembic import op

revision = "0022"
down_revision = "0021"

_KINDS = "'{} run, event, match or deadline'"
_PREVIOUS_KINDS = "'{} run, event or deadline'"


def upgrade() -> None:
    _comment(_KINDS)


def downgrade() -> None:
    _comment(_PREVIOUS_KINDS)


def _comment(kinds: str) -> None:
    op.execute(f"COMMENT ON COLUMN jobs.kind IS {kinds.format('what it is for:')}")
    op.execute(f"COMMENT ON COLUMN ops.backlog.kind IS {kinds.format('what the jobs are for:')}")
