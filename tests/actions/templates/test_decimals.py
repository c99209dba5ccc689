"""Numbers in templates are exact."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from app.actions.templates.decimals import FILTERS, Number, NumberError, total
from app.actions.templates.render import TemplateError, render


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0.1234567890123456789", "0.1234567890123456789"),
        ("1999", "1999"),
        ("1.50", "1.50"),
        ("1E+3", "1000"),
        ("1e-7", "0.0000001"),
        ("1e5000", "1E+5000"),
    ],
)
def test_a_number_prints_as_people_write_it(text: str, printed: str) -> None:
    assert str(Number(text)) == printed


def test_a_number_equals_no_other_value() -> None:
    names = {"data": {"n": Decimal("0.5")}}
    text = "{% if data.n == nil or data.n == blank or data.n == 'x' or data.n == data.none %}wrong{% else %}right{% endif %}"
    assert render(text, names) == "right"
    with pytest.raises(TemplateError, match="a text cannot be compared with a number"):
        render("{% if data.n > 'x' %}wrong{% endif %}", names)


def test_a_number_equals_the_float_with_the_same_text() -> None:
    assert Number("0.1") == 0.1
    assert Number("0.1") <= 0.1
    assert not Number("0.1") > 0.1
    assert Number("0.3") > 0.1
    assert Number("0.1") < 0.3
    assert Number("0.1") >= 0.1


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("plus", (2, 3), "5"),
        ("plus", ("0.1", "0.2"), "0.3"),
        ("plus", (Decimal("0.1234567890123456789"), 1), "1.1234567890123456789"),
        ("plus", (12345678901234567890123, 1), "12345678901234567890124"),
        ("minus", (0.3, 0.1), "0.2"),
        ("times", (Decimal("1.10"), 3), "3.30"),
        ("times", (3, 4), "12"),
        ("divided_by", (10, 4), "2"),
        ("divided_by", (-7, 2), "-4"),
        ("divided_by", (10, 4.0), "2.5"),
        ("modulo", (-7, 3), "2"),
        ("modulo", (Decimal("5.5"), 2), "1.5"),
        ("abs", (-3,), "3"),
        ("abs", (Decimal("-0.5"),), "0.5"),
        ("ceil", (Decimal("1.2"),), "2"),
        ("floor", (-1.2,), "-2"),
        ("round", (Decimal("2.5"),), "3"),
        ("round", (Decimal("2.345"), 2), "2.35"),
        ("round", (7, 2), "7"),
        ("at_least", (3, Decimal("4.5")), "4.5"),
        ("at_most", (3, Decimal("4.5")), "3"),
        ("plus", (None, 3), "3"),
        ("plus", ("nonsense", 3), "3"),
        ("plus", ("NaN", 3), "3"),
        ("plus", (True, 3), "3"),
    ],
)
def test_a_calculation_is_exact(name: str, arguments: tuple[Any, ...], expected: str) -> None:
    assert str(FILTERS[name](*arguments)) == expected


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("divided_by", (1, 0)),
        ("divided_by", (1.5, 0)),
        ("divided_by", (0.0, 0)),
        ("modulo", (1, 0)),
        ("times", (Decimal("1e900000"), Decimal("1e900000"))),
        ("times", (10**900, 10**900)),
        ("ceil", (Decimal("1e5000"),)),
    ],
)
def test_a_calculation_without_a_result_says_so(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NumberError):
        FILTERS[name](*arguments)


def test_a_sum_is_exact() -> None:
    assert str(total([Decimal("0.1"), "0.2", 1, None])) == "1.3"
