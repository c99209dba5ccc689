"""The functions of conditions and values: exact arithmetic, lists, and the reasons of failures."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.workflows.expressions.cel import MAX_VALUE_BYTES, compile_expression, compile_filter
from app.workflows.expressions.cel_analysis import FilterError

VARIABLES: dict[str, Any] = {
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
def test_an_expression_has_a_value(text: str, value: Any) -> None:
    assert compile_expression(text).value(VARIABLES) == (value, None)


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
        ("first([])", "first: the list is empty"),
        ("avg([])", "avg: the list is empty"),
        ("nth(data.list, 3)", "nth: the list has 3 members and no number 3"),
        ("nth(data.list, 0.5)", "nth: the list has 3 members and no number 0.5"),
        ("count(1)", "count: takes one list"),
        ("last(1)", "last: takes one list"),
        ("values(1, 'a')", "values: takes a list and the path of a field"),
        ("b'x'", "the value is bytes, which cannot be stored"),
    ],
)
def test_an_expression_that_cannot_be_evaluated_has_a_reason(text: str, reason: str) -> None:
    assert compile_expression(text).value(VARIABLES) == (None, reason)


def test_the_size_of_a_value_is_limited() -> None:
    variables = {"vars": {"x": "x" * MAX_VALUE_BYTES}}
    assert compile_expression("vars.x").value(variables) == (None, f"the value is larger than {MAX_VALUE_BYTES} bytes")


@pytest.mark.parametrize("text", ["add(data.x, 1) > 1", "vars.x > 1", "count([1]) == 1"])
def test_filters_of_events_cannot_use_the_functions_and_names_of_runs(text: str) -> None:
    with pytest.raises(FilterError, match="not known"):
        compile_filter(text)


def test_a_condition_that_is_not_a_boolean_is_false_with_a_reason() -> None:
    assert compile_expression("add(1, 1)").evaluate({}) == (False, "the filter gives a number, not true or false")


WHOLE = st.integers(-(10**30), 10**30)
DECIMALS = st.decimals(-(10**20), 10**20, allow_nan=False, allow_infinity=False, places=12)


def calculate(text: str, *numbers: Any) -> Any:
    variables = {"data": dict(zip("abc", numbers, strict=False))}
    value, reason = compile_expression(text).value(variables)
    assert reason is None, reason
    return value


@given(WHOLE, WHOLE)
def test_integers_are_calculated_as_in_python(one: int, other: int) -> None:
    assert calculate("add(data.a, data.b)", one, other) == one + other
    assert calculate("sub(data.a, data.b)", one, other) == one - other
    assert calculate("mul(data.a, data.b)", one, other) == one * other
    if other:
        assert calculate("mod(data.a, data.b)", one, other) == one % other
        assert calculate("quot(data.a, data.b)", one, other) == (-1 if (one < 0) != (other < 0) else 1) * (
            abs(one) // abs(other)
        )
        whole = calculate("add(mul(quot(data.a, data.b), data.b), rem(data.a, data.b))", one, other)
        assert whole == one


@given(DECIMALS, DECIMALS)
def test_decimals_keep_all_digits(one: Decimal, other: Decimal) -> None:
    assert calculate("sub(add(data.a, data.b), data.b)", one, other) == one
    assert calculate("[data.a, data.b]", one, other) == [one, other]


@given(st.lists(st.one_of(WHOLE, DECIMALS), min_size=1, max_size=8))
def test_minimum_and_maximum_are_those_of_python(numbers: list[Any]) -> None:
    variables = {"data": {"list": numbers}}
    for text, value in (("min(data.list)", min(numbers)), ("max(data.list)", max(numbers)), ("data.list", numbers)):
        assert compile_expression(text).value(variables) == (value, None)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_no_number_makes_a_function_raise(one: float, other: float) -> None:
    variables = {"data": {"a": one, "b": other}}
    for name in ("add", "sub", "mul", "div", "mod", "quot", "rem", "pow"):
        value, reason = compile_expression(f"{name}(data.a, data.b)").value(variables)
        assert (value is None) == (reason is not None)
        assert value is None or math.isfinite(value)
