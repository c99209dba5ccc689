"""A worker evaluates the filters of waiting runs in pieces, and compiles each filter once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app.worker import event_correlation
from app.workflows.matching import rule


def test_a_filter_of_many_waiting_runs_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_filter = rule.compile_filter

    def count(text: str) -> Any:
        compiled.append(text)
        return compile_filter(text)

    monkeypatch.setattr(rule, "compile_filter", count)
    monkeypatch.setattr(rule, "event_variables", lambda event: {"data": event.data})
    leaf = {"event": "order", "where": "data.total > 30303"}
    events: list[Any] = [SimpleNamespace(event="order", data={"total": total}) for total in (1, 40_000)]
    assert [rule.evaluate_leaf(leaf, event) for event in events] == [(False, None), (True, None)]
    assert compiled == ["data.total > 30303"]


def test_other_jobs_go_on_between_the_events_that_are_evaluated() -> None:
    order: list[str] = []

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await asyncio.sleep(0)

    async def both() -> list[Any]:
        task = asyncio.create_task(other())
        events: list[Any] = ["one", "two", "three"]
        found = await event_correlation._select(events, lambda event: bool(order.append(event)) or event != "two")
        await task
        return found

    assert asyncio.run(both()) == ["one", "three"]
    assert order == ["other", "one", "other", "two", "other", "three"]
