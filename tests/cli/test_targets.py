"""Targets that keep failing are listed, with the runs that they hold back."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from app.actions.circuit import FAILURE_THRESHOLD
from app.actions.circuit_breaker import CircuitChange
from app.db import circuits
from app.services import integrations, targets, workflows
from app.services.context import AppContext
from app.worker.executor import RunExecutor
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, Call, an_http_target
from tests.support.run_execution import the_run, with_executor

BROKEN = "https://shop.example/hook"


def _change(sender: Sender, target: str = BROKEN, failures: int = 5, **seconds: float) -> CircuitChange:
    return CircuitChange(
        sender.account_id, target, failures, seconds.get("open_for", 60.0), seconds.get("retry_in", 30.0)
    )


def test_a_worker_saves_open_circuits_and_marks_the_runs_that_they_hold(context: AppContext, acme: Sender) -> None:
    count = FAILURE_THRESHOLD + 3

    def answer(call: Call) -> Answer:
        return Answer(500 if "broken" in call.path else 200)

    with an_http_target() as server:
        server.answer = answer
        for name in ("broken", "healthy"):
            steps = [{"http": {"url": f"{server.url}/{name}"}}]
            workflows.apply_workflow(context, acme.account_id, a_workflow(name=name, on=name, steps=steps))
        runs = [acme.post(an_event(event="broken")).get_json()["runs"][0] for _ in range(count)]
        healthy = acme.post(an_event(event="healthy")).get_json()["runs"][0]

        async def work(executor: RunExecutor) -> None:
            for run in runs:
                await executor.advance(acme.account_id, UUID(run), 1)
            await executor.advance(acme.account_id, UUID(healthy), 1)
            # Saved by the next attempt.
            await asyncio.sleep(0)

        with_executor(context, work)
    assert the_run(context, acme.account_id, healthy)["status"] == "done"
    target = f"POST {server.url}/broken"
    assert [the_run(context, acme.account_id, run)["held_by"] for run in runs] == [None] * 5 + [target] * 3
    (row,) = targets.list_targets(context, acme.account_id)
    assert (row.state, row.target, row.failures, row.runs_held) == ("failing", target, FAILURE_THRESHOLD, 3)
    assert row.retry_at is not None and row.retry_at > row.since


def test_a_run_that_makes_an_attempt_is_no_longer_held(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        steps = [{"http": {"url": server.url}}]
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
        run = acme.post(an_event()).get_json()["runs"][0]
        with context.database.transaction() as connection:
            connection.exec_driver_sql("UPDATE runs SET held_by = 'x' WHERE id = %s", (run,))
        with_executor(context, lambda executor: executor.advance(acme.account_id, UUID(run), 1))
    assert the_run(context, acme.account_id, run)["held_by"] is None


def test_a_circuit_that_several_workers_open_is_open_since_the_first(context: AppContext, acme: Sender) -> None:
    targets.save_circuits(context, [_change(acme, open_for=600.0)])
    targets.save_circuits(context, [_change(acme, failures=7, open_for=0.0, retry_in=300.0)])
    (row,) = targets.list_targets(context, acme.account_id)
    assert row.failures == 7
    assert timedelta(minutes=9) < context.clock() - row.since < timedelta(minutes=11)


def test_a_closed_circuit_is_not_listed(context: AppContext, acme: Sender, globex: Sender) -> None:
    targets.save_circuits(context, [_change(acme), _change(globex)])
    targets.save_circuits(context, [_change(acme, failures=0)])
    assert targets.list_targets(context, acme.account_id) == []
    assert len(targets.list_targets(context, globex.account_id)) == 1


def test_a_circuit_that_nobody_waits_for_is_listed_for_ten_minutes(context: AppContext, acme: Sender) -> None:
    targets.save_circuits(context, [_change(acme, "old", retry_in=-660.0), _change(acme, "new", retry_in=-540.0)])
    assert [row.target for row in targets.list_targets(context, acme.account_id)] == ["new"]
    with context.database.transaction() as connection:
        circuits.forget_old_circuits(connection, context.clock() + timedelta(days=1))
        left = connection.exec_driver_sql("SELECT target FROM open_circuits WHERE account_id = %s", (acme.account_id,))
        assert left.scalars().all() == []


def test_a_circuit_of_a_deleted_account_is_not_saved(context: AppContext, acme: Sender) -> None:
    targets.save_circuits(context, [CircuitChange(10**12, BROKEN, 5, 0.0, 5.0)])
    with context.database.transaction() as connection:
        assert connection.exec_driver_sql("SELECT FROM open_circuits WHERE account_id = 10^12").all() == []


@pytest.fixture
def two_targets(context: AppContext, acme: Sender) -> UUID:
    run = UUID(int=7)
    integrations.disable_target(context, acme.account_id, "https://shop.example/gone", "answered 410", run)
    targets.save_circuits(context, [_change(acme, open_for=3600.0)])
    return run


def test_target_list_shows_failing_and_disabled_targets(
    signalbox: CommandLine, acme: Sender, two_targets: UUID
) -> None:
    done = signalbox("target", "list", "--account", acme.slug)
    assert done.exit_code == 0, done.output
    disabled, failing = [line.split("\t")[1:] for line in done.stdout.splitlines()]
    assert disabled == ["disabled", "https://shop.example/gone", "answered 410", f"run {two_targets}"]
    assert failing[:2] == ["failing", BROKEN]
    assert failing[2].startswith("failed 5 times in a row, next call 20")
    assert failing[3] == "0 runs waiting"


def test_target_list_is_json_and_has_pages(signalbox: CommandLine, acme: Sender, two_targets: UUID) -> None:
    first = signalbox("target", "list", "--json", "--limit", "1", "--account", acme.slug)
    row = json.loads(first.stdout)
    assert (row["state"], row["target"]) == ("disabled", "https://shop.example/gone")
    cursor = first.stderr.strip().rpartition(" ")[2]
    second = signalbox("target", "list", "--json", "--after", cursor, "--account", acme.slug)
    row = json.loads(second.stdout)
    assert (row["state"], row["failures"], row["runs_held"], row["run_id"]) == ("failing", 5, 0, None)


def _metric(client: FlaskClient, name: str) -> float:
    client.application.extensions["monitor"].refresh(slow_interval=0)
    lines = client.get("/metrics").get_data(as_text=True).splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name + " ")))


def test_metrics_count_open_circuits_and_the_runs_that_they_hold(
    context: AppContext, client: FlaskClient, acme: Sender
) -> None:
    names = ("signalbox_open_circuits", "signalbox_runs_held")
    before = [_metric(client, name) for name in names]
    targets.save_circuits(context, [_change(acme)])
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"wait": "1h"}]))
    run = acme.post(an_event()).get_json()["runs"][0]
    with context.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE runs SET held_by = %s WHERE id = %s", (BROKEN, run))
    assert [_metric(client, name) for name in names] == [number + 1 for number in before]
