"""The predicate index skips only workflows whose filter cannot be true."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.workflows.expressions.cel import compile_filter
from app.workflows.expressions.cel_analysis import Comparison, find_comparisons
from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.matching.rule import compile_rule
from app.workflows.matching.rules import MAX_UNINDEXED, Rules

COMPARISONS = [
    ("data.price > 1000", [("data.price", ">", 1000)]),
    ("data.price>=10.5&&data.vip==true", [("data.price", ">=", 10.5), ("data.vip", "==", True)]),
    ("data.a.b == 'x y' && size(data.items) > 2", [("data.a.b", "==", "x y")]),
    ('event == "a && b"', [("event", "==", "a && b")]),
    ("data.n == -3", [("data.n", "==", -3)]),
    ("data.a > 1 || data.b > 1", []),
    ("(data.a > 1 || data.b > 1) && data.c < 3", [("data.c", "<", 3)]),
    ("data.a > 1 ? true : false", []),
    ("!(data.a > 1)", []),
    ("data.a > data.b", []),
    ("data.a + 1 > 2", []),
    ("data.items.exists(x, x > 1 && x < 3) && data.k == 1", [("data.k", "==", 1)]),
    ("1 < data.a", []),
    ("data.s == 'it\\'s'", []),
]


@pytest.mark.parametrize(("text", "found"), COMPARISONS)
def test_the_outermost_comparisons_are_found(text: str, found: list[tuple[str, str, Any]]) -> None:
    compile_filter(text)
    assert find_comparisons(text) == [Comparison(*each) for each in found]


def _variables(data: Any) -> CelVariables:
    return CelVariables(
        {"event": "e", "distinct_id": "1", "phone": None, "data": data, "received_at": datetime(2026, 1, 1, tzinfo=UTC)}
    )


def _rules(filters: list[str]) -> Rules:
    return Rules(
        compile_rule(UUID(int=number), f"w{number}", 1, {"on": {"event": "e", "where": where}, "steps": []})
        for number, where in enumerate(filters, start=1)
    )


constants = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, -1.5, 2.0]),
    st.sampled_from(["'a'", "'b'"]),
    st.sampled_from(["true", "false"]),
)
texts = st.builds(
    lambda path, operator, constant, more: f"data.{path} {operator} {constant}{more}",
    st.sampled_from(["x", "y", "z.k"]),
    st.sampled_from(["==", ">", ">=", "<", "<="]),
    constants,
    st.sampled_from(["", "", " && data.y > 0", " || data.y > 0", " && data.q == 1"]),
)
values = st.one_of(
    st.integers(-3, 3), st.floats(), st.sampled_from(["a", "b", ""]), st.booleans(), st.none(), st.just([1]),
    st.integers(2**60, 2**70), st.sampled_from(["0.5000000000000000000001", "1.9999999999999999999", "1e400"]).map(Decimal),
)  # fmt: skip
datas = st.dictionaries(st.sampled_from(["x", "y", "q"]), values) | st.builds(lambda v: {"z": {"k": v}}, values)


@settings(max_examples=300)
@given(st.lists(texts, min_size=MAX_UNINDEXED + 1, max_size=40), datas)
def test_no_workflow_whose_filter_is_true_is_skipped(filters: list[str], data: Any) -> None:
    variables = _variables(data)
    true = {number for number, text in enumerate(filters, start=1) if compile_filter(text).evaluate(variables)[0]}
    candidates = _rules(filters).find_candidates(variables)
    assert true <= {rule.workflow_id.int for rule in candidates.stateless}
    assert len(candidates.stateless) + sum(skipped.count for skipped in candidates.skipped) == len(filters)


def test_a_number_that_no_double_holds_is_compared() -> None:
    rules = _rules([f"data.total > {number}" for number in range(100)])
    candidates = rules.find_candidates(_variables({"total": Decimal("1999.9900000000000001")}))
    assert len(candidates.stateless) == 100


def test_few_workflows_are_all_candidates() -> None:
    rules = _rules([f"data.price > {number}" for number in range(MAX_UNINDEXED)])
    candidates = rules.find_candidates(_variables({"price": -1}))
    assert len(candidates.stateless) == MAX_UNINDEXED
    assert candidates.skipped == []


def test_skipped_workflows_are_counted_by_reason() -> None:
    rules = _rules([f"data.price > {number}" for number in range(100)])
    (skipped,) = rules.find_candidates(_variables({})).skipped
    assert (skipped.count, skipped.reason) == (100, "data.price is missing")
    candidates = rules.find_candidates(_variables({"price": 2}))
    assert len(candidates.stateless) == 2
    assert [(each.count, each.reason) for each in candidates.skipped] == [(98, "filters on data.price are false")]
