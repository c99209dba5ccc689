"""Secrets of the account in runs: a worker sends their current values, and stores and logs none."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from app.db.tables import metadata
from app.services import runs, secrets, workflows
from app.services.context import AppContext
from app.worker.executor import RunExecutor
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, Call, an_http_target
from tests.support.run_execution import execute_run, rows_of, the_run, with_executor

# Its parts occur in no other test: all tests of a process share a database.
VALUE = "kestrel-5c07b1e4/+x"


def started(context: AppContext, sender: Sender, *steps: dict[str, Any]) -> str:
    """A run of a workflow with these steps."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps)))
    run: str = sender.post(an_event()).get_json()["runs"][0]
    return run


def calling(url: str, **more: Any) -> dict[str, Any]:
    return {"http": {"url": url, "headers": {"X-Shop": "Bearer {{ secrets.SHOP }}"}}, **more}


def tables_with(context: AppContext, text: str) -> list[str]:
    """The tables that contain a text."""
    with context.database.transaction() as connection:
        query = "SELECT count(*) FROM {} AS one WHERE position(%(text)s IN one::text) > 0"
        return [
            name
            for name in metadata.tables
            if connection.exec_driver_sql(query.format(name), {"text": text}).scalar_one()
        ]


def test_no_table_and_no_log_contains_a_secret_that_was_sent(
    context: AppContext, acme: Sender, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", VALUE)

    def answer(call: Call) -> Answer:
        echo = json.dumps({"path": call.path, "headers": dict(call.headers), "body": call.body.decode()})
        return Answer(410 if call.path.startswith("/gone") else 200, echo.encode())

    with an_http_target() as server:
        server.answer = answer
        run = started(
            context,
            acme,
            {"id": "first", **calling(f"{server.url}/{{{{ secrets.SHOP | url_encode }}}}/x?y={{{{ secrets.SHOP }}}}")},
            {"log": "{{ steps.first.body }} {{ steps.first.headers }}"},
            {"http": {"url": server.url, "json": {"a": "{{ secrets.SHOP }}"}}},
            {"http": {"url": server.url, "body": "{{ secrets.SHOP | base64_encode }}"}},
            calling(f"{server.url}/gone/{{{{ secrets.SHOP }}}}"),
        )
        after = execute_run(context, acme.account_id, run)
    assert (after["status"], after["error"].count("***")) == ("failed", 1)
    assert len(server.calls) == 4
    assert [call.headers.get("X-Shop") for call in server.calls] == [f"Bearer {VALUE}", None, None, f"Bearer {VALUE}"]
    for part in ("kestrel", "5c07b1e4", "a2VzdHJlbC01"):
        assert tables_with(context, part) == []
        assert part not in "".join(capfd.readouterr())


def test_a_worker_sends_a_new_value_within_seconds(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", VALUE)
    with an_http_target() as server:
        before, after = (started(context, acme, calling(server.url)) for _ in range(2))

        async def change_between(executor: RunExecutor) -> None:
            await executor.advance(acme.account_id, UUID(before), 1)
            await asyncio.to_thread(secrets.set_secret, context, acme.account_id, "SHOP", "another value")
            await asyncio.sleep(2.1)
            await executor.advance(acme.account_id, UUID(after), 1)

        with_executor(context, change_between)
    assert [call.headers["X-Shop"] for call in server.calls] == [f"Bearer {VALUE}", "Bearer another value"]


def test_a_run_whose_secret_was_removed_fails_and_can_be_retried(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", VALUE)
    with an_http_target() as server:
        run = started(context, acme, calling(server.url))
        secrets.remove_secret(context, acme.account_id, "SHOP", force=True)
        failed = execute_run(context, acme.account_id, run)
        assert failed["status"] == "failed"
        assert failed["error"] == "steps[0] (http): the account has no secret SHOP: set it"
        (attempt,) = rows_of(context, "attempts", acme.account_id, run)
        assert attempt["error_class"] == "no_secret"
        assert server.calls == []
        secrets.set_secret(context, acme.account_id, "SHOP", VALUE)
        runs.retry_runs(context, acme.account_id, [UUID(run)])
        execute_run(context, acme.account_id, run, the_run(context, acme.account_id, run)["job"])
    assert the_run(context, acme.account_id, run)["status"] == "done"
    assert len(server.calls) == 1


def test_runs_of_another_account_have_other_secrets(context: AppContext, acme: Sender, globex: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", VALUE)
    secrets.set_secret(context, globex.account_id, "SHOP", "of globex")
    with an_http_target() as server:
        run = started(context, globex, calling(server.url))
        assert execute_run(context, globex.account_id, run)["status"] == "done"
    assert server.calls[0].headers["X-Shop"] == "Bearer of globex"
