"""Deleting a workflow: in batches, while nothing of it starts, and once more after an interruption."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest

from app.core.errors import Problem, Unavailable
from app.db import erasure
from app.db.audit import EntryFilter
from app.db.erasure import Erased
from app.services import audit, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event

RUNS = 2 * erasure._BATCH + 500
# Runs with two attempts of one step, and progress of as many subjects.
ROWS = """
WITH number AS (SELECT generate_series(1, %(runs)s) AS n), workflow AS (
    SELECT id, account_id FROM workflows WHERE account_id = %(account)s AND name = 'watch'
), run AS (
    INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id,
        status, created_at, updated_at, finished_at)
    SELECT account_id, gen_random_uuid(), id, 1, 'match-' || n, gen_random_uuid(), now(), '{}', 'ann', 'done', now(), now(), now()
    FROM number, workflow RETURNING account_id, id
), step AS (
    INSERT INTO steps (account_id, run_id, ordinal, path, action, status, started_at)
    SELECT account_id, id, 0, 'steps[0]', 'log', 'done', now() FROM run
), attempt AS (
    INSERT INTO attempts (account_id, run_id, ordinal, attempt, outcome, started_at, finished_at)
    SELECT account_id, id, 0, try, 'done', now(), now() FROM run, generate_series(1, 2) AS try
)
INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, last_event_at)
SELECT account_id, id, 'subject-' || n, 1, '{}', now() FROM number, workflow
"""
TABLES = ("runs", "steps", "attempts", "progress", "workflow_versions", "workflow_triggers", "workflows")


@pytest.fixture
def filled(context: AppContext, acme: Sender) -> Sender:
    """An account with an enabled workflow, which has more runs and progress than two batches."""
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    with context.database.transaction() as connection:
        connection.exec_driver_sql(ROWS, {"account": acme.account_id, "runs": RUNS})
    return acme


def _counts(context: AppContext, sender: Sender) -> dict[str, int]:
    query = " UNION ALL ".join(
        f"SELECT '{name}', count(*) FROM {name} WHERE account_id = %(account)s" for name in TABLES
    )
    with context.database.transaction() as connection:
        return {row[0]: row[1] for row in connection.exec_driver_sql(query, {"account": sender.account_id})}


def _entries(context: AppContext, sender: Sender) -> list[tuple[str, Any, Any]]:
    found = audit.list_entries(context, EntryFilter(account_id=sender.account_id), 10)
    return [(entry.action, entry.before, entry.after) for entry in found]


@contextmanager
def _deletion_that_waits(context: AppContext, sender: Sender) -> Iterator[tuple[Future[Erased], int]]:
    """A deletion that waits for a row of its second batch, until this block ends, and the process id of its connection."""
    with ThreadPoolExecutor() as pool, closing(psycopg2.connect(context.database.url)) as blocker:
        cursor = blocker.cursor()
        cursor.execute(
            "SELECT pg_backend_pid() FROM runs WHERE account_id = %(account)s AND match_key = (SELECT match_key FROM runs "
            "WHERE account_id = %(account)s ORDER BY match_key OFFSET %(skipped)s LIMIT 1) FOR UPDATE",
            {"account": sender.account_id, "skipped": erasure._BATCH + 10},
        )
        (blocking,) = cursor.fetchone()
        deletion = pool.submit(workflows.delete_workflow, context, sender.account_id, "watch")

        yield deletion, _who_waits_for(context, blocking)
        blocker.rollback()


def _who_waits_for(context: AppContext, blocking: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with context.database.transaction() as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE %(by)s = ANY (pg_blocking_pids(pid))"
            for process in connection.exec_driver_sql(query, {"by": blocking}).scalars():
                return int(process)
        time.sleep(0.02)
    pytest.fail("the deletion does not wait for the row")


def test_all_batches_are_deleted_and_what_others_have_stays(
    context: AppContext, filled: Sender, globex: Sender
) -> None:
    workflows.apply_workflow(context, filled.account_id, a_workflow(name="other"))
    workflows.apply_workflow(context, globex.account_id, a_workflow())
    assert filled.post(an_event()).status_code == globex.post(an_event()).status_code == 200
    kept = _counts(context, globex)
    assert workflows.delete_workflow(context, filled.account_id, "watch") == Erased(0, RUNS + 1, RUNS)
    assert _counts(context, filled) == kept == _counts(context, globex)


def test_the_audit_log_says_who_began_it_and_what_was_deleted(context: AppContext, filled: Sender) -> None:
    workflows.delete_workflow(context, filled.account_id, "watch")
    (deleted, before, _), begun, *_ = _entries(context, filled)
    assert begun == ("workflow.disable", {"enabled_version": 1}, {"enabled_version": None, "to_be_deleted": True})
    assert (deleted, before["runs"], before["version"]) == ("workflow.delete", RUNS, 1)


def test_nothing_starts_while_it_is_being_deleted(context: AppContext, filled: Sender) -> None:
    with _deletion_that_waits(context, filled) as (deletion, _):
        assert filled.post(an_event()).get_json()["runs"] == []
    assert deletion.result().runs == RUNS
    assert sum(_counts(context, filled).values()) == 0


def test_a_deletion_that_was_interrupted_can_be_repeated(context: AppContext, filled: Sender) -> None:
    with _deletion_that_waits(context, filled) as (deletion, process):
        with context.database.transaction() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(%s)", (process,))
        with pytest.raises(Unavailable):
            deletion.result()
    left = _counts(context, filled)
    assert (left["runs"], left["steps"], left["attempts"], left["workflows"]) == (1500, 1500, 3000, 1)
    assert workflows.delete_workflow(context, filled.account_id, "watch").runs == 1500
    assert sum(_counts(context, filled).values()) == 0


def test_a_workflow_that_is_enabled_while_it_is_being_deleted_stays(context: AppContext, filled: Sender) -> None:
    with _deletion_that_waits(context, filled) as (deletion, _):
        workflows.enable_workflow(context, filled.account_id, "watch")
    with pytest.raises(Problem, match="was enabled"):
        deletion.result()
    assert workflows.find_workflow(context, filled.account_id, "watch").enabled_version == 1
