"""Runs with parallel blocks: starting one, and executing the due jobs of the run and of its blocks."""

from __future__ import annotations

from typing import Any

from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run, rows_of, the_run

WAIT = {"wait": "1h"}
REPLY = {"id": "reply", "wait_for": "reply", "timeout": "1h", "then": [{"log": "yes"}], "else": [{"log": "no"}]}


def started(context: AppContext, sender: Sender, *steps: object, **changes: Any) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps), **changes))
    run: str = sender.post(an_event(data={"price": 1999})).get_json()["runs"][0]
    return run


def parallel_blocks(context: AppContext, sender: Sender, run: str) -> list[str]:
    """The ids of a run's blocks, in the order of their start."""
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT id FROM runs WHERE account_id = %(account)s AND parent_id = %(run)s ORDER BY id",
            {"account": sender.account_id, "run": run},
        )
        return [str(row[0]) for row in found]


def execute_due_jobs(context: AppContext, sender: Sender, run: str) -> dict[str, Any]:
    """Do the due jobs of a run and its blocks until none is due; returns the run's row."""
    while jobs := due(context, sender):
        for job in jobs:
            _, run_id, number = job.split(":")
            execute_run(context, sender.account_id, run_id, job=int(number))
            delete_job(context, job)
    return the_run(context, sender.account_id, run)


def due(context: AppContext, sender: Sender) -> list[str]:
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT dedupe_key FROM jobs WHERE dedupe_key LIKE %(like)s AND kind = 'run' "
            "AND due_at <= now() ORDER BY id",
            {"like": f"{sender.account_id}:%"},
        )
        return [row[0] for row in found]


def delete_job(context: AppContext, job: str) -> None:
    """Delete a job, as a worker does when it has done it."""
    with context.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM jobs WHERE dedupe_key = %(job)s", {"job": job})


def texts(context: AppContext, sender: Sender, run: str) -> list[str]:
    rows = rows_of(context, "steps", sender.account_id, run)
    return [row["output"]["text"] for row in rows if row["action"] == "log" and row["output"]]


def paths(context: AppContext, sender: Sender, run: str) -> list[str]:
    return [row["path"] for row in rows_of(context, "steps", sender.account_id, run)]
