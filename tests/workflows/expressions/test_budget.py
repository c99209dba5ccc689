"""The budget of work: which members of an event are converted, how much work is counted, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.workflows.expressions.cel import Filter, compile_expression, compile_filter
from app.workflows.expressions.cel_variables import CelVariables
from app.workflows.expressions.regex_cost import regex_cost
from app.workflows.expressions.work_budget import EVENT_UNITS, NOT_EVALUATED, Budget

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ITEMS = [
    {"sku": f"SKU-{number:05}", "price": 10.5 + number, "quantity": 1, "name": "a thing " * 4, "tags": ["new", "sale"]}
    for number in range(45)
]
ORDER = {
    "order_id": "98765",
    "total": 4711.5,
    "currency": "INR",
    "items": ITEMS,
    "shipping": {"city": "Pune", "zip": "411001", "name": {"first": "A", "last": "B"}},
    "customer": {"id": 1, "email": "a@example.com", "orders": 7},
}


def variables_of(data: dict[str, Any], budget: Budget | None = None) -> CelVariables:
    values = {"event": "order", "distinct_id": "1", "phone": None, "data": data, "received_at": NOW, "now": NOW}
    return CelVariables(values, budget)


def units_of(text: str, data: dict[str, Any]) -> int:
    """The units that one filter uses."""
    variables = variables_of(data)
    assert compile_filter(text).evaluate(variables)[1] is None
    return EVENT_UNITS - variables.budget.left


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("data.a.b > 1", {("data", "a", "b")}),
        ("data.a.b.startsWith('x') && size(data.c) > 1", {("data", "a", "b"), ("data", "c")}),
        ('data["order-id"] == "1" && data["a"].b == 1', {("data", "order-id"), ("data", "a", "b")}),
        ("data.items[0].price > 1", {("data", "items")}),
        ("data.items.exists(item, item.price > data.limit)", {("data", "items"), ("data", "limit")}),
        ("data[event] == 1", {("data",), ("event",)}),
        ("has(data.a.b) || 'x' in data.c", {("data", "a", "b"), ("data", "c")}),
        ("data.l.exists(data, data.x > 1)", {("data",)}),
        ("'data.a' == data.b", {("data", "b")}),
    ],
)
def test_a_filter_reads_only_the_members_that_it_names(text: str, reads: set[tuple[str, ...]]) -> None:
    assert compile_filter(text).cost.reads == reads


def test_members_that_no_filter_names_cost_nothing() -> None:
    assert units_of("data.total > 1", ORDER) == units_of("data.total > 1", {"total": 4711.5})


def test_a_member_is_converted_once_for_all_filters_of_an_event() -> None:
    variables = variables_of(ORDER)
    compile_filter("data.items.exists(item, item.price > 1000)").evaluate(variables)
    first = EVENT_UNITS - variables.budget.left
    compile_filter("data.items.exists(item, item.price > 1001)").evaluate(variables)
    assert EVENT_UNITS - variables.budget.left - first < first / 2


def test_a_filter_that_occurs_twice_is_evaluated_once() -> None:
    variables = variables_of(ORDER)
    compile_filter("data.total > 1").evaluate(variables)
    left = variables.budget.left
    assert compile_filter("data.total > 1").evaluate(variables) == (True, None)
    assert variables.budget.left == left


@pytest.mark.parametrize("name", ["received_at", "now"])
def test_a_filter_that_reads_the_time_is_evaluated_again_at_another_time(name: str) -> None:
    variables = variables_of({})
    text = f"{name} > timestamp('2026-01-01T00:00:00Z')"
    assert compile_filter(text).evaluate(variables) == (False, None)
    assert compile_filter(text).evaluate(variables.with_time(NOW + timedelta(seconds=1))) == (True, None)


def _expect(variables: CelVariables, filters: list[Filter]) -> None:
    for each in filters:
        variables.expect(each.cost.reads, each.functions)


def test_filters_with_and_without_functions_share_a_context() -> None:
    filters = [compile_filter(text) for text in ("data.total > 1", "data.shipping.city.trim() == 'Pune'")]
    variables = variables_of(ORDER)
    _expect(variables, filters)
    assert filters[0].functions == {}
    contexts = [variables.bind(each.cost.reads, each.functions) for each in filters]
    assert contexts[0] is contexts[1]
    assert contexts[0].functions == filters[1].functions
    assert [each.evaluate(variables) for each in filters] == [(True, None)] * 2


def test_a_function_that_was_not_announced_is_found() -> None:
    variables = variables_of(ORDER)
    assert compile_filter("data.shipping.city == 'Pune'").evaluate(variables) == (True, None)
    for text in ("data.shipping.city.trim() == 'Pune'", "data.shipping.city.lowerAscii() == 'pune'"):
        assert compile_filter(text).evaluate(variables) == (True, None)


def test_fifty_filters_on_an_order_use_a_fortieth_of_the_budget() -> None:
    filters = [compile_filter(f"data.total > {number} && data.shipping.city == 'Pune'") for number in range(50)]
    variables = variables_of(ORDER)
    _expect(variables, filters)
    assert [each.evaluate(variables) for each in filters] == [(True, None)] * 50
    assert EVENT_UNITS - variables.budget.left < EVENT_UNITS / 40


def test_fifty_filters_that_loop_over_the_items_of_an_order_are_all_evaluated() -> None:
    variables = variables_of(ORDER)
    filters = [compile_filter(f"data.items.exists(item, item.price > {number})") for number in range(50)]
    assert [each.evaluate(variables)[1] for each in filters] == [None] * 50


@pytest.mark.parametrize(
    "text",
    [
        "data.l.exists(x, x == 1)",
        "data == {}",
        "size(data.l) > 1",
        "data.small.all(x, data.small.map(y, y).size() > 0)",
        "data.small.map(x, data.small).size() > 1",
        "data.small.all(x, data.small.all(y, y == {}))",
        "data.text.split('').size() > 1",
        r"event.matches('\\w{1000}')",
        r"event.matches('(\\pL{30}){30}')",
        "event.matches(data.pattern)",
        r"event.matches('\x5cw{1000}')",
    ],
)
def test_what_exceeds_the_budget_is_not_evaluated(text: str) -> None:
    data = {"l": [{}] * 170_000, "small": [{}] * 2_000, "text": "x" * 200_000, "pattern": r"\w{1000}"}
    found, reason = compile_filter(text).evaluate(variables_of(data))
    assert found is False
    assert reason is not None
    assert reason.startswith(f"{NOT_EVALUATED} (")


def test_a_filter_that_is_too_expensive_leaves_the_budget_to_the_others() -> None:
    variables = variables_of({"l": [{}] * 170_000, "total": 5})
    assert compile_filter("data.l.exists(x, x == 1)").evaluate(variables)[0] is False
    assert compile_filter("data.total > 1").evaluate(variables) == (True, None)


def test_the_reason_says_what_is_too_large() -> None:
    _, reason = compile_filter("data.l.exists(x, x == 1)").evaluate(variables_of({"l": [{}] * 170_000}))
    assert reason == (
        f"{NOT_EVALUATED} (data.l is too large: it has more values than the {EVENT_UNITS - 60:,} units of work that are left"
        " suffice for)"
    )


def test_all_filters_of_an_event_share_one_budget() -> None:
    variables = variables_of({"l": list(range(5_000))})
    filters = [compile_filter(f"data.l.exists(x, x == {-number})") for number in range(1, 30)]
    reasons = [each.evaluate(variables)[1] for each in filters]
    assert reasons[0] is None
    assert (reasons[-1] or "").startswith(NOT_EVALUATED)


def test_the_same_event_is_decided_alike_each_time() -> None:
    filters = [compile_filter(f"data.l.exists(x, x == {-number})") for number in range(1, 30)]
    first, second = variables_of({"l": list(range(5_000))}), variables_of({"l": list(range(5_000))})
    assert [each.evaluate(first) for each in filters] == [each.evaluate(second) for each in filters]
    assert first.budget.left == second.budget.left


def test_a_piece_of_work_ends_only_after_much_work() -> None:
    budget = Budget(EVENT_UNITS)
    budget.take(1_000, "a filter")
    assert budget.end_piece() == 0
    budget.take(30_000, "a filter")
    assert budget.end_piece() == 31_000
    assert budget.end_piece() == budget.end_piece(0) == 0


@pytest.mark.parametrize(
    ("cheap", "expensive"),
    [
        ("[a-z]{10}", r"\w{10}"),
        (r"\w{10}", r"(?:\w{10}){10}"),
        (r"\d{10}", r"[\w]{10}"),
        (r"[]a]{10}", r"[]\w]{10}"),
        (r"\w{2}", r"\pL{20}"),
    ],
)
def test_a_regular_expression_costs_what_it_takes_to_compile(cheap: str, expensive: str) -> None:
    assert regex_cost(cheap).compile * 5 < regex_cost(expensive).compile


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?x)\w {1000}",
        r"(?x)\w{ 1000 }",
        r"\w{0000001000}",
        r"\w*{1000}",
        r"(\w)+?{1000}",
        r"[\w(]{1000}",
        r"(\w\\){1000}",
    ],
)
def test_what_stands_between_a_part_and_its_count_does_not_hide_it(pattern: str) -> None:
    text = f'data.text.matches(r"{pattern}")'
    assert NOT_EVALUATED in (compile_filter(text).evaluate(variables_of({"text": "a"}))[1] or "")


def test_an_expression_with_many_positions_costs_each_of_them_at_each_character() -> None:
    data = {"text": "ab" * 10_000}
    one, many = (units_of(f'data.text.matches("a[ab]{{{count}}}c")', data) for count in (4, 40))
    assert many > 20_000 * 40 / 10 > 20 * one


@pytest.mark.parametrize(
    "pattern", ["error|failure|timeout|unavailable", r"^[^@\\s]+@[^@\\s]+\\.[a-z]+$", "(?i)out of stock"]
)
def test_an_ordinary_expression_costs_a_tenth_of_a_unit_for_a_character(pattern: str) -> None:
    data = {"text": "x" * 100_000}
    assert units_of(f'data.text.matches("{pattern}")', data) < 100_000 / 10


@pytest.mark.parametrize(
    "text",
    [
        "[data.text]" + 3 * ".map(a, a+a+a+a+a+a+a+a)" + "[0] == 'b'",
        "[data.text]" + 2 * f".map(a, {'+'.join(24 * 'a')})" + "[0] == 'b'",
        "data.numbers.map(n, data.text).map(a, a+a+a+a)[0] == 'b'",
        f"({'+'.join(150 * ['data.text'])}).matches('[ab]c')",
    ],
)
def test_texts_that_grow_cost_what_they_grow_to(text: str) -> None:
    data = {"text": "x" * 100_000, "numbers": list(range(50))}
    assert NOT_EVALUATED in (compile_filter(text).evaluate(variables_of(data))[1] or "")


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("duration('1h').getHours()", f"duration('{24 * '1.1h'}').getHours()"),
        ("'a,a'.split(',').size()", f"'{30 * 'a,'}'.split(',').size()"),
        ("sum([1, 1])", f"sum([{','.join(500 * '1')}])"),
    ],
)
def test_the_texts_and_lists_of_a_filter_cost_what_a_function_takes_of_them(short: str, long: str) -> None:
    data = {"l": list(range(10))}
    assert units_of(f"data.l.all(x, {long} > 0)", data) > units_of(f"data.l.all(x, {short} > 0)", data) + 7_000


def test_a_step_may_use_more_than_an_event() -> None:
    data = {"l": list(range(1_000))}
    text = "data.l.filter(x, x > 998)[0] == 999"
    assert compile_filter(text).evaluate(variables_of(data))[0] is False
    assert compile_expression(text).evaluate({"data": data}) == (True, None)


# The engine's own size() counts the bytes of a text, ours its characters: they agree on ASCII.
ASCII = st.text(st.characters(codec="ascii"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | ASCII,
    lambda members: st.lists(members) | st.dictionaries(st.sampled_from(["a", "b", "c"]) | ASCII, members),
    max_leaves=10,
)
TEXTS = [
    "data.a.b == 1",
    "data.a.b.c == data.a",
    "has(data.a.b) && data.a.b == data.c",
    "has(data.a)",
    "has(data.a.b.c)",
    "data.a[0] == data.b",
    "data.a[0].b == data.b",
    'data["a"]["b"] == data.c["a"]',
    "data.a.all(x, x == data.b)",
    "data.a.exists(x, x.b == 1)",
    "data.a.all(x, x.b.exists(y, y == data.c))",
    "data == {}",
    "size(data.a.b) > 1 || 'a' in data.b",
    "data.a.b == data.a.c",
    "data.a == data.a.b",
    "type(data.a.b) == string",
    "data.a in data.b.c",
]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional={"a": JSON, "b": JSON, "c": JSON}))
def test_a_filter_decides_as_the_engine_does_with_all_of_the_event(data: dict[str, Any]) -> None:
    import cel

    variables = variables_of(data)
    filters = [compile_filter(text) for text in TEXTS]
    _expect(variables, filters)
    for each in filters:
        found, reason = each.evaluate(variables)
        try:
            expected = cel.evaluate(each.text, {"data": data})
        except BaseException:
            assert reason is not None
        else:
            assert (found, reason is None) == (expected is True, isinstance(expected, bool))
