"""What workflows do now: the numbers, and the indexes from which they come."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from app.core.ids import first_id_at
from app.db import inspection, workflow_activity
from app.services import workflow_activity as use_cases
from app.services import workflows
from app.services.context import AppContext
from app.services.workflow_activity import RunCounts
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run

ROWS = """
INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, status, at,
    created_at, updated_at)
SELECT :account, CAST(substr(CAST(:first AS text), 1, 24) || lpad(number::text, 12, '0') AS uuid), :workflow, 1, number::text,
    gen_random_uuid(), now(), '{}', number::text, CASE number % 4 WHEN 0 THEN 'running' WHEN 1 THEN 'failed' ELSE 'done' END,
    CASE number % 4 WHEN 0 THEN 'steps[' || number % 3 || ']' END, now(), now()
FROM generate_series(1, :rows) AS number
"""


def _fill(context: AppContext, sender: Sender, rows: int, name: str = "hello") -> UUID:
    """A workflow with so many runs of an hour ago, a quarter of which has failed and a quarter of which runs; its id."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(name=name))
    workflow_id = workflows.find_workflow(context, sender.account_id, name).id
    first = first_id_at(context.clock() - timedelta(hours=1))
    values = {"account": sender.account_id, "workflow": workflow_id, "first": str(first), "rows": rows}
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        connection.execute(sa.text(ROWS), values)
    return workflow_id


def _activity(context: AppContext, sender: Sender) -> use_cases.Activity:
    ((_, found),) = use_cases.list_activity(context, sender.account_id, limit=10)
    return found


def test_starts_failures_and_steps_are_counted(context: AppContext, acme: Sender) -> None:
    _fill(context, acme, 48)
    found = _activity(context, acme)
    assert list(found.starts) == [0] * 6 + [48]
    assert list(found.failed) == [0] * 6 + [12]
    assert list(found.running) == [("steps[0]", 4), ("steps[1]", 4), ("steps[2]", 4)]


def test_blocks_are_no_starts_and_are_counted_at_their_steps(context: AppContext, acme: Sender) -> None:
    steps = [{"par": [[{"wait": "1h"}], [{"wait": "2h"}]]}]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
    execute_run(context, acme.account_id, acme.post(an_event()).get_json()["runs"][0])
    found = _activity(context, acme)
    assert list(found.starts) == [0] * 6 + [1]
    assert list(found.running) == [("steps[0]", 1), ("steps[0].par[0][0]", 1), ("steps[0].par[1][0]", 1)]
    assert list(found.waiting) == [("steps[0]", 1)]


def test_counts_end(context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow_id = _fill(context, acme, 48)
    monkeypatch.setattr(workflow_activity, "MAX_COUNTED", 3)
    monkeypatch.setattr(workflow_activity, "MAX_RUNS", 5)
    found = _activity(context, acme)
    assert found.starts[-1] == 3
    assert [count for _, count in found.running] == [3, 3, 3]
    assert use_cases.count_runs(context, acme.account_id, workflow_id) == RunCounts(5, 3)


def test_an_older_workflow_of_the_name_does_not_say_who_saved_a_version(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="hello"))
    workflows.delete_workflow(context, acme.account_id, "hello")
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="hello"))
    found = workflows.find_workflow(context, acme.account_id, "hello")
    (version,) = use_cases.list_versions(context, found, limit=10)
    assert (version.version, version.author) == (1, "signalbox")


def test_events_of_any_name_are_looked_at(context: AppContext, acme: Sender) -> None:
    on = {"event": "*", "where": "data.price > 10.0"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="hello", on=on))
    sent = acme.post(an_event(data={"price": 5})).get_json()
    acme.post(an_event(data={"price": 20}))
    found = use_cases.find_details(context, workflows.find_workflow(context, acme.account_id, "hello"))
    assert [(str(one.event_id), one.reason) for one in found.not_started] == [(sent["id"], "the filter is false")]


QUERIES: dict[str, tuple[str, Callable[[sa.Connection, int, UUID, Any], object]]] = {
    "starts": (
        "runs_workflow_idx",
        lambda connection, account, workflow, now: workflow_activity.count_starts(
            connection, account, [workflow], [now - timedelta(days=1), now]
        ),
    ),
    "steps": (
        "runs_steps_idx",
        lambda connection, account, workflow, now: workflow_activity.count_running(connection, account, [workflow]),
    ),
    "waiting": (
        "runs_steps_idx",
        lambda connection, account, workflow, now: workflow_activity.find_waiting(connection, account, workflow, 5),
    ),
    "events": (
        "Index Scan Backward using events_",
        lambda connection, account, workflow, now: workflow_activity.find_not_started(
            connection, account, "hello", ["product_view"], now - timedelta(days=7), 10
        ),
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_number_is_read_from_an_index(context: AppContext, acme: Sender, globex: Sender, name: str) -> None:
    _fill(context, globex, 1_500)
    workflow_id = _fill(context, acme, 1_500)
    index, query = QUERIES[name]
    statements: list[tuple[str, Any]] = []
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        connection.exec_driver_sql("ANALYZE runs")
        sa.event.listen(
            connection,
            "before_cursor_execute",
            lambda conn, cursor, statement, values, context, many: statements.append((statement, values)),
        )
        query(connection, acme.account_id, workflow_id, context.clock())
        ((statement, values),) = statements
        plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", values)]
    assert any(index in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan
