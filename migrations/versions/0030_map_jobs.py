"""Say in comments that there are jobs of the kind `map`: they map deliveries that a web process postponed.

Locks: none that anybody waits for (comments only).
Safe with the previous code: yes, its workers do not claim jobs of this kind.
"""

from alembic import op

revision = "0030"
down_revision = "0029"

_KINDS = "'{} run, event, match, map or deadline'"
_PREVIOUS_KINDS = "'{} run, event, match or deadline'"


def upgrade() -> None:
    _comment(_KINDS)


def downgrade() -> None:
    _comment(_PREVIOUS_KINDS)


def _comment(kinds: str) -> None:
    op.execute(f"COMMENT ON COLUMN jobs.kind IS {kinds.format('what it is for:')}")
    op.execute(f"COMMENT ON COLUMN ops.backlog.kind IS {kinds.format('what the jobs are for:')}")
