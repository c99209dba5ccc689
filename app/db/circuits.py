"""Open circuits, for people to see. Workers decide by what they have in memory, and write it here when it changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.db.connection import delete_batch, run_sql

# A target that no run waits for is not called, so its circuit stays open. It is shown for this long after the end of its pause.
_SHOWN_FOR = timedelta(minutes=10)
_KEPT_FOR = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """A target that has failed `failures` times in a row: its circuit opened at `opened_at`, the next call is at `retry_at`."""

    target: str
    failures: int
    opened_at: datetime
    retry_at: datetime


@dataclass(frozen=True, slots=True)
class TargetRow:
    """A target that is failing or disabled `since` a time. With the `state` "disabled" it is not called; `reason` is the error of
    the run `run_id`. With "failing" its circuit is open after `failures` in a row, the next call is at `retry_at`, and
    `runs_held` runs wait for it."""

    state: str
    target: str
    since: datetime
    reason: str | None
    run_id: UUID | None
    failures: int | None
    retry_at: datetime | None
    runs_held: int | None


def save_open_circuit(connection: sa.Connection, account_id: int, circuit: OpenCircuit) -> None:
    """Insert an open circuit, or update it: several workers may have opened it."""
    run_sql(
        connection,
        "INSERT INTO open_circuits AS known (account_id, target, failures, opened_at, retry_at) "
        "SELECT :account, :target, :failures, :opened_at, :retry_at FROM accounts WHERE id = :account "
        "ON CONFLICT (account_id, target) DO UPDATE SET failures = excluded.failures, retry_at = excluded.retry_at, "
        "opened_at = CASE WHEN known.retry_at < excluded.retry_at - CAST(:kept_for AS interval) THEN excluded.opened_at "
        "ELSE least(known.opened_at, excluded.opened_at) END",
        {
            "account": account_id,
            "target": circuit.target,
            "failures": circuit.failures,
            "opened_at": circuit.opened_at,
            "retry_at": circuit.retry_at,
            "kept_for": _KEPT_FOR,
        },
    )


def delete_circuit(connection: sa.Connection, account_id: int, target: str) -> None:
    """Delete a circuit that has closed."""
    values = {"account": account_id, "target": target}
    run_sql(connection, "DELETE FROM open_circuits WHERE account_id = :account AND target = :target", values)


# A circuit that no worker has tried to close is shown while runs wait for it.
_SHOWN = """
SELECT account_id, target, failures, opened_at, retry_at, held.runs FROM open_circuits AS circuit, LATERAL (
    SELECT count(*) AS runs FROM runs
    WHERE runs.account_id = circuit.account_id AND held_by = circuit.target AND status = 'running'
) AS held
WHERE (retry_at > :shown_from OR held.runs > 0)
"""


# The next columns are null where they do not apply.
_TARGETS = f"""
SELECT 'failing' AS state, target, opened_at AS since, NULL AS reason, NULL::uuid AS run_id, failures, retry_at, runs AS runs_held
FROM ({_SHOWN} AND circuit.account_id = :account) AS shown
UNION ALL
SELECT 'disabled', target, disabled_at, reason, run_id, NULL, NULL, NULL FROM disabled_targets WHERE account_id = :account
"""


def list_targets(
    connection: sa.Connection, account_id: int, after: tuple[datetime, str] | None, limit: int, now: datetime
) -> list[TargetRow]:
    """At most `limit` targets of an account that are not called as usual, the latest first: those after (since, target)."""
    since, target = after or (None, None)
    rows = run_sql(
        connection,
        f"SELECT * FROM ({_TARGETS}) AS found WHERE CAST(:since AS timestamptz) IS NULL OR since < :since "
        "OR since = :since AND target > :target ORDER BY since DESC, target LIMIT :limit",
        {"account": account_id, "since": since, "target": target, "limit": limit, "shown_from": now - _SHOWN_FOR},
    )
    return [TargetRow(*row) for row in rows]


def count_open_circuits(connection: sa.Connection, now: datetime) -> tuple[int, int]:
    """How many circuits of all accounts are open, and how many runs they hold."""
    query = f"SELECT count(*), coalesce(sum(runs), 0)::bigint FROM ({_SHOWN}) AS shown"
    circuits, held = run_sql(connection, query, {"shown_from": now - _SHOWN_FOR}).one()
    return circuits, held


def forget_old_circuits(connection: sa.Connection, now: datetime) -> int:
    """Delete a batch of circuits that no worker has written for a day; how many."""
    return delete_batch(connection, "open_circuits", "retry_at < :before", {"before": now - _KEPT_FOR})
