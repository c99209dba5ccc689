"""Filters and expressions that can never work are refused with their place; those that may work are not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.workflows.expressions.cel import compile_expression, compile_filter
from app.workflows.expressions.cel_analysis import LOOPS, FilterError
from app.workflows.expressions.cel_check import check_expression, check_filter, members_read
from app.workflows.expressions.cel_parser import Node, UnreadableText, parse
from app.workflows.expressions.functions import FUNCTIONS
from app.workflows.expressions.signatures import SIGNATURES
from app.workflows.expressions.standard_functions import STANDARD_FUNCTIONS
from app.workflows.validate import check_workflow
from app.workflows.yaml_loader import read_document
from tests.workflows.expressions.test_standard_functions import evaluate

REFUSED = [
    # Numbers and types of arguments.
    ("data.x.startsWith()", 8, 'startsWith cannot be called with a field; write data.text.startsWith("text")'),
    ("size() > 1", 1, "size cannot be called with nothing; write size(data.list)"),
    ("size(data.a, data.b) > 1", 1, "size cannot be called with a field and a field"),
    ('data.x.contains("a", "b")', 8, "contains cannot be called with a field and a text and a text"),
    ('contains(data.x, "a")', 1, 'contains cannot be called with a field and a text; write data.text.contains("text")'),
    ('"a".contains(1)', 5, "contains cannot be called with a text and a number"),
    ("now.startsWith('2024')", 5, "startsWith cannot be called with a timestamp and a text"),
    ("event.getHours() == 1", 7, "getHours cannot be called with a text"),
    ("received_at.getHours(5) == 1", 13, "getHours cannot be called with a timestamp and a number"),
    ("timestamp(1.5) > now", 1, "timestamp cannot be called with a number"),
    ("data.x.substring('a') == ''", 8, "substring cannot be called with a field and a text"),
    ("data.x == data.y || data.x.trim(1) == 'a'", 28, "trim cannot be called with a field and a number"),
    # Comparisons and operators.
    ('"a" > 1', 5, "a text cannot be compared with a number"),
    ('received_at > "2024-01-01"', 13, "a timestamp cannot be compared with a text; write timestamp("),
    ('event == "a" && "2024-01-01" < now', 30, "a text cannot be compared with a timestamp; write timestamp("),
    ("event == 5", 7, "a text cannot be compared with a number"),
    ("phone > 1", 7, "a text or null cannot be compared with a number"),
    ("now - received_at > 5", 19, "a duration cannot be compared with a number"),
    ("received_at.getHours() == '9'", 24, "a number cannot be compared with a text"),
    ('data.x in "abc"', 8, "in takes a list or an object, not a text; write data.text.contains"),
    ("event + 1 == 'a'", 7, "+ cannot be used with a text and a number"),
    ("1 + 1.5 > 2.0", 3, "+ takes two numbers of one type, not int and double"),
    ("size(data.x) * 1.5 > 2.0", 14, "* takes two numbers of one type, not int and double"),
    ("data.x / 0 > 1", 8, "a division by zero"),
    ("data.x % 0x0u > 1u", 8, "a division by zero"),
    ("data.x % 1.5 > 1.0", 8, "% takes two whole numbers"),
    ("duration('1h') + now > now", 16, "the timestamp has to come first"),
    ("-duration('1h') < duration('1h')", 1, "- takes a number, not a duration"),
    ("!event", 1, "! takes true or false, not a text"),
    ("data.x == 1 && event", 16, "a text is not a condition"),
    ("event ? true : false", 1, "a text is not a condition"),
    ("event.name == 'x'", 7, "a text has no field name"),
    ("[1, 2]['a'] == 1", 7, "a text is no position in a list"),
    ("event[0] == 'a'", 6, "a text has no members"),
    ("event.all(x, true)", 7, "all goes through a list or an object, not a text"),
    ("data.items.exists(i, 'a')", 22, "a text is not a condition"),
    ("data.items.exists(i, i.price > 1 && event > 1)", 43, "a text cannot be compared with a number"),
    ('[1, 2].exists(x, x > "a")', 20, "a number cannot be compared with a text"),
    ('["a"].all(x, [1].exists(x, x == 1) && x > 1)', 41, "a text cannot be compared with a number"),
    ("['a', 'b'][data.x] > 1", 20, "a text cannot be compared with a number"),
    # Members of lists and objects, of another type.
    (
        'received_at in ["2024-01-01"]',
        13,
        "a timestamp cannot be one of these, each of which is a text; write timestamp(",
    ),
    ("event in [1, 2]", 7, "a text cannot be one of these, each of which is a number"),
    (
        'phone in [91567, "a" == "a"]',
        7,
        "a text or null cannot be one of these, each of which is a number or true or false",
    ),
    ("null in ['a']", 6, "null cannot be one of these, each of which is a text"),
    ('received_at.getHours() in ["9"]', 24, "a number cannot be one of these, each of which is a text"),
    (
        'duration("1h") in ["1h"]',
        16,
        'a duration cannot be one of these, each of which is a text; write duration("1h30m")',
    ),
    ("type(data.x) in ['string']", 14, "a type cannot be one of these, each of which is a text"),
    ("1 in data.x.split(',')", 3, "a number cannot be one of these, each of which is a text"),
    ("'a' in {1: 'a'}", 5, "a text cannot be one of these, each of which is a number"),
    ("'a' in [1].map(x, x + 1)", 5, "a text cannot be one of these, each of which is a number"),
    ("'a' in (data.x ? [1] : [2])", 5, "a text cannot be one of these, each of which is a number"),
    ("5 in data", 3, "a number cannot be one of these, each of which is a text"),
    ("data[5] == 1", 5, "a number is no name of a field of this object"),
    ("{1: 2}.exists(key, key == 'a')", 24, "a number cannot be compared with a text"),
    ('[received_at] == ["2024-01-01"]', 15, "a timestamp cannot be compared with a text; write timestamp("),
    ("occurred_at == 'a'", 13, "null or a timestamp cannot be compared with a text; write timestamp("),
    ("duration(data.x) == '1h'", 18, 'a duration cannot be compared with a text; write duration("1h30m")'),
    # A field is never a time.
    ("data.at > received_at", 9, "a field cannot be compared with a timestamp; write timestamp(data.at)"),
    ("now != data.a['b'][0].at", 5, "a timestamp cannot be compared with a field; write timestamp(data.at)"),
    ("data.wait < duration('1h')", 11, "a field cannot be compared with a duration; write duration(data.at)"),
    ("now - data.at > duration('1h')", 5, "- cannot be used with a timestamp and a field; write timestamp(data.at)"),
    ("data.items.exists(i, i.at > now)", 27, "a field cannot be compared with a timestamp; write timestamp(data.at)"),
    ("data.items.filter(i, i.ok)[0].at > now", 34, "a field cannot be compared with a timestamp"),
    ("data.at in [now]", 9, "a field cannot be one of these, each of which is a timestamp; write timestamp(data.at)"),
    ("data.at.getHours() > 9", 9, "getHours cannot be called with a field; write received_at.getHours() or timestamp("),
    ("data.x == b'a'", 8, "a field cannot be compared with bytes"),
    ("data.x == string", 8, "a field cannot be compared with a type"),
    # Literals.
    ('data.x.matches("(")', 16, "matches: the regular expression is invalid"),
    (
        'data.x.matches("a{1000000000}")',
        16,
        "matches: the regular expression takes 1,100,000 units of work, 200,000 are",
    ),
    (
        r'data.x.matches("\\w{90}")',
        16,
        "matches: the regular expression takes 225,100 units of work, 200,000 are allowed",
    ),
    ("data.x.matches(data.regex)", 21, "matches: takes a regular expression that is written out"),
    ('data.x.matches("[a-z]" + "+")', 24, "matches: takes a regular expression that is written out"),
    (r'data.x.matches("(?x)[a-z] {2}")', 16, "matches: the work for this regular expression is not known"),
    # Positions.
    (
        "data.list[-1] == 1",
        10,
        "there is no position -1; positions are whole numbers from 0, the last one is data.list[",
    ),
    ("data.list[-(1)] == 1", 10, "there is no position -1"),
    ("data.list[1 - 2] == 1", 10, "there is no position -1"),
    ("[1, 2][2] == 1", 7, "the list has 2 members and no position 2; positions are whole numbers from 0"),
    ("data.x.charAt(0 - 1) == 'a'", 17, "charAt: there is no position -1"),
    ("[1, 2].map(x, x)[-1] == 1", 17, "there is no position -1"),
    ("data.items.exists(i, i.list[-1] == 1)", 28, "there is no position -1"),
    (
        "data.list[1.5] == 1",
        10,
        "a number is no position in a list, which is a whole number from 0, and no name of a field",
    ),
    ("data.a.b[2.0] == 1", 9, "a number is no position in a list"),
    ("data.a[null] == 1", 7, "null is no position in a list"),
    ("data.a[true] == 1", 7, "true or false is no position in a list"),
    ("{1: 2}[1.0] == 2", 7, "a number is no position in a list"),
    ('"abc".charAt(-1) == "a"', 14, "charAt: there is no position -1; positions are whole numbers from 0"),
    ("data.x.charAt(-1) == 'a'", 15, "charAt: there is no position -1"),
    ("data.x.substring(-1) == 'a'", 18, "substring: there is no position -1"),
    ("data.x.substring(2, 1) == 'a'", 21, "substring: the end is before the beginning"),
    ("data.x.indexOf('a', -1) == 1", 21, "indexOf: there is no position -1"),
    ('timestamp("2024-05-31") > now', 11, "timestamp: takes a text such as 2024-05-31T09:00:00Z"),
    ('timestamp("2024-13-01T00:00:00Z") > now', 11, "timestamp: the text is not a date and time"),
    ('now - duration("1d") > received_at', 16, "duration: takes a text such as 1h30m"),
    ('received_at.getHours("Asia/Nowhere") > 9', 22, "getHours: the time zone is not known"),
    ('timestamp(data.at).getDate("+25:00") > 9', 28, "getDate: the time zone is not known"),
    ('int("abc") == 1', 5, "int: the text is not a whole number"),
    ('double("x") > 1.0', 8, "double: the text is not a number"),
    # The whole filter.
    ("event", 1, "gives a text, not true or false"),
    ("data.x ? 1 : 'a'", 8, "gives a number or a text, not true or false"),
]


@pytest.mark.parametrize(("text", "column", "message"), REFUSED)
def test_what_can_never_work_is_refused_with_its_position(text: str, column: int, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        check_filter(text)
    assert (caught.value.message[: len(message)], caught.value.line, caught.value.column) == (message, 1, column)


@pytest.mark.parametrize("text", [text for text, _, _ in REFUSED])
def test_a_stored_text_that_is_refused_now_is_still_compiled(text: str) -> None:
    compile_filter(text)


@pytest.mark.parametrize(
    "text",
    [
        "data.price > 1",
        "data.price > 1.5 && data.price == 2",
        "size(data.items) > 1.5",
        "1 == 1.0 && 1u < 2",
        "phone == null || phone.startsWith('+91')",
        "distinct_id != null && event != null && received_at != null",
        "data.x.matches('[a-z]+') || data.x.matches(r'\\d+')",
        "data.list[0] == 1 && data.list[data.n] == 1 && data.list[1u] == 2 && data.list[data.n - 1] == 1",
        "[1, 2][3 - 2] == 2 && data['a'].b == 1",
        "{-1: 2}[-1] == 2 && {true: 2}[true] == 2 && [{-1: 2}].all(x, x[-1] == 2) && data.x.substring(0, 0) == ''",
        "data.flag",
        "data.items.exists(i, i.price > 18) && data.items.all(i, i.ok)",
        "data.items.map(i, i.price > 1, i.price) == [] || data.items.filter(i, i.ok) == []",
        "(data.vip ? 'a' : 1) == 1",
        "has(data.a.b) && data['a b'].c[0] == null",
        "now - received_at > duration('5m') && now - duration('1h') < received_at",
        "timestamp(data.at).getHours(data.zone) >= 9 && timestamp(data.seconds) > now",
        "string(now).startsWith('2024') && int(now) > 5",
        "type(data.x) == string && dyn(1) == 'a'",
        "data.x in ['a', 1] && 'a' in data.y && data.x in {'a': 1}",
        "data.a.split(',')[0].trim() == 'a' && {'a': 1}.a == 1",
        "-data.x > -9223372036854775808 && .5 < 1e-5",
        "[1] + data.list == [] && 'a' + data.x == 'ab' && b'a' == bytes(data.x)",
        "[1, 'a'].exists(x, x == 'a') && [].all(x, x > 'a') && ['a'].map(x, 1).exists(y, y > 1)",
        "data.x / 10 > 1 && data.x / 0.0 > 1.0 && {'a': 1}.exists(key, key == 'a')",
        "data.size > 1 && data.list.exists(event, event > 1)",
        "max(data.list) > 1 && min(1, 2) < 3 && sum([1]) == 1 && max(now, received_at) == now",
        "data.a\n  // a comment\n  == 'b'",
        "event in ['a', 1] && phone in [null] && 'a' in data && data.x in [1, now]",
        "timestamp(data.at) > now && now in [timestamp(data.at)] && occurred_at != null",
        "1 in [1].map(x, x + 1) && 'a' in data.x.split(',') && data['a'] == 1 && 'a' in (data.x ? [1] : ['a'])",
        "[now, 1] == [received_at, data.x] && {'a': now}.a == now && (data.x ? {'a': now} : data.y).a > now",
        "data.items.map(i, timestamp(i.at)).exists(at, at > now) && data.items.map(i, {'at': now})[0].at == now",
        "({1: 2} == data.x ? 1 : 2) in {1: 2} && {1: 2}[1] == 2 && [[now]].exists(x, x[0] == now)",
    ],
)
def test_what_may_work_is_not_refused(text: str) -> None:
    check_filter(text)


@pytest.mark.parametrize(
    "text",
    [
        "data.price",
        "event",
        "'a'",
        "{'at': now, 'n': add(data.a, 1, 2.5)}",
        "matched[0].received_at",
        "vars.x + 1",
        "nth(matched, 0).data",
        "values(matched, 'price')",
        "matched.exists(e, e.received_at > now) && matched[0].received_at == now && first(matched).received_at < now",
        "data.vip ? 1 : 'a'",
    ],
)
def test_a_value_may_have_any_type(text: str) -> None:
    check_expression(text, is_condition=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sub(1)", "sub cannot be called with a number; write sub(1, 2)"),
        ("sqrt(event)", "sqrt cannot be called with a text"),
        ("nth(matched)", "nth cannot be called with a list"),
        ("div(1, 0)", "div: a division by zero"),
        ("div(data.x, 0)", "div: a division by zero"),
        ("mod(data.x, 0.0)", "mod: a division by zero"),
        ("sqrt(-1)", "sqrt: a negative number has no square root"),
    ],
)
def test_functions_of_expressions_are_checked_too(text: str, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        check_expression(text, is_condition=False)
    assert caught.value.message[: len(message)] == message


def test_what_exceeds_the_budget_of_work_for_any_event_is_refused() -> None:
    regexes = " || ".join([r'data.x.matches("\\w{40}")'] * 3)
    numbers = f"[{', '.join(['1'] * 100)}]"
    for text in (regexes, f"{numbers}.all(x, {numbers}.all(y, y == x))"):
        with pytest.raises(FilterError, match=r"needs [\d,]+ units of work or more for any event; 200,000 are allowed"):
            check_filter(text)
        check_expression(text, is_condition=True)
    numbers = f"[{','.join(['1'] * 400)}]"
    with pytest.raises(FilterError, match=r"needs [\d,]+ units of work or more for any event; 5,000,000 are allowed"):
        check_expression(f"{numbers}.all(x, {numbers}.all(y, y == x))", is_condition=True)


def test_a_regular_expression_that_takes_too_much_work_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_text = cel.compile
    monkeypatch.setattr(cel, "compile", lambda text: compiled.append(text) or compile_text(text))
    for text in (r'data.x.matches("\\w{90}")', " || ".join([r'data.x.matches("\\w{40}")'] * 5)):
        with pytest.raises(FilterError):
            check_filter(text)
        assert compiled == [text]
        compiled.clear()


def test_every_function_has_a_signature() -> None:
    with pytest.raises(FilterError) as caught:
        compile_expression("unknown_function(1)")
    available = set(caught.value.message.split("available are ")[1].split(", "))
    assert {*FUNCTIONS, *STANDARD_FUNCTIONS} <= available
    assert available - LOOPS == set(SIGNATURES)


def test_a_document_is_refused_with_the_path_and_position_of_each_mistake() -> None:
    document = read_document(
        """
