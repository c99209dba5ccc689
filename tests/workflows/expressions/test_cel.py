"""Filters: which are true, false or invalid, with the reasons, and the limits of their cost."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.template_names import RUN_NAMES
from app.workflows.expressions.cel import MAX_LENGTH, compile_expression, compile_filter
from app.workflows.expressions.cel_analysis import MAX_DEPTH, FilterError
from app.workflows.expressions.signatures import SIGNATURES

VARIABLES: dict[str, Any] = {
    "event": "product_view",
    "distinct_id": "915673412780",
    "phone": None,
    "received_at": datetime(2026, 11, 22, tzinfo=UTC),
    "data": {
        "price": 1999,
        "rating": 4.5,
        "name": "Cool Sneakers",
        "tags": ["new", "sale"],
        "items": [{"price": 10, "tags": ["a"]}, {"price": 20, "tags": []}],
        "nothing": None,
        "huge": 12345678901234567890123,
        "gigantic": 10**400,
        "exact": Decimal("0.1234567890123456789"),
        "beyond": Decimal("1e400"),
    },
}


def evaluate(text: str, **changes: Any) -> tuple[bool, str | None]:
    return compile_filter(text).evaluate({**VARIABLES, **changes})


def compile_error(text: str) -> FilterError:
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "data.price > 1000",
        "data.price > 1000.5",
        "data.price == 1999.0",
        "data['name'] == 'Cool Sneakers'",
        "data.rating >= 4 && event == 'product_view'",
        "phone == null",
        "!has(data.colour)",
        "'sale' in data.tags",
        "data.items.exists(item, item.price > 15)",
        "data.items.exists(item, item.tags.exists(tag, tag == 'a'))",
        "data.items.map(item, item.price) == [10, 20]",
        "size(data.tags) == 2",
        "data.name.startsWith('Cool') && data.name.matches('S[a-z]+s$')",
        "data.name.lowerAscii() == 'cool sneakers'",
        "received_at > timestamp('2026-01-01T00:00:00Z')",
        "received_at.getFullYear() == 2026",
        "type(data.price) == int",
        "event in {'product_view': 1, 'other': 2}",
        "data.missing == 1 || true",
        "data.huge > 9223372036854775807",
        "data.gigantic > data.price",
        "data.exact > 0.12",
        "data.beyond > data.price",
    ],
)
def test_the_filter_is_true(text: str) -> None:
    assert evaluate(text) == (True, None)


@pytest.mark.parametrize("text", ["data.price > 2000", "event == 'other'", "1 == '1'", "data.nothing == 1"])
def test_the_filter_is_false_without_a_reason(text: str) -> None:
    assert evaluate(text) == (False, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data.colour == 'red'", "data.colour is missing"),
        ("data.maker.name == 'x'", "data.maker is missing"),
        ("data['colour'] == 'red'", "colour is missing"),
        ("data.name > 1000", "incompatible types: data.name is text"),
        ("data.price > data.name", "incompatible types: data.price is a number, data.name is text"),
        ("phone.startsWith('+91')", "incompatible types: phone is null"),
        ("data.price / 0 == 1", "a division by zero"),
        ("data.price + 9223372036854775807 > 1", "a number is too large"),
        ("data.tags[7] == 'x'", "index out of bounds: 7"),
        ("data.price", "the filter gives a number, not true or false"),
        ("data.name", "the filter gives text, not true or false"),
        ("data.tags", "the filter gives a list, not true or false"),
        ("int(data.name) == 1", "int: the text is not a whole number of up to 64 bits"),
    ],
)
def test_a_filter_that_cannot_be_evaluated_is_false_with_a_reason(text: str, reason: str) -> None:
    assert evaluate(text) == (False, reason)


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("data.price >", "unexpected end", 1, 13),
        ("data.price > 5 )", "unexpected )", 1, 16),
        ("event == 'x", "cannot read 'x; is a quote missing?", 1, 10),
        ("data.price > 1 &&\n  date.price < 2", "date is not known", 2, 3),
        ("steps.nudge.status == 200", "steps is not known", 1, 1),
        ("lower(event) == 'x'", "the function lower is not known", 1, 1),
        ("money{amount: 1} == 1", "money{…} is not supported", 1, 1),
        ("data.items.exists(true)", "exists is used incorrectly", None, None),
        ("9223372036854775808 > 1", "invalid int literal", 1, 1),
        ("", "the filter is empty", None, None),
        (" \n ", "the filter is empty", None, None),
    ],
)
def test_an_invalid_filter_has_a_message_and_a_position(
    text: str, message: str, line: int | None, column: int | None
) -> None:
    error = compile_error(text)
    assert (error.message[: len(message)], error.line, error.column) == (message, line, column)
    assert (f"line {line}, column {column}" in str(error)) is (line is not None)


def test_the_error_of_an_unknown_name_lists_the_known_ones() -> None:
    assert "event, distinct_id, phone, data, received_at" in str(compile_error("user.name == 'x'"))


def test_a_filter_can_use_the_names_of_a_run_if_the_caller_allows_it() -> None:
    found = compile_filter("steps.nudge.status == 200", also=RUN_NAMES)
    assert found.evaluate({**VARIABLES, "steps": {"nudge": {"status": 200}}}) == (True, None)


def test_a_filter_can_use_the_variable_of_a_loop() -> None:
    assert evaluate("data.tags.all(tag, tag != '')") == (True, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * (MAX_LENGTH + 1), f"at most {MAX_LENGTH} are allowed"),
        ("(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1), "brackets deeper"),
        ("data.a.all(x, data.a.all(y, data.a.all(z, true)))", "loops deeper"),
        ("data.tags.exists(tag, tag.matches('(a{99}){99}'))", "matches cannot be used inside"),
        (" || ".join(["event.matches('a{999}')"] * 6), "matches more than 5 times"),
    ],
)
def test_a_filter_that_could_cost_too_much_is_refused(text: str, message: str) -> None:
    assert message in str(compile_error(text))


def test_a_loop_after_a_raw_string_is_counted() -> None:
    assert "loops deeper" in str(
        compile_error(r"r'\' == 'x' && data.l.all(x, data.l.all(y, data.l.all(z, true))) && 'a' == 'b'")
    )


@pytest.mark.parametrize(
    "text",
    [
        "data.l.all(x, data.l[0] >= 0)",
        "data.l.all(x, data.l.all(y, y >= 0))",
        "data.l.map(x, x)[0] == 0",
        "data.l.all(x, x in data.l)",
        " + ".join(["data.l"] * 200) + " == []",
        " || ".join(["data.l == [1]"] * 120),
    ],
)
def test_a_hostile_filter_on_a_large_event_is_false_at_once(text: str) -> None:
    began = time.process_time()
    found, reason = evaluate(text, data={"l": list(range(100_000))})
    assert found is False
    assert reason is not None
    assert "too large" in reason
    assert time.process_time() - began < 2


def test_a_plain_loop_over_a_long_list_is_evaluated() -> None:
    assert evaluate("data.l.exists(x, x == 4999)", data={"l": list(range(5_000))}) == (True, None)


def test_a_plain_comparison_on_a_large_event_is_evaluated() -> None:
    assert evaluate("data.price > 1", data={"price": 2, "l": list(range(100_000))}) == (True, None)


def test_a_function_that_fails_writes_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert evaluate("data.price.split(',') == []")[0] is False
    assert caplog.records == []


def test_filters_with_the_same_text_are_equal() -> None:
    assert compile_filter("data.price > 1") == compile_filter("data.price > 1")
    assert compile_filter("data.price > 1") != compile_filter("data.price > 2")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda members: st.lists(members) | st.dictionaries(st.text(), members),
    max_leaves=10,
)
FILTERS = [
    compile_filter(text)
    for text in (
        "data.a.b > 1",
        "data.a[0] == data.b",
        "data.a.all(x, x.startsWith('a'))",
        "size(data.a) > 2 || data.b in data.a",
        "timestamp(data.a) < received_at",
        "int(data.a) + int(data.b) == 3",
        "data.a.split(',')[1].trim() == string(data.b)",
        "duration(data.a) > duration('1h')",
        "data.a % data.b == 0 || -data.a < 0",
        "data.a.substring(2).matches(data.b)",
        "max(data.a) > min(data.b)",
        "data.a == data.b ? data.c : data.a",
    )
]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional={"a": JSON, "b": JSON, "c": JSON}))
def test_no_event_makes_a_filter_raise(data: dict[str, Any]) -> None:
    for each in FILTERS:
        found, reason = each.evaluate({**VARIABLES, "data": data})
        assert isinstance(found, bool)
        assert reason is None or found is False


@given(st.text(alphabet="dat.()[]{}<>=!&|+-*/%'\"\\ \n,?:ex1il0"))
def test_compiling_any_text_raises_no_other_error(text: str) -> None:
    try:
        compile_filter(text)
    except FilterError as exc:
        assert str(exc)


PYTHON = re.compile(
    r"NoneType|datetime|timedelta|positional|'(str|int|float|dict|list|bool|bytes)'|decimal|slice|True|__|Python"
)
VALUES_OF_ALL_TYPES = [
    "1",
    "1.5",
    "'a'",
    "b'a'",
    "true",
    "null",
    "[1, 'a']",
    "{'a': 1}",
    "received_at",
    "duration('1h')",
    "data.exact",
]


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name != "matches"])
def test_values_of_the_wrong_types_have_a_reason_without_words_of_python(name: str) -> None:
    calls = [f"{name}()", *(f"{name}({one})" for one in VALUES_OF_ALL_TYPES)]
    calls += [f"{name}({one}, {other})" for one in VALUES_OF_ALL_TYPES for other in VALUES_OF_ALL_TYPES]
    for text in calls:
        _, reason = compile_expression(text).value(
            {"received_at": datetime(2026, 1, 2, tzinfo=UTC), "data": {"exact": Decimal("1.1")}}
        )
        assert reason is None or not PYTHON.search(reason), text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data.n.charAt(0)", "charAt: cannot be called with null and a number; write data.text.charAt(0)"),
        ("data.list.charAt(0)", "charAt: cannot be called with a list and a number; write data.text.charAt(0)"),
        ("data.text.charAt(9)", "charAt: index 9 out of range for string of length 1"),
        ("data.number.trim()", "trim: cannot be called with a number; write data.text.trim()"),
        ("bool(data.text)", "bool: the text is not true or false"),
        ("double(data.text)", "double: the text is not a number"),
        ("min(data.list)", "min: incompatible types: data.list is a list"),
    ],
)
def test_the_reason_of_a_function_is_in_words_of_the_document(text: str, reason: str) -> None:
    data = {"n": None, "list": [1, "a"], "text": "x", "number": 5}
    assert compile_filter(f"{text} == null").evaluate({"data": data}) == (False, reason)
