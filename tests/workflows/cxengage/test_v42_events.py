"""The `events` of a 4.2 script compile to patterns."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from app.workflows.cxengage import NotationError
from tests.support.cxengage_playback import matches_on
from tests.workflows.cxengage.test_v42_script import (
    EVENT_A,
    EVENT_B,
    EVENT_C,
    IS_A,
    IS_B,
    IS_C,
    A,
    B,
    C,
    echo,
    on,
    script,
)

PATTERNS: list[tuple[str, Any]] = [
    (EVENT_A, IS_A),
    ("(event {})", {"event": "*"}),
    (f"(times 4 {EVENT_A})", {"times": 4, "of": IS_A}),
    (f"(count 4 {EVENT_A})", {"times": 4, "of": IS_A}),
    (f"(times 1 {EVENT_A})", IS_A),
    (f"(sequence {EVENT_A} {EVENT_B})", {"seq": [IS_A, IS_B]}),
    (f"(and {EVENT_A} {EVENT_B})", {"all": [IS_A, IS_B]}),
    (f"(all {EVENT_A} {EVENT_B})", {"all": [IS_A, IS_B]}),
    (f"(or {EVENT_A} {EVENT_B})", {"any": [IS_A, IS_B]}),
    (f"(within 30 days (times 4 {EVENT_A}))", {"times": 4, "of": IS_A, "within": "30d"}),
    (f"(within 1 day (sequence {EVENT_A} {EVENT_B}))", {"seq": [IS_A, IS_B], "within": "1d"}),
    (f"{EVENT_A} {EVENT_B}", {"seq": [IS_A, IS_B]}),
    (
        f"(within 1 hour (and {EVENT_A} {EVENT_B})) (or {EVENT_A} {EVENT_C})",
        {"seq": [{"all": [IS_A, IS_B], "within": "1h"}, {"any": [IS_A, IS_C]}]},
    ),
]


@pytest.mark.parametrize(("events", "pattern"), PATTERNS)
def test_events_compile_to_a_pattern(events: str, pattern: Any) -> None:
    assert on(events) == pattern


FILTERS = [
    ('{:type "a"}', 'data.type == "a"'),
    ("{:amount 5}", "data.amount == 5"),
    ("{:vip true}", "data.vip == true"),
    ("{:gone nil}", "!(has(data.gone)) || data.gone == null"),
    ('{:product "car" :type "service"}', 'data.product == "car" && data.type == "service"'),
    ('{:priority #{"high" "medium"} :type "a"}', 'data.priority in ["high", "medium"] && data.type == "a"'),
    ("{:amount (> 50000)}", "data.amount > 50000"),
    ("{:amount (>= 50000)}", "data.amount >= 50000"),
    ("{:amount (< 50000)}", "data.amount < 50000"),
    ("{:amount (<= 0.5)}", "data.amount <= 0.5"),
    ("{:amount (= 5)}", "data.amount == 5"),
    ("{:amount (and (> 50000) (< 100000))}", "data.amount > 50000 && data.amount < 100000"),
    (
        '{:type "a" :amount (or (< 5) (> 9))}',
        'data.type == "a" && (data.amount < 5 || data.amount > 9)',
    ),
    ('{:type (not (= "a"))}', '!(has(data.type) && data.type == "a")'),
    ('{:maintenance-cost "x"}', 'data["maintenance-cost"] == "x"'),
    ('{:customer.segment "gold"}', 'data.customer.segment == "gold"'),
    (
        '{:items (contains? "2L_PEPSI")}',
        'type(data.items) == list && "2L_PEPSI" in data.items'
        ' || type(data.items) == string && data.items.contains("2L_PEPSI")',
    ),
]


@pytest.mark.parametrize(("described", "where"), FILTERS)
def test_the_map_of_an_event_compiles_to_a_filter(described: str, where: str) -> None:
    assert on(f"(event {described})") == {"event": "*", "where": where}


TRUTHS: list[tuple[str, dict[str, Any], bool]] = [
    ('{:priority #{"high" "medium"}}', {"priority": "medium"}, True),
    ('{:priority #{"high" "medium"}}', {"priority": "low"}, False),
    ('{:priority #{"high" "medium"}}', {}, False),
    ('{:priority #{"high" 5 nil}}', {}, True),
    ('{:priority #{"high" 5 nil}}', {"priority": 5.0}, True),
    ('{:priority #{"high" 5 nil}}', {"priority": "5"}, False),
    ("{:priority #{nil}}", {"priority": None}, True),
    ("{:amount (and (> 50000) (< 100000))}", {"amount": 60_000}, True),
    ("{:amount (and (> 50000) (< 100000))}", {"amount": 100_000}, False),
    ("{:amount (or (< 5) (> 9))}", {"amount": 10}, True),
    ("{:amount (or (< 5) (> 9))}", {"amount": "x"}, False),
    ("{:amount (not (> 5))}", {"amount": "x"}, True),
    ("{:amount (not (> 5))}", {}, True),
    ("{:amount (not (or (> 5) (= 3)))}", {"amount": 3}, False),
    ("{:amount (>= 5)}", {"amount": 5}, True),
    ("{:amount (<= 5)}", {"amount": 5.5}, False),
    ('{:items (contains? "2L_PEPSI")}', {"items": ["2L_PEPSI", "PIZZA"]}, True),
    ('{:items (contains? "2L_PEPSI")}', {"items": "PIZZA, 2L_PEPSI"}, True),
    ('{:items (not (contains? "2L_PEPSI"))}', {}, True),
    ('{:items (contains? 5) :type "a"}', {"items": [4, 5], "type": "a"}, True),
    ("{:a.b (> 1)}", {"a": {"b": 2}}, True),
    ("{:a.b (> 1)}", {"a": 2}, False),
]


@pytest.mark.parametrize(("described", "data", "truth"), TRUTHS)
def test_an_event_matches_when_its_values_fit(described: str, data: dict[str, Any], truth: bool) -> None:
    assert (matches_on(on(f"(event {described})"), data) == [0]) is truth


def test_each_event_form_uses_a_different_event() -> None:
    pattern = on('(and (event {:priority "high" :type "purchase"}) (event {:amount (> 50000)}))')
    purchase = {"priority": "high", "type": "purchase"}
    assert matches_on(pattern, {**purchase, "amount": 100_000}) == []
    assert matches_on(pattern, {"amount": 100_000}, purchase) == [1]


def test_times_needs_that_many_events() -> None:
    assert matches_on(on(f"(times 3 {EVENT_A})"), A, B, A, A, A) == [3]


def test_sequence_needs_events_in_order() -> None:
    assert matches_on(on(f"(sequence {EVENT_A} {EVENT_B})"), B, A, C, B) == [3]
    assert matches_on(on(f"{EVENT_A} {EVENT_B}"), B, A, C, B) == [3]


def test_or_needs_one_event() -> None:
    assert matches_on(on(f"(or {EVENT_A} {EVENT_B})"), C, B) == [1]


def test_within_ignores_old_events() -> None:
    pattern = on(f"(within 10 seconds (times 2 {EVENT_A}))")
    assert matches_on(pattern, (0, A), (11, A), (21, A)) == [2]


@pytest.mark.parametrize(
    ("data", "fires"),
    [
        ({"type": "a", "owner": {"id": "x"}}, True),
        ({"type": "a", "owner": {"id": 7}}, True),
        ({"type": "a", "owner": {"id": Decimal("7.5")}}, True),
        ({"type": "a"}, False),
        ({"type": "a", "owner": "x"}, False),
        ({"type": "a", "owner": {"id": None}}, False),
        ({"type": "a", "owner": {"id": ""}}, False),
        ({"type": "a", "owner": {"id": True}}, False),
        ({"type": "a", "owner": {"id": ["x"]}}, False),
        ({"type": "b", "owner": {"id": "x"}}, False),
    ],
)
@pytest.mark.parametrize("event", [EVENT_A, '(event {:type (or (= "a") (= "z"))})'])
def test_an_event_without_the_key_does_not_fire(event: str, data: dict[str, Any], fires: bool) -> None:
    assert matches_on(script(f"{event} {echo('x')}", key="owner.id")["on"], (0, data)) == ([0] if fires else [])


def test_events_are_matched_per_value_of_the_key() -> None:
    assert script(f"{EVENT_A} {echo('x')}", key="customer-id")["key"] == "data.customer-id"
    assert "key" not in script(f"{EVENT_A} {echo('x')}")
    with pytest.raises(NotationError, match="expected a key of letters, digits, _ and -"):
        script(f"{EVENT_A} {echo('x')}", key="no key")