name: never
on: {event: a, where: 'event > 1'}
exit_on: {event: b, where: 'data.x.startsWith()'}
steps:
  - if: received_at > "2024-01-01"
    then: [{wait: 1d}]
  - set: {a: "size()"}
  - repeat: [{wait: 1d}]
    until: data.x.matches("(")
"""
    )
    found = {mistake.path: mistake.message for mistake in check_workflow(document)}
    assert set(found) == {"on.where", "exit_on.where", "steps[0].if", "steps[1].set.a", "steps[2].until"}
    assert found["on.where"] == "a text cannot be compared with a number (line 1, column 7 of the filter)"


# Texts that consist of these are valid, whatever their types are. Left out are && and ||, which may decide before a part that
# can never be evaluated, ==, != and in, which compare everything, and what only this engine evaluates (-true, [1] + {}).
ATOMS = ["1", "1.5", "2u", "'a'", "b'a'", "true", "null", "event", "phone", "received_at", "[1, 'a']", "data.x"]
OPERATORS = ["+", "-", "*", "/", "%", "<", "<=", ">", ">="]
CALLS = ["size({})", "string({})", "int({})", "{}.startsWith({})", "{}.getHours()", "{}[{}]", "!{}"]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
VALUES: list[Any] = [1, 1.5, "a", "2024-05-31T09:00:00Z", True, None, [1], {"a": 1}]


def _calls(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.builds("({} {} {})".format, parts, st.sampled_from(OPERATORS), parts)
    calls = st.builds(lambda form, *given: f"({form.format(*given)})", st.sampled_from(CALLS), parts, parts, parts)
    return binary | calls


@settings(max_examples=400)
@given(st.recursive(st.sampled_from(ATOMS), _calls, max_leaves=5))
def test_what_evaluates_for_some_event_is_not_refused(text: str) -> None:
    reasons = [evaluate(f"[{text}] == []", data={"x": value})[1] for value in VALUES]
    if None in reasons:
        check_expression(text, is_condition=False)


@settings(max_examples=200)
@given(
    st.recursive(st.sampled_from(ATOMS), _calls, max_leaves=3),
    st.sampled_from([*ATOMS, "[now, 1]", "{'a': 1}", "{1: 1}"]),
)
def test_what_is_equal_for_some_event_is_not_refused(one: str, other: str) -> None:
    for text in (f"{one} == {other}", f"{one} in {other}", f"{one} in [{other}]", f"[{one}] == [{other}]"):
        if any(evaluate(text, data={"x": value}, now=NOW, occurred_at=None)[0] for value in VALUES):
            check_expression(text, is_condition=True)


@given(st.text(alphabet="dat.()[]{}<>=!&|+-*/%'\"\\ \n,?:ex1il0"))
def test_the_parser_raises_no_other_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Node)
    except UnreadableText as exc:
        assert str(exc)


@pytest.mark.parametrize("part", ["!", "-", "data.x && ", "1 + ", "data.x == 1 ? true : "])
@pytest.mark.parametrize("count", [80, 300, 600, 900, 1_900])
def test_a_deep_text_is_checked_or_valid(part: str, count: int) -> None:
    text = part * count + "data.x"
    try:
        check_filter(text)
    except FilterError as exc:
        assert "at most" in str(exc) or "number" in str(exc)
    assert members_read(text, "data") <= {"x"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("steps.a.body.id == steps.b['steps.c']", {"a", "b"}),
        ('steps["a"].body == 1 && has(steps.b.body)', {"a", "b"}),
        ("data.x == 'steps.a' && data.steps.b == 1", set()),
        ("data.steps.all(steps, steps.a > 1) && steps . c == 1", {"c"}),
        ("// steps.a\n data.list.exists(i, i == steps.b.x)", {"b"}),
        ("steps.size() > 1 && steps[data.name] == 1", set()),
        ("steps.a ==", set()),
    ],
)
def test_the_names_that_an_expression_reads_are_found(text: str, names: set[str]) -> None:
    assert members_read(text, "steps") == names


def test_a_document_may_contain_the_name_of_a_step_as_text() -> None:
    document = read_document("{name: a, on: b, steps: [{if: \"event == 'steps.nothing'\", then: [{wait: 1d}]}]}")
    assert check_workflow(document) == []


def test_an_unknown_step_in_brackets_is_refused() -> None:
    document = read_document("{name: a, on: b, steps: [{if: \"steps['nothing'].x\", then: [{wait: 1d}]}]}")
    assert [mistake.message for mistake in check_workflow(document)] == [
        "steps.nothing is not known: no earlier step has the id nothing"
    ]
