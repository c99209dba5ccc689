"""`perform` returns an Outcome whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app import actions
from app.actions import log
from app.actions.action_context import calling_account
from app.core.models import Outcome
from tests.support.action_contexts import an_action_context, in_a_session, perform
from tests.support.http_target import an_http_target


class Odd:
    """An action that the test defines."""

    def __init__(self, does: Callable[[], Any]) -> None:
        self._does = does

    def check(self, fields: Any, path: str) -> list[tuple[str, str]]:
        return []

    async def act(self, fields: Any, context: act.ActionContext) -> Outcome:
        found = self._does()
        return found if isinstance(found, Outcome) else await found


def outcome_of(monkeypatch: pytest.MonkeyPatch, does: Callable[[], Any], **changes: Any) -> Outcome:
    monkeypatch.setattr(actions, "ACTIONS", {"odd": Odd(does)})
    return perform({"odd": {}}, **changes)


def test_a_log_step_writes_its_text(lines: list[Any]) -> None:
    outcome = perform({"log": "price {{ data.price }} on {{ 'now' | date: '%Y-%m-%d' }}"})
    assert outcome == Outcome("done", output={"text": "price 1999 on 2026-11-22"})
    assert lines[0]["event"] == "workflow log"
    assert lines[0]["text"] == "price 1999 on 2026-11-22"
    assert lines[0]["account"] == 7


def test_an_action_knows_for_which_account_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(monkeypatch, lambda: Outcome("done", output={"account": calling_account.get()}))
    assert outcome.output == {"account": 7}


def test_a_log_step_writes_no_control_characters(lines: list[Any]) -> None:
    perform({"log": "{{ data.x }}"}, names={"data": {"x": "a\x1b[31mb"}})
    assert lines[0]["text"] == "a\ufffd[31mb"


@pytest.mark.parametrize(("fields", "path"), [(["a"], "log"), (7, "log"), ("{{ nope }}", "log"), ("{{", "log")])
def test_an_error_in_a_log_step_has_its_path(fields: Any, path: str) -> None:
    assert [found_path for found_path, _ in log.check(fields, "log")] == [path]


def test_a_template_that_cannot_be_rendered_fails() -> None:
    outcome = perform({"log": "{{ 1 | divided_by: 0 }}"})
    assert (outcome.kind, outcome.error_class) == ("failed", "template")
    assert "a division by zero" in str(outcome.error)


def test_a_bug_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Outcome:
        raise LookupError("no such thing")

    outcome = outcome_of(monkeypatch, broken)
    assert (outcome.kind, outcome.error_class) == ("retry", "bug")
    assert outcome.error == "LookupError: no such thing"


def test_an_action_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_GRACE_PERIOD", 0.05)
    outcome = outcome_of(monkeypatch, lambda: asyncio.sleep(60), timeout=0.05)
    assert (outcome.kind, outcome.error_class) == ("retry", "timeout")


def test_an_error_can_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(monkeypatch, lambda: Outcome("failed", error="a\x00b\ud800"))
    assert outcome.error == "a\ufffdb\ufffd"


def test_cancellation_is_not_caught() -> None:
    async def cancelled(session: Any) -> None:
        task = asyncio.create_task(actions.perform({"http": {"url": server.url}}, an_action_context(session)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with an_http_target() as server:
        in_a_session(cancelled)
