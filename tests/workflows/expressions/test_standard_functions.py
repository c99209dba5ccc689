"""Functions of the CEL specification: time, time zones, conversions and sizes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from app.workflows.expressions.cel import compile_expression, compile_filter
from app.workflows.expressions.cel_analysis import FilterError

# A Friday.
AT = "timestamp('2009-02-13T23:31:30Z')"
EVENT: dict[str, Any] = {"event": "a", "distinct_id": "b", "phone": None}


def evaluate(text: str, **changes: Any) -> tuple[bool, str | None]:
    names = {"data": {}, "received_at": datetime(2026, 1, 2, 3, 40, tzinfo=UTC), **EVENT}
    return compile_filter(text).evaluate({**names, **changes})


@pytest.mark.parametrize(
    "text",
    [
        # In UTC, whatever the offset of the literal.
        f"{AT}.getFullYear() == 2009",
        f"{AT}.getMonth() == 1",
        f"{AT}.getDate() == 13",
        f"{AT}.getDayOfMonth() == 12",
        f"{AT}.getDayOfWeek() == 5",
        "timestamp('2026-11-29T12:00:00Z').getDayOfWeek() == 0",
        f"{AT}.getDayOfYear() == 43",
        f"{AT}.getHours() == 23",
        f"{AT}.getMinutes() == 31",
        f"{AT}.getSeconds() == 30",
        "timestamp('2009-02-13T23:31:20.123456789Z').getMilliseconds() == 123",
        "timestamp('2009-02-14T05:01:30+05:30').getHours() == 23",
        "timestamp('2009-02-14T05:01:30+05:30').getDate() == 13",
        f"timestamp('2009-02-14T05:01:30+05:30') == {AT}",
        # In a zone.
        f"{AT}.getDate('Australia/Sydney') == 14",
        f"{AT}.getDayOfMonth('US/Central') == 12",
        f"{AT}.getDayOfMonth('+11:00') == 13",
        "timestamp('2009-02-13T02:00:00Z').getDayOfMonth('-02:30') == 11",
        f"{AT}.getDayOfWeek('Asia/Tokyo') == 6",
        f"{AT}.getFullYear('-09:30') == 2009",
        f"{AT}.getHours('02:00') == 1",
        f"{AT}.getHours('Asia/Kolkata') == 5",
        f"{AT}.getMinutes('Asia/Kathmandu') == 16",
        f"{AT}.getSeconds('-00:00') == 30",
        f"{AT}.getMonth('UTC') == 1",
        "received_at.getHours('Asia/Kolkata') >= 9",
        # Before and after the clocks change in New York, on 8 March 2026.
        "timestamp('2026-03-08T06:59:59Z').getHours('America/New_York') == 1",
        "timestamp('2026-03-08T07:00:00Z').getHours('America/New_York') == 3",
        "timestamp('2026-11-01T05:30:00Z').getHours('America/New_York') == 1",
        "timestamp('2026-11-01T06:30:00Z').getHours('America/New_York') == 1",
        # Durations.
        "duration('10000s').getHours() == 2",
        "duration('-5400s').getHours() == -1",
        "duration('3730s').getMinutes() == 62",
        "duration('3730s').getSeconds() == 3730",
        "duration('123.321456789s').getMilliseconds() == 321",
        "duration('1h30m') == duration('5400s')",
        "duration('-1.5h') == duration('-90m')",
        "duration('100ms') + duration('1us') + duration('0') > duration('.1s')",
        # Conversions.
        f"int({AT}) == 1234567890",
        "int(timestamp('1969-12-31T23:59:59.5Z')) == -1",
        f"timestamp(1234567890) == {AT}",
        f"timestamp(timestamp(1234567890)) == {AT}",
        "timestamp(-62135596800) == timestamp('0001-01-01T00:00:00Z')",
        f"string({AT}) == '2009-02-13T23:31:30Z'",
        "string(timestamp('2009-02-14T05:01:30.5+05:30')) == '2009-02-13T23:31:30.5Z'",
        "string(duration('1000000s')) == '1000000s'",
        "string(duration('-1500ms')) == '-1.5s'",
        "int('-45') == -45 && int(-7.9) == -7 && int(11u) == 11",
        "string(123) == '123' && string(1.5) == '1.5' && string(2.0) == '2' && string(true) == 'true'",
        r"string(b'\xc3\xbf') == 'ÿ'",
        # Arithmetic and comparisons.
        f"{AT} + duration('120s') == timestamp('2009-02-13T23:33:30Z')",
        f"{AT} - duration('2h') < {AT}",
        f"{AT} - timestamp('2009-02-13T23:30:30Z') == duration('60s')",
        "received_at - timestamp('2026-01-01T00:00:00Z') > duration('24h')",
        # Sizes are characters, not bytes.
        "size('πέντε') == 5 && 'ÿ'.size() == 1",
        "size([1, 2]) == 2 && size({'a': 1}) == 1 && size(b'abc') == 3",
    ],
)
def test_the_expression_is_true(text: str) -> None:
    assert evaluate(text) == (True, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("timestamp(data.x) < received_at", "timestamp: takes a text such as 2024-05-31T09:00:00Z"),
        ("received_at.getHours(data.zone) == 9", "getHours: the time zone is not known"),
        ("received_at.getHours(data.path) == 9", "getHours: the time zone is not known"),
        ("received_at.getHours(data.long) == 9", "getHours: the time zone is not known"),
        ("data.x.getHours() == 9", "getHours: takes a timestamp or a duration"),
        ("timestamp(data.far) == received_at", "timestamp: the timestamp is not in the years 1 to 9999"),
        ("timestamp('0001-01-01T00:00:00Z').getHours(data.west) == 1", "getHours: the timestamp is not in the years"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s') > received_at", "a number is too large"),
        ("duration(data.day) == duration('24h')", "duration: takes a text such as 1h30m"),
        ("duration(data.ages) == duration('24h')", "duration: the duration is longer than 10,000 years"),
        ("int(data.big) == 1", "int: a number is too large"),
        ("int(data.float) == 1", "int: a number is too large"),
        ("int(data.yes) == 1", "int: takes a number, a text or a timestamp"),
        ("string(data.list) == ''", "string: takes a text, number"),
        ("size(data.float) == 1", "size: takes one text, bytes, list or object"),
    ],
)
def test_a_value_that_a_function_cannot_take_is_a_reason(text: str, reason: str) -> None:
    data = {
        "x": "2024-01-01",
        "zone": "Asia/Nowhere",
        "path": "../../etc/passwd",
        "long": "a" * 10_000,
        "west": "-05:00",
        "far": 10**15,
        "day": "1d",
        "ages": "999999999999999h",
        "big": 2**63,
        "float": 1e300,
        "yes": True,
        "list": [],
    }
    found, why = evaluate(text, data=data)
    assert (found, (why or "")[: len(reason)]) == (False, reason)


def test_the_time_of_an_event_is_read_in_utc_whatever_its_offset() -> None:
    at = datetime(2026, 1, 2, 3, 40, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert evaluate("received_at.getHours() == 22 && received_at.getDate() == 1", received_at=at) == (True, None)


def test_text_of_a_number_has_all_its_digits_in_an_expression() -> None:
    names = {**EVENT, "data": {"n": 12345678901234567890123, "d": Decimal("0.1234567890123456789")}}
    value = compile_expression("[string(data.n), string(data.d)]").value(names)
    assert value == (["12345678901234567890123", "0.1234567890123456789"], None)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (98765.0, "98765"),
        (1.5, "1.5"),
        (1e22, "1" + "0" * 22),
        (1e-7, "0.0000001"),
        (-0.5, "-0.5"),
        (10**15, "1" + "0" * 15),
    ],
)
def test_the_text_of_a_number_is_the_same_in_filters_and_in_expressions(number: float, text: str) -> None:
    assert evaluate("string(data.n) == data.text", data={"n": number, "text": text}) == (True, None)
    exact = {**EVENT, "data": {"n": Decimal(repr(number)) if isinstance(number, float) else number}}
    assert compile_expression("string(data.n)").value(exact) == (text, None)


@pytest.mark.parametrize("text", ["1209600s", "1234567.891s", "-0.000001s", "0s"])
def test_a_duration_that_is_set_keeps_its_digits_and_can_be_read_again(text: str) -> None:
    assert compile_expression("duration(data.d)").value({**EVENT, "data": {"d": text}}) == (text, None)


def test_a_timestamp_that_is_set_can_be_read_again() -> None:
    at = datetime(2026, 1, 2, 3, 40, 5, 60, tzinfo=UTC)
    text, _ = compile_expression("received_at").value({**EVENT, "received_at": at})
    assert text == "2026-01-02T03:40:05.000060Z"
    assert evaluate("timestamp(data.at) == received_at", data={"at": text}, received_at=at) == (True, None)


def test_a_function_is_known_only_by_its_own_name() -> None:
    with pytest.raises(FilterError, match="the function GetHours is not known"):
        compile_filter("received_at.GetHours() == 1")
    with pytest.raises(FilterError, match="the function Size is not known"):
        compile_filter("Size(data.x) == 1 && size(data.x) == 1")


def test_a_field_can_have_the_name_of_a_function() -> None:
    assert evaluate("data.size == 2 && size (data.l) == 1", data={"size": 2, "l": [1]}) == (True, None)
