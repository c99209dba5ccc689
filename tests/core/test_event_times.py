"""What counts as the time at which an event happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from app.core.event_times import read_epoch, read_event_time

TEN = datetime(2024, 3, 5, 10, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    "value",
    [
        "2024-03-05T10:00:00Z",
        "2024-03-05t10:00:00z",
        "2024-03-05 10:00:00+00:00",
        "2024-03-05T15:30:00+05:30",
        "2024-03-05T15:30:00+0530",
        "2024-03-05T05:00:00-05:00",
        "2024-03-05T05:00:00-05",
        "2024-03-05T10:00:00-00:00",
        "2024-03-05T10:00Z",
        " 2024-03-05T10:00:00.000Z\n",
        1709632800,
        1709632800.0,
        Decimal("1709632800"),
        "1709632800",
        1709632800000,
        "1709632800000",
        1709632800000000,
        TEN,
        TEN.astimezone(INDIA),
    ],
    ids=repr,
)
def test_a_time_may_be_written_in_many_ways(value: object) -> None:
    assert read_event_time(value) == TEN


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        ("2024-03-05T10:00:00.123456Z", 123_456),
        ("2024-03-05T10:00:00.5Z", 500_000),
        ("2024-03-05T10:00:00.123456789Z", 123_456),
        ("2024-03-05T10:00:00.9999999Z", 999_999),
        (1709632800.123456, 123_456),
        (1709632800.123457, 123_457),
        (Decimal("1709632800.9999999"), 999_999),
        ("1709632800.1234569", 123_456),
        (Decimal("1709632800123.4569"), 123_456),
        (Decimal("1709632800123456.9"), 123_456),
        (Decimal("1709632800.123456"), 123_456),
        ("1709632800.123456", 123_456),
        (1709632800123, 123_000),
        (1709632800123456, 123_456),
    ],
    ids=repr,
)
def test_times_have_microseconds(value: object, microseconds: int) -> None:
    assert read_event_time(value) == TEN + timedelta(microseconds=microseconds)


def test_times_are_in_utc() -> None:
    for value in ("2024-03-05T15:30:00+05:30", TEN.astimezone(INDIA), 1709632800):
        assert getattr(read_event_time(value), "tzinfo", None) is UTC


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**8, "1973-03-03T09:46:40+00:00"),
        (10**11 - 1, "5138-11-16T09:46:39+00:00"),
        (10**11, "1973-03-03T09:46:40+00:00"),
        (10**14 - 1, "5138-11-16T09:46:39.999000+00:00"),
        (10**14, "1973-03-03T09:46:40+00:00"),
        (10**17 - 1, "5138-11-16T09:46:39.999999+00:00"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
    ],
    ids=repr,
)
def test_times_at_a_bound(value: object, text: str) -> None:
    assert read_event_time(value) == datetime.fromisoformat(text)


NO_TIMES: list[Any] = [
    # No offset, or no time of the day: in which zone?
    "2024-03-05T10:00:00",
    "2024-03-05 10:00:00",
    "2024-03-05",
    # Not in the calendar, or not on the clock.
    "2024-02-30T10:00:00Z",
    "2024-03-05T24:00:00Z",
    "2024-03-05T10:60:00Z",
    "2024-03-05T10:00:61Z",
    "2024-03-05T10:00:00+25:00",
    "2024-03-05T10:00:00+05:99",
    # Outside of the years 1970 to 9999 in UTC.
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00+05:30",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59-05:00",
    "9999-12-31T23:59:60Z",
    # Other formats.
    "05/03/2024 10:00:00",
    "Tue, 05 Mar 2024 10:00:00 GMT",
    "yesterday",
    "",
    "२०२४-०३-०५T१०:००:००Z",
    # Numbers that are too small or too large.
    0,
    1,
    -1709632800,
    20240305,
    "20240305",
    10**8 - 1,
    10**17,
    10**4000,
    1.7e300,
    Decimal("1e131000"),
    Decimal("-1e131000"),
    float("inf"),
    float("nan"),
    Decimal("nan"),
    "1e9",
    # Other types.
    None,
    True,
    [1709632800],
    {"seconds": 1709632800},
    TEN.replace(tzinfo=None),
]


@pytest.mark.parametrize("value", NO_TIMES, ids=lambda value: repr(value)[:40])
def test_other_values_are_no_times(value: object) -> None:
    assert read_event_time(value) is None


def test_a_number_before_1970_is_cut_to_the_earlier_microsecond_as_a_text_is() -> None:
    assert read_epoch(Decimal("-0.0000001")) == datetime.fromisoformat("1969-12-31T23:59:59.9999999Z")


def test_a_number_before_the_year_1_is_refused() -> None:
    with pytest.raises(ValueError, match="is not in the years 1 to 9999"):
        read_epoch(-99_999_999_999)
