"""Run trees: a run with all its blocks. The run without a parent is the root of its tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.models import Run
from app.db import event_queries
from app.db.connection import Database, run_sql


@dataclass(frozen=True, slots=True)
class RunResults:
    """What the steps of a run tree have recorded: `outputs` by step id, `variables` by name, and the result of the `last`
    action before the run's current step (its parent's, if it has none of its own)."""

    outputs: Mapping[str, Any]
    variables: Mapping[str, Any]
    last: Mapping[str, Any] | None


# Of steps that were entered several times, the last time counts. `past` are the runs whose steps came before the run's
# current step: the run itself, its blocks, and of each ancestor the steps before the `par` that it is in. The other blocks
# of that `par` run concurrently and are not part of it.
_RESULTS = """
WITH RECURSIVE recorded AS (
    SELECT run_id, ordinal, path, name, action, status, finished_at, output, error FROM steps
    WHERE account_id = %(account)s AND status IN ('done', 'failed') AND (name IS NOT NULL OR action = 'set')
        AND run_id IN (SELECT id FROM runs WHERE account_id = %(account)s AND id = %(root)s
                       UNION ALL SELECT id FROM runs WHERE account_id = %(account)s AND root_id = %(root)s)
), ancestors (id, parent, before) AS (
    SELECT id, parent_id, NULL::int FROM runs WHERE account_id = %(account)s AND id = %(run)s
    UNION ALL
    SELECT above.id, above.parent_id, (SELECT parent_ordinal FROM runs WHERE account_id = %(account)s AND id = ancestors.id)
    FROM ancestors JOIN runs AS above ON above.account_id = %(account)s AND above.id = ancestors.parent
), past (id, before) AS (
    SELECT id, before FROM ancestors
    UNION ALL
    SELECT block.id, NULL FROM past JOIN runs AS block ON block.account_id = %(account)s AND block.parent_id = past.id
        AND (past.before IS NULL OR block.parent_ordinal < past.before)
        AND block.id NOT IN (SELECT id FROM ancestors)
)
SELECT
    (SELECT json_object_agg(name, CASE WHEN status = 'done' THEN output
         ELSE coalesce(output, '{}') || jsonb_build_object('error', error) END)::text
     FROM (SELECT DISTINCT ON (name) * FROM recorded WHERE name IS NOT NULL
           ORDER BY name, finished_at DESC, run_id DESC, ordinal DESC) AS named),
    (SELECT jsonb_object_agg(variable.key, variable.value ORDER BY finished_at, run_id, ordinal)::text
     FROM (SELECT DISTINCT ON (path) * FROM recorded WHERE action = 'set'
           ORDER BY path, finished_at DESC, run_id DESC, ordinal DESC) AS given, jsonb_each(output) AS variable),
    (SELECT jsonb_build_object('status', status, 'output', output, 'error', error)::text
     FROM past JOIN steps ON account_id = %(account)s AND run_id = past.id AND (before IS NULL OR ordinal < before)
     WHERE status IN ('done', 'failed') AND action <> ALL (%(control_steps)s)
     ORDER BY finished_at DESC, run_id DESC, ordinal DESC LIMIT 1)
