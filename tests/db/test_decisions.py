"""Many workflows that do nothing with an event for the same reason have one decision, which names them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from app.core.models import Decision
from app.db.event_writes import MAX_SINGLE, decisions_json


def decision(number: int, reason: str = "the filter is false", **changes: Any) -> Decision:
    fields = {"started": False, "contributing": False, "reason": reason, **changes}
    return Decision(UUID(int=number), f"w{number}", number, **fields)


def rows(decisions: list[Decision]) -> list[dict[str, Any]]:
    return list(json.loads(decisions_json(decisions) or "[]"))


def test_few_workflows_have_a_decision_each() -> None:
    found = rows([decision(number) for number in range(MAX_SINGLE)])
    assert [each["workflow"] for each in found] == [f"w{number}" for number in range(MAX_SINGLE)]
    assert all("workflows" not in each for each in found)


def test_many_workflows_with_the_same_reason_have_one_decision_with_their_versions() -> None:
    (found,) = rows([decision(number) for number in range(600)])
    assert found == {
        "workflow": "600 workflows",
        "version": None,
        "started": False,
        "reason": "the filter is false",
        "workflows": {f"w{number}": number for number in range(600)},
    }


def test_a_decision_of_600_workflows_takes_less_than_a_quarter_of_the_space() -> None:
    single = sum(len(decisions_json([decision(number)]) or "") for number in range(600))
    assert len(decisions_json([decision(number) for number in range(600)]) or "") < single / 4


def test_workflows_that_did_something_and_rare_reasons_keep_decisions_of_their_own() -> None:
    run = UUID(int=1)
    single = [
        decision(1_000, "matched", started=True, contributing=True, run_id=run),
        decision(1_001, "1 of 2", contributing=True),
        decision(1_002, "data.x is missing"),
        Decision(None, "7 workflows", None, started=False, contributing=False, reason="filters on data.y are false"),
    ]
    found = rows([*single, *(decision(number) for number in range(30))])
    assert [each["workflow"] for each in found] == ["w1000", "w1001", "w1002", "7 workflows", "30 workflows"]
    assert found[0]["run"] == str(run)
