"""A run with all its blocks: what they have settled together, and how they end together.

Comes in: a run, or the id of the one without a parent (the root). Goes out: what its steps may speak of; how many ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.models import Run
from app.db import event_queries
from app.db.connection import Database


@dataclass(frozen=True, slots=True)
class RunResults:
    """What a run and its blocks have settled: `outputs` by step id, `variables` by name, and what the `last` action gave
    that came before where the run stands now (its own or, before its first one, its parent's)."""

    outputs: Mapping[str, Any]
    variables: Mapping[str, Any]
    last: Mapping[str, Any] | None = field(default=None)


# Of steps that were entered several times the last time counts. `past` are the runs that lie behind the run: itself, its
# blocks, and of each run above it what came before the `par` in which it stands; the other blocks of that go on beside it.
_SETTLED = """
WITH RECURSIVE settled AS (
    SELECT run_id, ordinal, path, name, action, status, finished_at, output, error FROM steps
    WHERE account_id = %(account)s AND status IN ('done', 'failed') AND (name IS NOT NULL OR action = 'set')
        AND run_id IN (SELECT id FROM runs WHERE account_id = %(account)s AND id = %(root)s
                       UNION ALL SELECT id FROM runs WHERE account_id = %(account)s AND root_id = %(root)s)
), line (id, above, before) AS (
    SELECT id, parent_id, NULL::int FROM runs WHERE account_id = %(account)s AND id = %(run)s
    UNION ALL
    SELECT above.id, above.parent_id, (SELECT parent_ordinal FROM runs WHERE account_id = %(account)s AND id = line.id)
    FROM line JOIN runs AS above ON above.account_id = %(account)s AND above.id = line.above
), past (id, before) AS (
    SELECT id, before FROM line
    UNION ALL
    SELECT block.id, NULL FROM past JOIN runs AS block ON block.account_id = %(account)s AND block.parent_id = past.id
        AND (past.before IS NULL OR block.parent_ordinal < past.before)
        AND block.id NOT IN (SELECT id FROM line)
)
SELECT
    (SELECT json_object_agg(name, CASE WHEN status = 'done' THEN output
         ELSE coalesce(output, '{}') || jsonb_build_object('error', error) END)::text
     FROM (SELECT DISTINCT ON (name) * FROM settled WHERE name IS NOT NULL
           ORDER BY name, finished_at DESC, run_id DESC, ordinal DESC) AS named),
    (SELECT jsonb_object_agg(variable.key, variable.value ORDER BY finished_at, run_id, ordinal)::text
     FROM (SELECT DISTINCT ON (path) * FROM settled WHERE action = 'set'
           ORDER BY path, finished_at DESC, run_id DESC, ordinal DESC) AS given, jsonb_each(output) AS variable),
    (SELECT jsonb_build_object('status', status, 'output', output, 'error', error)::text
     FROM past JOIN steps ON account_id = %(account)s AND run_id = past.id AND (before IS NULL OR ordinal < before)
     WHERE status IN ('done', 'failed') AND action <> ALL (%(no_actions)s)
     ORDER BY finished_at DESC, run_id DESC, ordinal DESC LIMIT 1)
"""


def find_results(database: Database, run: Run, no_actions: Sequence[str]) -> RunResults:
    """What the run and its blocks have settled; `no_actions` are the steps that reach nothing outside. `last` comes as
    {status, output, error}."""
    values = {
        "account": run.account_id,
        "run": str(run.id),
        "root": str(run.root_id or run.id),
        "no_actions": list(no_actions),
    }
    ((outputs, variables, last),) = database.fetch_all(_SETTLED, values)
    return RunResults(
        event_queries.read_exactly(outputs or "{}"),
        event_queries.read_exactly(variables or "{}"),
        event_queries.read_exactly(last) if last else None,
    )


def find_awaited_events(database: Database, run: Run) -> frozenset[UUID]:
    """The ids of the events that any `wait_for` of a run and its blocks has taken."""
    values = (run.account_id, str(run.root_id or run.id), run.account_id, str(run.root_id or run.id), run.account_id)
    rows = database.fetch_all(
        "WITH family AS (SELECT id FROM runs WHERE account_id = %s AND id = %s "
        "UNION ALL SELECT id FROM runs WHERE account_id = %s AND root_id = %s) "
        "SELECT output ->> 'id' FROM family JOIN steps ON account_id = %s AND run_id = family.id "
        "WHERE action = 'wait_for' AND status = 'done' AND output ->> 'id' IS NOT NULL",
        values,
    )
    return frozenset(UUID(row[0]) for row in rows)


@dataclass(frozen=True, slots=True)
class FailedBlock:
    """A block that did not end well: its number in its `par` and why."""

    number: int
    error: str


def find_failed_blocks(database: Database, run: Run) -> list[FailedBlock]:
    """The blocks of the `par` at which the run stands that did not end well, in their order."""
    rows = database.fetch_all(
        "SELECT substring(match_key FROM '[0-9]+$')::int, coalesce(error, status) FROM runs WHERE account_id = %s "
        "AND parent_id = %s AND parent_ordinal = %s AND status <> 'done' ORDER BY id",
        (run.account_id, str(run.id), run.ordinal),
    )
    return [FailedBlock(*row) for row in rows]


# Whoever locks several runs of a family takes the later ones first, as a block does that ends: itself, then its parent.
_LOCK = """
WITH family AS (
    SELECT id FROM runs WHERE account_id = :account AND id = :root
    UNION ALL SELECT id FROM runs WHERE account_id = :account AND root_id = :root
)
SELECT id FROM runs WHERE account_id = :account AND id IN (SELECT id FROM family) AND status = 'running'
ORDER BY id DESC FOR UPDATE
"""

_IS_TAKEN = """
WITH family AS (
    SELECT id FROM runs WHERE account_id = :account AND id = :root
    UNION ALL SELECT id FROM runs WHERE account_id = :account AND root_id = :root
)
SELECT count(*) FROM family JOIN steps ON account_id = :account AND run_id = family.id
WHERE action = 'wait_for' AND status = 'done' AND output ->> 'id' = :event
"""

_END = """
WITH family AS (
    SELECT id FROM runs WHERE account_id = :account AND id = :root
    UNION ALL SELECT id FROM runs WHERE account_id = :account AND root_id = :root
), run AS (
    UPDATE runs SET status = :status, turn = turn + 1, wake_at = NULL, blocks_left = NULL, error = :why,
        updated_at = greatest(updated_at, :now), finished_at = :now
    WHERE account_id = :account AND id IN (SELECT id FROM family) AND status = 'running'
    RETURNING account_id, id, ordinal
), step AS (
    UPDATE steps SET status = 'skipped', finished_at = :now, error = :why
    FROM run WHERE steps.account_id = run.account_id AND run_id = run.id AND steps.ordinal = run.ordinal
        AND steps.status = 'waiting'
)
SELECT count(*) FROM run
"""


def end_run_tree(
    connection: sa.Connection,
    account_id: int,
    root_id: UUID,
    status: str,
    why: str,
    now: datetime,
    *,
    unless_taken: UUID | None = None,
) -> int:
    """End a run and its blocks wherever they stand; how many. `unless_taken`: not if one of them has waited for that event
    and has taken it."""
    values = {"account": account_id, "root": root_id, "status": status, "why": why, "now": now}
    connection.execute(sa.text(_LOCK), values)
    # Who held one of them has let go of it, so that what follows sees what it wrote.
    if unless_taken is not None:
        taken = connection.execute(sa.text(_IS_TAKEN), {**values, "event": str(unless_taken)}).scalar()
        if taken:
            return 0
    ended = 0
    # Blocks that were started while the first statement waited for their parent are seen by the next one.
    while count := connection.execute(sa.text(_END), values).scalar_one():
        ended += count
    return ended
