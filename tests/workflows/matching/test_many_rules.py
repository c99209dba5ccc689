"""Compiling the many workflows of an account stops no other request for long."""

from __future__ import annotations

import gc
from uuid import uuid4

import pytest

from app.core import pacing
from app.core.models import EnabledWorkflow
from app.workflows.matching import rules
from app.workflows.matching.rules import compile_rules

FILTERS = 30


def _some_workflows() -> list[EnabledWorkflow]:
    filters = [f"data.kind == 'k{number}'" for number in range(FILTERS)]
    return [
        EnabledWorkflow(uuid4(), "w", 1, {"on": {"event": "order", "where": text}}, 1, frozenset(("order",)))
        for text in filters
    ]


def test_other_requests_run_between_filters_and_between_workflows_that_are_indexed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(pacing, "_PIECE", -1.0)
    monkeypatch.setattr(pacing, "yield_to_others", lambda: pauses.append(1))
    compile_rules(_some_workflows())
    # Each filter is compiled for the pattern and for the rule, and analysed for the index.
    assert len(pauses) >= 3 * FILTERS


def test_what_many_workflows_are_compiled_to_is_hidden_from_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "_HIDDEN_LEAVES", 10)
    before = gc.get_freeze_count()
    try:
        compiled = compile_rules(_some_workflows())
        assert gc.get_freeze_count() - before > 10 * FILTERS
        assert compiled.count_evaluated("order") == 1
    finally:
        gc.unfreeze()


def _count_rules() -> int:
    return sum(isinstance(each, rules.Rules) for each in gc.get_objects())


def test_rules_that_are_replaced_leave_nothing_to_the_garbage_collector() -> None:
    compile_rules(_some_workflows())
    gc.collect()
    gc.disable()
    try:
        # Other tests of this process have accounts with rules.
        before = _count_rules()
        compile_rules(_some_workflows())
        assert _count_rules() == before
    finally:
        gc.enable()
