"""An event that exceeds its budget of work is stored, and its decisions say so."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import prometheus_client

from app.services import workflows
from app.services.context import AppContext
from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.expressions.work_budget import NOT_EVALUATED, Budget
from app.workflows.matching.rule import NO_MATCH_STATE, EventView, MatchState, Rule, build_variables, compile_rule
from app.workflows.matching.rules import Rules
from tests.support.builders import Sender, a_workflow, an_event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEAVES = {"any": [{"event": "product_view", "where": f"data.l.exists(x, x == {number})"} for number in range(200)]}
HOSTILE = an_event(data={"l": [{}] * 170_000})


def decisions_of(context: AppContext, event_id: str) -> list[dict[str, Any]]:
    with context.database.transaction() as connection:
        query = "SELECT decisions FROM events WHERE id = %(id)s"
        found: list[dict[str, Any]] = connection.exec_driver_sql(query, {"id": event_id}).scalar_one()
    return found


def not_evaluated() -> float:
    return prometheus_client.REGISTRY.get_sample_value("signalbox_not_evaluated_total") or 0


def test_a_hostile_event_on_a_pattern_of_200_filters_is_stored_with_the_reason(
    context: AppContext, acme: Sender
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=LEAVES))
    body = gzip.compress(json.dumps(HOSTILE, separators=(",", ":")).encode())
    assert len(body) < 1_000
    before = not_evaluated()
    answer = acme.post(body, Content_Encoding="gzip")
    assert answer.status_code == 200
    (decision,) = decisions_of(context, answer.get_json()["id"])
    assert decision["reason"].startswith(f"on.any[0].where: {NOT_EVALUATED} (data.l is too large")
    assert decision["reason"].endswith("and 195 more")
    assert not_evaluated() == before + 1


def test_a_workflow_whose_filter_is_cheap_starts_beside_one_that_is_not_evaluated(
    context: AppContext, acme: Sender
) -> None:
    expensive = {"event": "product_view", "where": "data.l.exists(x, x == 1)"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="a-expensive", on=expensive))
    cheap = {"event": "product_view", "where": "data.total > 1"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="b-cheap", on=cheap))
    answer = acme.post(an_event(data={"l": [{}] * 20_000, "total": 2}))
    reasons = {each["workflow"]: each["reason"] for each in decisions_of(context, answer.get_json()["id"])}
    assert reasons["a-expensive"].startswith(NOT_EVALUATED)
    assert reasons["b-cheap"] == "matched"
    assert len(answer.get_json()["runs"]) == 1


def test_each_item_of_a_batch_has_the_budget_of_an_event(context: AppContext, acme: Sender) -> None:
    leaf = {"event": "product_view", "where": "data.l.exists(x, x == 4999)"}
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=leaf))
    items = [an_event(data={"l": list(range(5_000))}) for _ in range(5)] + [an_event(data={"l": [{}] * 20_000})]
    answer = acme.post_batch(items)
    assert answer.status_code == 200
    reasons = [decisions_of(context, event_id)[0]["reason"] for event_id in answer.get_json()["ids"]]
    assert reasons[:5] == ["matched"] * 5
    assert reasons[5].startswith(NOT_EVALUATED)


# Filters that share one large member and name a small one each.
SHARING = [f"data.m{number} >= 0 && data.items.exists(i, i.price > 40)" for number in range(50)]
ITEMS = {"items": [{"price": number, "name": "n", "tags": ["a", "b"]} for number in range(60)]}
ORDER = {**ITEMS, **{f"m{number}": number for number in range(50)}}


def order_variables() -> CelVariables:
    return build_variables("order", "1", None, ORDER, NOW)


def test_filters_that_share_a_large_member_convert_it_once() -> None:
    rules = Rules(
        compile_rule(UUID(int=number), f"w{number}", 1, {"on": {"event": "order", "where": where}, "steps": []})
        for number, where in enumerate(SHARING)
    )
    variables = order_variables()
    candidates = rules.find_candidates(variables).stateless
    assert [rule.decide(variables).reason for rule in candidates] == ["matched"] * 50


def test_the_leaves_of_a_pattern_convert_a_large_member_once() -> None:
    leaves = [{"event": "order", "where": where.replace("> 40", "> 99")} for where in SHARING]
    rule = compile_rule(UUID(int=1), "watch", 1, {"on": {"any": leaves}, "steps": []})
    result = rule.advance(NO_MATCH_STATE, EventView("1", "order", NOW, order_variables()))
    assert result.advanced.failures == ()


def advance(rule: Rule, state: MatchState, number: int, units: int | None = None) -> tuple[MatchState, str]:
    at = NOW + timedelta(seconds=number)
    budget = None if units is None else Budget(units)
    event = EventView(str(UUID(int=number)), "a", at, build_variables("a", "1", None, {}, at, budget=budget))
    result = rule.advance(state, event)
    return result.state, rule.explain(state, event, result).reason


def test_a_pattern_that_exceeds_the_budget_keeps_its_state_and_says_so() -> None:
    rule = compile_rule(UUID(int=1), "watch", 1, {"on": {"all": ["a"] * 8}, "steps": []})
    state = NO_MATCH_STATE
    for number in range(4):
        state, _ = advance(rule, state, number)
    after, reason = advance(rule, state, 4, units=1_000)
    assert reason.startswith(f"on: {NOT_EVALUATED} (the state of the pattern needs")
    assert after.progress == state.progress
    assert advance(rule, after, 5)[0].progress == advance(rule, state, 5)[0].progress


def test_a_pattern_with_much_state_takes_more_of_the_budget() -> None:
    rule = compile_rule(UUID(int=1), "watch", 1, {"on": {"times": 500, "of": "a"}, "steps": []})
    used = []
    state = NO_MATCH_STATE
    for number in range(300):
        budget = Budget()
        before = budget.left
        at = NOW + timedelta(seconds=number)
        event = EventView(str(UUID(int=number)), "a", at, build_variables("a", "1", None, {}, at, budget=budget))
        state = rule.advance(state, event).state
        used.append(before - budget.left)
    assert used[0] < 200
    assert used[299] > 20 * used[0]