"""


def find_results(database: Database, run: Run, control_steps: Sequence[str]) -> RunResults:
    """The recorded results of the run and its blocks. `control_steps` are the steps that are not actions. `last` has the
    members status, output and error."""
    values = {
        "account": run.account_id,
        "run": str(run.id),
        "root": str(run.root_id or run.id),
        "control_steps": list(control_steps),
    }
    ((outputs, variables, last),) = database.fetch_all(_RESULTS, values)
    return RunResults(
        event_queries.read_exactly(outputs or "{}"),
        event_queries.read_exactly(variables or "{}"),
        event_queries.read_exactly(last) if last else None,
    )


# Runs and their blocks, by the ids of the roots.
_TREE = """WITH tree AS (
    SELECT id FROM runs WHERE account_id = %(account)s AND id = ANY (%(roots)s::uuid[])
    UNION ALL SELECT id FROM runs WHERE account_id = %(account)s AND root_id = ANY (%(roots)s::uuid[])
)"""

_AWAITED_EVENTS = f"""
{_TREE}
SELECT output ->> 'id' FROM tree JOIN steps ON account_id = %(account)s AND run_id = tree.id
WHERE action = 'wait_for' AND status = 'done' AND output ->> 'id' IS NOT NULL
"""


def find_awaited_events_of_tree(database: Database, run: Run) -> frozenset[UUID]:
    """The ids of the events that any `wait_for` of the run tree has taken."""
    values = {"account": run.account_id, "roots": [str(run.root_id or run.id)]}
    return frozenset(UUID(row[0]) for row in database.fetch_all(_AWAITED_EVENTS, values))


@dataclass(frozen=True, slots=True)
class FailedBlock:
    """A block that was not done: its number in its `par`, its error or status, and what its failure is grouped by."""

    number: int
    error: str
    error_target: str | None = None
    error_class: str | None = None


def find_failed_blocks(database: Database, run: Run) -> list[FailedBlock]:
    """The blocks of the run's current `par` that were not done, in order."""
    rows = database.fetch_all(
        "SELECT substring(match_key FROM '[0-9]+$')::int, coalesce(error, status), error_target, error_class FROM runs "
        "WHERE account_id = %s AND parent_id = %s AND parent_ordinal = %s AND status <> 'done' ORDER BY id",
        (run.account_id, str(run.id), run.ordinal),
    )
    return [FailedBlock(*row) for row in rows]


# Runs of a tree are locked the latest first, in the order of a block that ends: the block, then its parent.
_LOCK = f"""
{_TREE}
SELECT id FROM runs WHERE account_id = %(account)s AND id IN (SELECT id FROM tree) AND status = 'running'
ORDER BY id DESC FOR UPDATE
"""

_END = f"""
{_TREE}, run AS (
    UPDATE runs SET status = %(status)s, turn = turn + 1, wake_at = NULL, blocks_left = NULL, error = %(reason)s,
        updated_at = greatest(updated_at, %(now)s), finished_at = %(now)s
    WHERE account_id = %(account)s AND id IN (SELECT id FROM tree) AND status = 'running'
    RETURNING account_id, id, ordinal, root_id
), step AS (
    UPDATE steps SET status = 'skipped', finished_at = %(now)s, error = %(reason)s
    FROM run WHERE steps.account_id = run.account_id AND run_id = run.id AND steps.ordinal = run.ordinal
        AND steps.status = 'waiting'
)
SELECT DISTINCT coalesce(root_id, id) FROM run
"""


def end_run_trees(
    connection: sa.Connection,
    account_id: int,
    root_ids: Sequence[UUID],
    status: str,
    reason: str,
    now: datetime,
    *,
    unless_taken: UUID | None = None,
) -> set[UUID]:
    """End the running runs of these trees; the roots of those that had some. None is ended if a `wait_for` of the trees has taken
    the event `unless_taken`."""
    roots = [str(root_id) for root_id in root_ids]
    values = {"account": account_id, "roots": roots, "status": status, "reason": reason, "now": now}
    connection.exec_driver_sql(_LOCK, values)
    # A separate statement, which sees what the previous holders of the locks have written.
    if unless_taken is not None:
        taken = connection.exec_driver_sql(_AWAITED_EVENTS, values).scalars()
        if str(unless_taken) in taken:
            return set()
    ended: set[UUID] = set()
    # The next statement sees blocks that were started while the first one waited for their parent.
    while found := connection.exec_driver_sql(_END, values).scalars().all():
        ended.update(found)
    return ended


# Runs that are ended by one transaction.
_BATCH = 1_000


def find_running_roots(connection: sa.Connection, account_id: int, workflow_id: UUID) -> list[UUID]:
    """The ids of running runs of a workflow, without blocks; at most `_BATCH`."""
    found = run_sql(
        connection,
        "SELECT id FROM runs WHERE account_id = :account AND workflow_id = :workflow AND status = 'running' "
        "AND parent_id IS NULL LIMIT :limit",
        {"account": account_id, "workflow": workflow_id, "limit": _BATCH},
    )
    return list(found.scalars())


def count_running_roots(connection: sa.Connection, account_id: int, workflow_id: UUID) -> int:
    """How many runs of a workflow are running, without blocks."""
    counted: int = run_sql(
        connection,
        "SELECT count(*) FROM runs WHERE account_id = :account AND workflow_id = :workflow AND status = 'running' "
        "AND parent_id IS NULL",
        {"account": account_id, "workflow": workflow_id},
    ).scalar_one()
    return counted
