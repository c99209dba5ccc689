"""What conditions and values may call: arithmetic with every digit, lists, and reasons where there is no answer."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.workflows.expressions.cel import LARGEST_VALUE, compile_expression, compile_filter
from app.workflows.expressions.cel_analysis import FilterError

NAMES: dict[str, Any] = {
    "data": {
        "big": 12345678901234567890123,
        "long": Decimal("0.1234567890123456789"),
        "price": Decimal("19.99"),
        "three": 3,
        "list": [1, 2, Decimal("0.5")],
        "huge": Decimal("1e400"),
        "vast": 7 * 10**400,
        "text": "abc",
    },
    "matched": [
        {"event": "a", "data": {"price": Decimal("0.1"), "item": {"n": 1}}, "received_at": "x"},
        {"event": "a", "data": {"price": Decimal("0.2")}, "received_at": "x"},
        {"event": "a", "data": {}, "received_at": "x"},
    ],
    "vars": {"a": 1},
    "last": {"error": "gone"},
    "latest": {"price": Decimal("0.2")},
}
THIRD = Decimal("0." + "3" * 34)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data.big", 12345678901234567890123),
        ("add(data.big, 1)", 12345678901234567890124),
        ("[dec(data.big), data.big, inc(data.big)]", [12345678901234567890123 + n for n in (-1, 0, 1)]),
        ("inc(data.big) > data.big && dec(data.big) < data.big", True),
        ("data.long", Decimal("0.1234567890123456789")),
        ("data.long == 0.1234567890123456789", True),
        ("{'a': data.big, 'b': [data.long]}", {"a": 12345678901234567890123, "b": [Decimal("0.1234567890123456789")]}),
        ("add(0.1, 0.2)", Decimal("0.3")),
        ("add(1, 2, 3)", 6),
        ("sub(10, 1, 2)", 7),
        ("mul(data.price, data.three)", Decimal("59.97")),
        ("div(6, 2)", 3),
        ("div(1, 3)", THIRD),
        ("div(data.big, 3)", 4115226300411522630041),
        ("mod(-7, 3)", 2),
        ("rem(-7, 3)", -1),
        ("quot(-7, 2)", -3),
        ("mod(7.5, -2)", Decimal("-0.5")),
        ("abs(-1.5)", Decimal("1.5")),
        ("floor(-1.5)", -2),
        ("ceil(-1.5)", -1),
        ("sqrt(16)", 4),
        ("pow(2, 200)", 2**200),
        ("pow(2, -2)", Decimal("0.25")),
        ("sum(values(matched, 'price'))", Decimal("0.3")),
        ("values(matched, 'item.n')", [1]),
        ("values([{'a': 1}, {'b': 2}], 'a')", [1]),
        ("sum([])", 0),
        ("min(data.list)", Decimal("0.5")),
        ("max(1, 2.5, 2)", Decimal("2.5")),
        ("max(['a', 'b'])", "b"),
        ("avg([1, 2])", Decimal("1.5")),
        ("stdev([2, 4, 4, 4, 5, 5, 7, 9]) > 2.138 && stdev([2, 4, 4, 4, 5, 5, 7, 9]) < 2.139", True),
        ("count(matched)", 3),
        ("count(matched.filter(m, has(m.data.price)))", 2),
        ("first(data.list)", 1),
        ("data.list.last()", Decimal("0.5")),
        ("nth(data.list, 1)", 2),
        ("last.error", "gone"),
        ("vars.a + 1", 2),
        ("latest.price", Decimal("0.2")),
        ("timestamp('2026-01-01T00:00:00Z')", "2026-01-01T00:00:00.000000Z"),
        ("duration('90s')", "90s"),
    ],
)
def test_an_expression_gives(text: str, value: Any) -> None:
    assert compile_expression(text).value(NAMES) == (value, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data.nothing", "data.nothing is missing"),
        ("add('x', 1)", "add: text is not a number"),
        ("add(true, 1)", "add: true or false is not a number"),
        ("sub(1)", "sub: takes 2 numbers or more, not 1"),
        ("mod(1, 2, 3)", "mod: takes 2 numbers, not 3"),
        ("div(1, 0)", "div: a division by zero"),
        ("quot(1, 0)", "quot: a division by zero"),
        ("mod(1, 0)", "mod: a division by zero"),
        ("pow(0, -1)", "pow: a division by zero"),
        ("pow(10, 400)", "pow: a number is too large, or too small"),
        ("pow(-8, 0.5)", "pow: a negative number has no such power"),
        ("sqrt(-1)", "sqrt: a negative number has no square root"),
        ("mul(pow(10, 300), pow(10, 300))", "mul: a number is too large"),
        ("data.huge", "a number is too large"),
        ("data.vast", "a number is too large"),
        ("inc(data.huge)", "inc: a number is too large"),
        ("first([])", "first: the list is empty, it has no first"),
        ("avg([])", "avg: the list is empty, it has no avg"),
        ("nth(data.list, 3)", "nth: the list has 3 members, none of them is number 3"),
        ("nth(data.list, 0.5)", "nth: the list has 3 members, none of them is number 0.5"),
        ("count(1)", "count: takes one list"),
        ("last(1)", "last: takes one list"),
        ("values(1, 'a')", "values: takes a list and the path of a field"),
        ("b'x'", "it gives bytes, which cannot be kept"),
    ],
)
def test_an_expression_without_an_answer_says_why(text: str, reason: str) -> None:
    assert compile_expression(text).value(NAMES) == (None, reason)


def test_a_value_has_a_size_that_it_may_not_exceed() -> None:
    names = {"vars": {"x": "x" * LARGEST_VALUE}}
    assert compile_expression("vars.x").value(names) == (None, f"the value is larger than {LARGEST_VALUE} bytes")


@pytest.mark.parametrize("text", ["add(data.x, 1) > 1", "vars.x > 1", "count([1]) == 1"])
def test_filters_of_events_have_no_functions_and_names_of_runs(text: str) -> None:
    with pytest.raises(FilterError, match="not known"):
        compile_filter(text)


def test_a_condition_that_is_no_condition_is_false_and_says_why() -> None:
    assert compile_expression("add(1, 1)").evaluate({}) == (False, "the filter gives a number, neither true nor false")


WHOLE = st.integers(-(10**30), 10**30)
DECIMALS = st.decimals(-(10**20), 10**20, allow_nan=False, allow_infinity=False, places=12)


def calculated(text: str, *numbers: Any) -> Any:
    names = {"data": dict(zip("abc", numbers, strict=False))}
    value, reason = compile_expression(text).value(names)
    assert reason is None, reason
    return value


@given(WHOLE, WHOLE)
def test_whole_numbers_are_calculated_as_python_does(one: int, other: int) -> None:
    assert calculated("add(data.a, data.b)", one, other) == one + other
    assert calculated("sub(data.a, data.b)", one, other) == one - other
    assert calculated("mul(data.a, data.b)", one, other) == one * other
    if other:
        assert calculated("mod(data.a, data.b)", one, other) == one % other
        assert calculated("quot(data.a, data.b)", one, other) == (-1 if (one < 0) != (other < 0) else 1) * (
            abs(one) // abs(other)
        )
        whole = calculated("add(mul(quot(data.a, data.b), data.b), rem(data.a, data.b))", one, other)
        assert whole == one


@given(DECIMALS, DECIMALS)
def test_decimals_lose_no_digit(one: Decimal, other: Decimal) -> None:
    assert calculated("sub(add(data.a, data.b), data.b)", one, other) == one
    assert calculated("[data.a, data.b]", one, other) == [one, other]


@given(st.lists(st.one_of(WHOLE, DECIMALS), min_size=1, max_size=8))
def test_lists_are_measured_as_python_does(numbers: list[Any]) -> None:
    names = {"data": {"list": numbers}}
    for text, value in (("min(data.list)", min(numbers)), ("max(data.list)", max(numbers)), ("data.list", numbers)):
        assert compile_expression(text).value(names) == (value, None)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_nothing_is_raised_for_any_number(one: float, other: float) -> None:
    names = {"data": {"a": one, "b": other}}
    for name in ("add", "sub", "mul", "div", "mod", "quot", "rem", "pow"):
        value, reason = compile_expression(f"{name}(data.a, data.b)").value(names)
        assert (value is None) == (reason is not None)
        assert value is None or math.isfinite(value)
