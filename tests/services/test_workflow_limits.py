"""An account may enable so many workflows, with so much text of filters, and so many that are evaluated for each event."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from app.db import workflows as stored
from app.services import workflow_limits, workflows
from app.services.context import AppContext
from app.workflows import account_limits
from app.workflows.yaml_loader import InvalidDocument
from tests.support.builders import Sender, a_workflow

INDEXED = {"event": "order", "where": "data.kind == 'a' && data.l.exists(x, x == 1)"}
EVALUATED = {"event": "order", "where": "data.l.exists(x, x == 1)"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits."""
    monkeypatch.setattr(account_limits, "MAX_ENABLED", 6)
    monkeypatch.setattr(account_limits, "MAX_FILTER_CHARACTERS", 200)
    for module in (account_limits, workflow_limits):
        monkeypatch.setattr(module, "MAX_EVALUATED", 3)


def apply(context: AppContext, sender: Sender, name: str, on: Any, **changes: Any) -> None:
    workflows.apply_workflow(context, sender.account_id, a_workflow(name=name, on=on, **changes))


def refusal(context: AppContext, sender: Sender, name: str, on: Any) -> str:
    with pytest.raises(InvalidDocument) as caught:
        apply(context, sender, name, on)
    return str(caught.value)


@pytest.mark.usefixtures("small")
def test_more_workflows_than_the_limit_cannot_be_enabled(context: AppContext, acme: Sender, globex: Sender) -> None:
    for number in range(6):
        apply(context, acme, f"w{number}", f"event-{number}")
    assert "6 workflows of the account are enabled, the limit: disable one" in refusal(context, acme, "w6", "event-6")
    apply(context, globex, "w6", "event-6")
    workflows.disable_workflow(context, acme.account_id, "w0")
    apply(context, acme, "w6", "event-6")


@pytest.mark.usefixtures("small")
def test_an_enabled_workflow_can_be_changed_at_the_limit(context: AppContext, acme: Sender) -> None:
    for number in range(6):
        apply(context, acme, f"w{number}", f"event-{number}")
    apply(context, acme, "w5", "another")


@pytest.mark.usefixtures("small")
def test_the_text_of_all_filters_is_limited(context: AppContext, acme: Sender) -> None:
    long = "data.x == '" + "x" * 80 + "'"
    apply(context, acme, "one", {"event": "a", "where": long})
    apply(context, acme, "two", {"seq": [{"event": "a", "where": long}, "b"]})
    text = refusal(context, acme, "three", {"any": [{"event": "a", "where": "data.y == 'abcdef'"}, "b"]})
    assert "would have 202 characters, more than 200: shorten them, or disable a workflow" in text
    apply(context, acme, "three", {"any": [{"event": "a", "where": "data.y == 'abcd'"}, "b"]})


def test_the_event_names_filters_and_durations_of_all_patterns_are_limited(
    context: AppContext, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_limits, "MAX_TEXTS", 7)
    apply(context, acme, "one", {"seq": ["a", "b"], "within": "1h"})
    apply(context, acme, "two", EVALUATED)
    text = refusal(context, acme, "three", {"any": ["a", "b", "c"]})
    assert "would have 8 event names, filters and durations, more than 7: disable a workflow" in text
    apply(context, acme, "three", {"any": ["a", "b"]})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("on", [EVALUATED, "order", {"event": "*", "where": "size(data) > 1"}, {"seq": ["order", "b"]}])
def test_workflows_that_are_evaluated_for_each_event_of_a_name_are_limited(
    context: AppContext, acme: Sender, on: Any
) -> None:
    apply(context, acme, "w0", EVALUATED)
    apply(context, acme, "w1", "order")
    apply(context, acme, "w2", {"event": "*", "where": "size(data) > 1"})
    text = refusal(context, acme, "w3", on)
    assert ": 3 enabled workflows are evaluated for every event" in text
    assert 'data.kind == "a"' in text
    apply(context, acme, "w3", INDEXED)
    apply(context, acme, "w4", "another")


@pytest.mark.usefixtures("small")
def test_each_field_by_which_an_index_finds_workflows_counts_once(context: AppContext, acme: Sender) -> None:
    for number in range(3):
        apply(context, acme, f"w{number}", {"event": "order", "where": f"data.kind == 'k{number}'"})
    apply(context, acme, "w3", EVALUATED)
    apply(context, acme, "w4", EVALUATED)
    assert "3 enabled workflows are evaluated" in refusal(context, acme, "w5", EVALUATED)


def test_the_characters_of_filters_are_counted_in_sql_as_in_python(context: AppContext, acme: Sender) -> None:
    patterns: list[Any] = [
        "a",
        INDEXED,
        {"seq": [{"any": [EVALUATED, "b", {"all": [INDEXED, "c"]}]}, "d"], "unless": EVALUATED},
    ]
    for number, on in enumerate(patterns):
        apply(context, acme, f"w{number}", on)
    with context.database.transaction() as connection:
        counted = stored.measure_enabled(connection, acme.account_id, except_for=UUID(int=0))
    characters, texts = (
        sum(map(count, patterns)) for count in (account_limits._count_characters, account_limits._count_texts)
    )
    assert counted == (3, characters, texts)
