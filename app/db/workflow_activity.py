"""Workflows as lists show them, and what they do now: light queries, each with an index and a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.ids import first_id_at
from app.db.connection import run_sql
from app.db.shared_sql import MAX_COUNTED, count_of

# Runs of a workflow that are counted at most, of all days together.
MAX_RUNS = 100_000


@dataclass(frozen=True, slots=True)
class WorkflowName:
    """A workflow without its document. `events`: the names that its enabled version looks at (`*`: any)."""

    id: UUID
    name: str
    enabled_version: int | None
    latest_version: int
    updated_at: datetime
    events: Sequence[str]


def list_names(
    connection: sa.Connection, account_id: int, after: str, limit: int, part: str = ""
) -> list[WorkflowName]:
    """Workflows of an account by name, those after `after` that have `part` in their names, without their documents."""
    rows = run_sql(
        connection,
        "SELECT id, name, enabled_version, latest_version, updated_at, ARRAY(SELECT event FROM workflow_triggers AS trigger "
        "WHERE trigger.account_id = workflow.account_id AND workflow_id = workflow.id ORDER BY event) "
        "FROM workflows AS workflow WHERE account_id = :account AND name > :after AND strpos(lower(name), lower(:part)) > 0 "
        "ORDER BY name LIMIT :limit",
        {"account": account_id, "part": part, "after": after, "limit": limit},
    )
    return [WorkflowName(*row) for row in rows]


_STARTS = """
SELECT workflow.id, day.number - 1, run.started, run.failed
FROM unnest(CAST(:workflows AS uuid[])) AS workflow (id)
CROSS JOIN unnest(CAST(:begins AS uuid[]), CAST(:ends AS uuid[])) WITH ORDINALITY AS day (first, beyond, number)
CROSS JOIN LATERAL (SELECT count(*) AS started, count(*) FILTER (WHERE status = 'failed') AS failed FROM (
    SELECT status FROM runs WHERE account_id = :account AND workflow_id = workflow.id AND parent_id IS NULL
        AND id >= day.first AND id < day.beyond LIMIT :limit
) AS counted) AS run
WHERE run.started > 0
"""


def count_starts(
    connection: sa.Connection, account_id: int, workflow_ids: Sequence[UUID], times: Sequence[datetime]
) -> list[tuple[UUID, int, int, int]]:
    """(workflow, n, starts, failed) for each n with runs that were started from the nth of `times` until before the next one,
    without blocks; at most MAX_COUNTED are counted."""
    ids = [str(first_id_at(at)) for at in times]
    values = {"account": account_id, "begins": ids[:-1], "ends": ids[1:], "limit": MAX_COUNTED}
    rows = run_sql(connection, _STARTS, {**values, "workflows": [str(one) for one in workflow_ids]})
    return [(row[0], int(row[1]), int(row[2]), int(row[3])) for row in rows]


# The steps at which runs are, each found by one look into the index.
_STEPS = """
WITH RECURSIVE step (workflow_id, at) AS (
    SELECT workflow.id, (SELECT min(at) FROM runs
        WHERE account_id = :account AND workflow_id = workflow.id AND status = 'running' AND at IS NOT NULL)
    FROM unnest(CAST(:workflows AS uuid[])) AS workflow (id)
    UNION ALL
    SELECT workflow_id, (SELECT min(runs.at) FROM runs
        WHERE account_id = :account AND workflow_id = step.workflow_id AND status = 'running' AND runs.at > step.at)
    FROM step WHERE at IS NOT NULL
)
"""
_AT_STEP = "runs WHERE account_id = :account AND workflow_id = step.workflow_id AND status = 'running' AND at = step.at"


def count_running(
    connection: sa.Connection, account_id: int, workflow_ids: Sequence[UUID]
) -> list[tuple[UUID, str, int]]:
    """(workflow, path of a step, runs that are there now), with the blocks that are there; at most MAX_COUNTED are counted."""
    rows = run_sql(
        connection,
        f"{_STEPS} SELECT workflow_id, at, {count_of(_AT_STEP)} FROM step WHERE at IS NOT NULL ORDER BY workflow_id, at",
        {"account": account_id, "workflows": [str(one) for one in workflow_ids], "max_rows": MAX_COUNTED},
    )
    return [(row[0], row[1], int(row[2])) for row in rows]


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run, or the run of a block, that is at a step. `wake_at`: when it goes on by itself (None: it waits for its blocks)."""

    run_id: UUID
    distinct_id: str
    at: str
    wake_at: datetime | None


