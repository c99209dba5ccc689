"""Outbound configuration in runs: integrations, disabled targets, deferred calls."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from app.actions.circuit import FAILURE_THRESHOLD
from app.actions.integration_kinds import KINDS
from app.services import integrations, targets, workflows
from app.services.context import AppContext
from app.worker.executor import RunExecutor
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.providers import WHATSAPP, WhatsAppApi, running
from tests.support.run_execution import execute_run, rows_of, the_run, with_executor

NUDGE = {"whatsapp": {"to": "{{ phone }}", "template": "nudge", "language": "en"}, "retry": {"first": "1s"}}


def started(context: AppContext, sender: Sender, step: dict[str, Any], count: int = 1) -> list[str]:
    """Runs of a workflow with that one step."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=[step]))
    return [sender.post(an_event()).get_json()["runs"][0] for _ in range(count)]


# Deferred runs


def defer_run(context: AppContext, sender: Sender, server: Any, before: str | None = None) -> str:
    """A run that is deferred since its target failed for others. `before`: SQL to run on its row first."""
    runs = started(context, sender, {"http": {"url": server.url}}, FAILURE_THRESHOLD + 1)
    if before is not None:
        with context.database.transaction() as connection:
            connection.exec_driver_sql(f"UPDATE runs SET {before} WHERE id = %(id)s", {"id": runs[-1]})

    async def in_sequence(executor: RunExecutor) -> None:
        for run in runs:
            await executor.advance(sender.account_id, UUID(run), 1)

    with_executor(context, in_sequence)
    return runs[-1]


def test_a_deferred_run_uses_up_no_attempt(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503)) as server:
        run = defer_run(context, acme, server)
    after = the_run(context, acme.account_id, run)
    assert (after["status"], after["attempt"], after["job"]) == ("running", 0, 2)
    assert after["wake_at"] > after["created_at"]
    assert rows_of(context, "attempts", acme.account_id, run) == []
    assert len(server.calls) == FAILURE_THRESHOLD


def test_the_step_of_a_deferred_run_says_why_it_waits(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503)) as server:
        run = defer_run(context, acme, server)
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert step["status"] == "waiting"
    assert "failed 5 times in a row; calls are paused" in step["error"]


def test_a_deferred_run_continues_when_its_target_works_again(context: AppContext, acme: Sender) -> None:
    with an_http_target(*[Answer(503)] * FAILURE_THRESHOLD, Answer(200)) as server:
        run = defer_run(context, acme, server)
        after = execute_run(context, acme.account_id, run, job=2)
    assert after["status"] == "done"
    assert [row["attempt"] for row in rows_of(context, "attempts", acme.account_id, run)] == [1]
    (step,) = rows_of(context, "steps", acme.account_id, run)
    assert (step["status"], step["error"]) == ("done", None)


def test_after_a_day_a_deferral_counts_as_an_attempt(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503)) as server:
        run = defer_run(context, acme, server, "step_started_at = now() - interval '25 hours'")
    after = the_run(context, acme.account_id, run)
    assert (after["status"], after["attempt"]) == ("running", 1)
    (attempt,) = rows_of(context, "attempts", acme.account_id, run)
    assert attempt["error_class"] == "circuit_open"


def test_another_account_is_not_deferred(context: AppContext, acme: Sender, globex: Sender) -> None:
    with an_http_target(*[Answer(503)] * FAILURE_THRESHOLD, Answer(200)) as server:
        runs = started(context, acme, {"http": {"url": server.url}}, FAILURE_THRESHOLD)
        (other,) = started(context, globex, {"http": {"url": server.url}})

        async def in_sequence(executor: RunExecutor) -> None:
            for run in runs:
                await executor.advance(acme.account_id, UUID(run), 1)
            await executor.advance(globex.account_id, UUID(other), 1)

        with_executor(context, in_sequence)
    assert the_run(context, globex.account_id, other)["status"] == "done"


# Targets that are gone


def test_a_410_disables_the_target_until_a_person_enables_it(context: AppContext, acme: Sender, globex: Sender) -> None:
    with an_http_target(Answer(410), Answer(200)) as server:
        step = {"http": {"url": server.url + "/hook?to={{ distinct_id }}"}}
        first, second, third = started(context, acme, step, 3)
        (other,) = started(context, globex, step)
        gone = execute_run(context, acme.account_id, first)
        failed = execute_run(context, acme.account_id, second)
        for run in (gone, failed):
            assert run["status"] == "failed"
            assert run["error"] == (
                f"steps[0] (http): {server.url}/hook is disabled (answered 410: the target is gone for good): "
                "enable this target to send requests to it again"
            )
        assert execute_run(context, globex.account_id, other)["status"] == "done"
        (target,) = targets.list_targets(context, acme.account_id)
        assert (target.target, target.run_id) == (server.url + "/hook", UUID(first))
        integrations.enable_target(context, acme.account_id, target.target)
        assert execute_run(context, acme.account_id, third)["status"] == "done"
    assert len(server.calls) == 3


# Integrations


def test_a_missing_integration_fails_the_run_with_a_clear_message(context: AppContext, acme: Sender) -> None:
    (run,) = started(context, acme, NUDGE)
    after = execute_run(context, acme.account_id, run)
    assert after["status"] == "failed"
    assert after["error"] == "steps[0] (whatsapp): the account has no whatsapp integration: set it up"
    (attempt,) = rows_of(context, "attempts", acme.account_id, run)
    assert attempt["error_class"] == "not_set_up"


def test_a_worker_sees_a_change_within_seconds(context: AppContext, acme: Sender) -> None:
    before, after = started(context, acme, NUDGE, 2)

    async def change_between(executor: RunExecutor) -> None:
        await executor.advance(acme.account_id, UUID(before), 1)
        await asyncio.to_thread(integrations.set_integration, context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
        await asyncio.sleep(2.1)
        await executor.advance(acme.account_id, UUID(after), 1)

    with running(WhatsAppApi()) as api:
        there = AppContext(replace(context.settings, whatsapp_base_url=api.url))
        with_executor(there, change_between)
        there.database.close()
    assert the_run(context, acme.account_id, before)["status"] == "failed"
    assert the_run(context, acme.account_id, after)["status"] == "done"


def test_an_integration_that_cannot_be_decrypted_is_retried(context: AppContext, acme: Sender) -> None:
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], WHATSAPP)
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE integrations SET settings = 'sealed by another key' WHERE account_id = %(id)s",
            {"id": acme.account_id},
        )
    (run,) = started(context, acme, NUDGE)
    after = execute_run(context, acme.account_id, run)
    # Tests of rotation look at all accounts.
    integrations.remove_integration(context, acme.account_id, KINDS["whatsapp"])
    assert (after["status"], after["attempt"]) == ("running", 1)
    assert after["wake_at"] - after["updated_at"] < timedelta(seconds=2)
    (attempt,) = rows_of(context, "attempts", acme.account_id, run)
    assert attempt["error_class"] == "encryption_key"
    assert "ENCRYPTION_KEY cannot decrypt" in attempt["error"]
