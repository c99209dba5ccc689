"""The text of a subject: equal numbers have one, however they are written."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from app.core.exact_json import read_object
from app.core.subjects import subject_text
from app.db.event_queries import read_exactly, read_lightly, subject_at
from app.services.context import AppContext

# As JSON, and as the text of the subject.
NUMBERS = [
    ("98765", "98765"),
    ("98765.0", "98765"),
    ("98765.000", "98765"),
    ("9.8765e4", "98765"),
    ("1e2", "100"),
    ("1E+2", "100"),
    ("1e22", "10000000000000000000000"),
    ("1.50", "1.5"),
    ("15e-1", "1.5"),
    ("0.1", "0.1"),
    ("1e-7", "0.0000001"),
    ("0", "0"),
    ("-0", "0"),
    ("-0.0", "0"),
    ("0e5", "0"),
    ("-5.0", "-5"),
    ("12345678901234567890.0", "12345678901234567890"),
    ("12345678901234567890123", "12345678901234567890123"),
    ("1234567890123456789012.5e1", "12345678901234567890125"),
    ("0.12345678901234567890123", "0.12345678901234567890123"),
    ("9007199254740993.0", "9007199254740993"),
    ("1e254", "1" + "0" * 254),
]


@pytest.mark.parametrize(("sent", "text"), NUMBERS)
def test_equal_numbers_are_one_subject(sent: str, text: str) -> None:
    assert subject_text(read_object(b'{"n": %s}' % sent.encode()).value["n"]) == text


@pytest.mark.parametrize(("sent", "text"), NUMBERS)
def test_a_stored_number_has_the_same_text_for_workers_and_in_sql(context: AppContext, sent: str, text: str) -> None:
    with context.database.transaction() as connection:
        query = (
            f"SELECT data::text, {subject_at('ARRAY[$$a$$, $$n$$]')} "
            "FROM (SELECT CAST(%(data)s AS jsonb) AS data, NULL::jsonb AS augmented) AS event"
        )
        stored, in_sql = connection.exec_driver_sql(query, {"data": f'{{"a": {{"n": {sent}}}}}'}).one()
    assert in_sql == text
    assert subject_text(read_exactly(stored)["a"]["n"]) == text
    assert subject_text(read_lightly(stored)["a"]["n"]) == text


@pytest.mark.parametrize("text", ["98765.0", "98765", "1e2", "-0", " 5", "x" * 255])
def test_text_is_used_as_it_is(text: str) -> None:
    assert subject_text(text) == text


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, [], {}, "", "x" * 256, 10**255, 10**5_000, 1e300, float("inf"), float("nan")),
        *(Decimal("1e1000000"), Decimal("1e-1000000"), Decimal("Infinity"), Decimal(f"0.{'1' * 300}")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_no_subject(value: Any) -> None:
    assert subject_text(value) is None
