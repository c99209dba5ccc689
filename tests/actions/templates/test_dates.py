"""The filters `date`, `number` and `money`: what they read, zones and locales, and what has several meanings."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.actions.templates.render import TemplateError, prepare, render


def dated(value: object, format: str = "%Y-%m-%d %H:%M:%S", zone: str = "", *, strict: bool = False) -> str:
    arguments = f"'{format}'" + (f", '{zone}'" if zone else "")
    return render(f"{{{{ data.at | date: {arguments} }}}}", prepare({"data": {"at": value}}, strict=strict))


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("2024-03-05", "2024-03-05 00:00:00"),
        ("2024-03-05T10:15:00Z", "2024-03-05 10:15:00"),
        ("2024-03-05T10:15:00+05:30", "2024-03-05 04:45:00"),
        ("2024-03-05 10:15:00.123456789", "2024-03-05 10:15:00"),
        ("20240305T101500Z", "2024-03-05 10:15:00"),
        ("20240305", "2024-03-05 00:00:00"),
        ("20240305101500", "2024-03-05 10:15:00"),
        (20240305, "2024-03-05 00:00:00"),
        (20240305101500, "2024-03-05 10:15:00"),
        (20241345, "1970-08-23 06:35:45"),
        ("20241345", "1970-08-23 06:35:45"),
        (1709633700, "2024-03-05 10:15:00"),
        (1709633700123456, "2024-03-05 10:15:00"),
        ("1709633700123456", "2024-03-05 10:15:00"),
        (1709633700123, "2024-03-05 10:15:00"),
        (Decimal("1709633700.999"), "2024-03-05 10:15:00"),
        ("1709633700", "2024-03-05 10:15:00"),
        ("1709633700000", "2024-03-05 10:15:00"),
        (" 1709633700.5 ", "2024-03-05 10:15:00"),
        (-86400, "1969-12-31 00:00:00"),
        (0, "1970-01-01 00:00:00"),
        ("5 March 2024", "2024-03-05 00:00:00"),
        ("Mar 5, 2024 10:15 PM", "2024-03-05 22:15:00"),
        ("Tue, 05 Mar 2024 10:15:00 +0530", "2024-03-05 04:45:00"),
        ("Tue, 05 Mar 2024 10:15:00 GMT", "2024-03-05 10:15:00"),
        ("Tue Mar 05 2024 10:15:00 GMT+0530", "2024-03-05 04:45:00"),
        ("Tue Mar 05 2024 10:15:00 GMT+0530 (India Standard Time)", "2024-03-05 04:45:00"),
        ("2024-03-05 10:15 UTC-07:00", "2024-03-05 17:15:00"),
        ("2024-03-05 10:15 GMT+3", "2024-03-05 07:15:00"),
        ("25/12/2024", "2024-12-25 00:00:00"),
        ("12/25/2024", "2024-12-25 00:00:00"),
        ("2024/12/25", "2024-12-25 00:00:00"),
        ("2024/03/05", "2024-03-05 00:00:00"),
        ("2024.3.5 10:15", "2024-03-05 10:15:00"),
        ("2024-3-5", "2024-03-05 00:00:00"),
        ("05/05/2024", "2024-05-05 00:00:00"),
        (datetime(2024, 3, 5, 10, 15, tzinfo=UTC), "2024-03-05 10:15:00"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_date_with_one_meaning_is_read(value: object, printed: str) -> None:
    assert dated(value) == printed
    assert dated(value, strict=True) == printed


@pytest.mark.parametrize("value", ["05-03-2024", "05/03/2024", "05.03.2024", "1/2/03", "05-03-2024 10:15", "01-02-03"])
def test_a_date_with_the_day_or_the_month_first_stays_as_it_is_and_is_an_error_in_strict_texts(value: str) -> None:
    assert dated(value) == value
    with pytest.raises(TemplateError, match=f"line 1, column 1: date: {value!r} may have the day or the month first"):
        dated(value, strict=True)


@pytest.mark.parametrize(
    "value",
    [
        "no date",
        "10:30",
        "March",
        "March 2024",
        "Friday",
        "2024-13-45",
        "5 March 2024 10:00 IST",
        "x" * 500,
        10**17,
        "9" * 20,
        True,
    ],
)
def test_what_is_no_whole_date_stays_as_it_is_and_is_an_error_in_strict_texts(value: object) -> None:
    assert dated(value) == ("true" if value is True else str(value))
    with pytest.raises(TemplateError, match="is not a date"):
        dated(value, strict=True)


@pytest.mark.parametrize(
    ("value", "zone", "printed"),
    [
        ("2024-03-05T10:15:00Z", "Asia/Kolkata", "2024-03-05 15:45 +0530"),
        (1709633700000, "America/New_York", "2024-03-05 05:15 -0500"),
        ("2024-07-05T10:15:00Z", "America/New_York", "2024-07-05 06:15 -0400"),
        ("2024-03-05T23:00:00-05:00", "UTC", "2024-03-06 04:00 +0000"),
        ("2024-03-05T10:15:00Z", "+05:30", "2024-03-05 15:45 +0530"),
        ("2024-03-05T10:15:00Z", "-08:00", "2024-03-05 02:15 -0800"),
    ],
)
def test_a_date_is_printed_in_a_zone(value: object, zone: str, printed: str) -> None:
    assert dated(value, "%Y-%m-%d %H:%M %z", zone) == printed


@pytest.mark.parametrize("zone", ["Mars/Olympus", "IST5", "../../etc/passwd", "Asia", "+99:00", "localtime"])
def test_an_unknown_zone_is_an_error(zone: str) -> None:
    with pytest.raises(TemplateError, match="the time zone is not known; use a name such as Asia/Kolkata"):
        render("{{ 0 | date: '%Y', data.zone }}", {"data": {"zone": zone}})


def test_the_zone_may_come_from_the_data() -> None:
    names = {"data": {"zone": "Asia/Kolkata"}, "received_at": datetime(2024, 3, 5, 20, tzinfo=UTC)}
    assert render("{{ received_at | date: '%d %H:%M', data.zone }}", names) == "06 01:30"


def test_seconds_and_milliseconds_may_be_printed() -> None:
    assert dated("2024-03-05T10:15:00.987Z", "%s %L %% %%s", "Asia/Kolkata") == "1709633700 987 % %s"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{{ data.n | number }}", "1,234,567.5"),
        ("{{ data.n | number: 'de' }}", "1.234.567,5"),
        ("{{ data.n | number: 'en-IN', 2 }}", "12,34,567.50"),
        ("{{ data.n | number: 'en', 0 }}", "1,234,568"),
        ("{{ data.exact | number }}", "12,345,678,901,234,567,890.1234567890123456789"),
        ("{{ data.n | money: 'INR', 'en_IN' }}", "₹12,34,567.50"),
        ("{{ data.n | money: 'JPY', 'ja' }}", "￥1,234,568"),
        ("{{ data.half | money: 'usd' }}", "$0.13"),
        ("{{ data.text | money: 'EUR', 'de' }}", "1.234,50\xa0€"),
        ("{{ data.name | money: 'EUR' }}{{ data.null | number }}{{ data.nothing | number }}", "Jane"),
        ("{{ data.exact | money: 'USD' }}", "$12,345,678,901,234,567,890.12"),
    ],
)
def test_numbers_and_amounts_are_written_as_in_a_locale(text: str, printed: str) -> None:
    data: dict[str, Any] = {
        "n": Decimal("1234567.5"),
        "exact": Decimal("12345678901234567890.1234567890123456789"),
        "half": Decimal("0.125"),
        "text": "1234.50",
        "name": "Jane",
        "null": None,
    }
    assert render(text, {"data": data}) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ data.name | money: 'EUR' }}", "money: 'Jane' is not a number"),
        ("{{ data.name | number }}", "number: 'Jane' is not a number"),
        ("{{ 1 | money: data.name }}", "'Jane' is not a currency; use a code such as INR"),
        ("{{ 1 | number: data.name }}", "'Jane' is not a locale; use one such as en_IN"),
        ("{{ 1 | number: 'en', 99 }}", "the number of decimals must be 0 to 20"),
    ],
)
def test_what_cannot_be_written_is_an_error_in_strict_texts(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        render(text, prepare({"data": {"name": "Jane"}}, strict=True))