def find_waiting(connection: sa.Connection, account_id: int, workflow_id: UUID, limit: int) -> list[WaitingRun]:
    """The runs that are at each step of a workflow now, the first `limit` of each step."""
    rows = run_sql(
        connection,
        f"{_STEPS} SELECT run.* FROM step CROSS JOIN LATERAL (SELECT coalesce(root_id, id), distinct_id, at, wake_at "
        f"FROM {_AT_STEP} ORDER BY id LIMIT :limit) AS run WHERE step.at IS NOT NULL",
        {"account": account_id, "workflows": [str(workflow_id)], "limit": limit},
    )
    return [WaitingRun(*row) for row in rows]


def count_progress(connection: sa.Connection, account_id: int, workflow_id: UUID) -> int:
    """How many subjects have fulfilled a part of the pattern of an enabled workflow; at most MAX_COUNTED are looked at."""
    counted = run_sql(
        connection,
        "SELECT count(*) FROM (SELECT progress, progress.enablement FROM progress WHERE account_id = :account "
        "AND workflow_id = :workflow LIMIT :limit) AS found JOIN workflows AS workflow ON account_id = :account "
        "AND workflow.id = :workflow AND workflow.enablement = found.enablement AND enabled_version IS NOT NULL "
        "WHERE progress <> '{}'",
        {"account": account_id, "workflow": workflow_id, "limit": MAX_COUNTED},
    )
    return int(counted.scalar_one())


def find_triggers(connection: sa.Connection, account_id: int, workflow_id: UUID) -> list[str]:
    """The names of the events that the enabled version of a workflow looks at (`*`: any); none while it is disabled."""
    rows = run_sql(
        connection,
        "SELECT event FROM workflow_triggers WHERE account_id = :account AND workflow_id = :workflow ORDER BY event",
        {"account": account_id, "workflow": workflow_id},
    )
    return list(rows.scalars())


@dataclass(frozen=True, slots=True)
class NotStarted:
    """An event that did not start a workflow, and why not."""

    event_id: UUID
    event: str
    distinct_id: str
    received_at: datetime
    contributing: bool
    reason: str


# The names whose events are looked at, and how many of all together.
_NAMES, _LOOKED_AT = 20, 200
_ANY = "*"

_NOT_STARTED = """
SELECT event.id, event.event, event.distinct_id, event.received_at,
    coalesce(CAST(decision ->> 'contributing' AS boolean), false), decision ->> 'reason'
FROM unnest(CAST(:names AS text[])) AS wanted (name)
CROSS JOIN LATERAL (
    SELECT id, event, distinct_id, received_at, decisions FROM events
    WHERE account_id = :account AND {named} AND received_at >= :since AND id >= :first ORDER BY id DESC LIMIT :looked_at
) AS event
CROSS JOIN LATERAL jsonb_array_elements(coalesce(event.decisions, '[]')) AS decision
WHERE (decision ->> 'workflow' = :workflow OR decision -> 'workflows' ? :workflow) AND NOT CAST(decision ->> 'started' AS boolean)
ORDER BY event.id DESC LIMIT :limit
"""


def find_not_started(
    connection: sa.Connection, account_id: int, workflow: str, names: Sequence[str], since: datetime, limit: int
) -> list[NotStarted]:
    """The latest of the events with these names (`*`: any) that a workflow of this name looked at and that did not start it; only
    among the last _LOOKED_AT since then."""
    wanted = [_ANY] if _ANY in names else list(names)[:_NAMES]
    if not wanted:
        return []
    values: Mapping[str, Any] = {
        "account": account_id,
        "workflow": workflow,
        "names": wanted,
        "since": since,
        "first": str(first_id_at(since)),
        "looked_at": _LOOKED_AT // len(wanted),
        "limit": limit,
    }
    statement = _NOT_STARTED.format(named="TRUE" if wanted == [_ANY] else "event = wanted.name")
    rows = run_sql(connection, statement, values)
    return [NotStarted(*row) for row in rows]


def count_runs(connection: sa.Connection, account_id: int, workflow_id: UUID) -> tuple[int, int, int]:
    """How many runs a workflow has, and how many of them are running, without blocks; and how many subjects have a row of
    progress. At most MAX_RUNS, MAX_COUNTED and MAX_RUNS are counted."""
    runs = "runs WHERE account_id = :account AND workflow_id = :workflow AND parent_id IS NULL"
    # In an order, they are read from runs_workflow_idx alone, and not from the table.
    every, running, subjects = (
        count_of(f"{runs} ORDER BY id DESC", ":all"),
        count_of(f"{runs} AND status = 'running'", ":running"),
        count_of("progress WHERE account_id = :account AND workflow_id = :workflow", ":all"),
    )
    values = {"account": account_id, "workflow": workflow_id, "all": MAX_RUNS, "running": MAX_COUNTED}
    row = run_sql(connection, f"SELECT {every}, {running}, {subjects}", values).one()
    return int(row[0]), int(row[1]), int(row[2])
