"""What comes next in Postgres: each part is read in the order of time, and no further than the page."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from app.db import inspection, upcoming
from app.db.upcoming import Upcoming
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run
from tests.support.statements import statements

RUNS = """
INSERT INTO runs (account_id, id, workflow_id, version, match_key, event_id, event_received_at, matched, distinct_id, status, at,
    wake_at, created_at, updated_at)
SELECT :account, gen_random_uuid(), :workflow, 1, number::text, gen_random_uuid(), now(), '{}', number::text, 'running',
    'steps[0]', CAST(:now AS timestamptz) + number * interval '1 s', now(), now()
FROM generate_series(1, 3000) AS number
"""
PROGRESS = """
INSERT INTO progress (account_id, workflow_id, subject, enablement, progress, deadline, last_event_at)
SELECT :account, :workflow, number::text, 1, '{}', CAST(:now AS timestamptz) + number * interval '1 s', now()
FROM generate_series(1, 3000) AS number
"""


def _find(context: AppContext, sender: Sender, limit: int, after: Upcoming | None = None) -> list[Upcoming]:
    now = context.clock()
    with context.database.transaction() as connection:
        cursor = None if after is None else after.cursor
        return list(
            upcoming.find_upcoming(connection, sender.account_id, (now, now + timedelta(days=9)), cursor, limit)
        )


def test_blocks_that_wait_as_their_run_take_no_place_of_a_page(context: AppContext, acme: Sender) -> None:
    blocks = [[{"wait_for": "order", "timeout": "1d"}]] * 3
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"par": blocks}]))
    for person in ("ann", "bob"):
        execute_run(context, acme.account_id, acme.post(an_event(distinct_id=person)).get_json()["runs"][0])
    with context.database.transaction() as connection:
        at = context.clock() + timedelta(days=1)
        connection.execute(sa.text("UPDATE runs SET wake_at = :at WHERE root_id IS NOT NULL"), {"at": at})
    first, second = _find(context, acme, 3)
    assert {first.subject, second.subject} == {"ann", "bob"}
    assert _find(context, acme, 1, after=first) == [second]
    assert _find(context, acme, 1, after=second) == []


def test_a_page_reads_no_further_than_it_shows(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    values = {"account": acme.account_id, "now": context.clock()}
    values["workflow"] = workflows.find_workflow(context, acme.account_id, "watch").id
    with context.database.transaction() as connection:
        inspection.allow_slow_statements(connection)
        for statement in (RUNS, PROGRESS):
            connection.execute(sa.text(statement), values)
        for table in ("runs", "progress", "workflows"):
            connection.exec_driver_sql(f"ANALYZE {table}")
    with statements() as found:
        assert len(_find(context, acme, 10)) == 10
    ((query, given),) = ((text, given) for text, given in found if "progress" in text)
    with context.database.transaction() as connection:
        plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {query}", given)]
    for index in ("runs_wake_at_idx", "progress_deadline_idx"):
        assert any(index in line for line in plan), "\n".join(plan)
    # They come in the order of time; only those of the same time are sorted.
    assert sum("Presorted Key" in line for line in plan) == 2, "\n".join(plan)
    # The sweep of another test would find the deadlines overdue.
    workflows.delete_workflow(context, acme.account_id, "watch")
