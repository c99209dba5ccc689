"""Bodies are parsed without a loss, or refused with the position."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import Problem
from app.core.exact_json import ExactTexts, read_object, read_value

REFUSED = [
    (b"", 400, "empty"),
    (b" \n\t", 400, "empty"),
    (b"{", 400, "line 1, column 2"),
    (b'{"a": 1 "b": 2}', 400, "line 1, column 9"),
    (b'{\n  "a": 1\n  "b": 2}', 400, "line 3, column 3"),
    (b'{"a": 1,}', 400, "column"),
    (b"[1]", 400, "array"),
    (b"null", 400, "null"),
    (b"true", 400, "true or false"),
    (b'"text"', 400, "string"),
    (b"17", 400, "number"),
    (b'{"a": NaN}', 400, "NaN at line 1, column 7"),
    (b'{"x": "NaN",\n"a": Infinity}', 400, "Infinity at line 2, column 6"),
    (b'{"a": -Infinity}', 400, "-Infinity at line 1, column 7"),
    (b'{"a": 1, "a": 2}', 400, "a appears twice"),
    (b'{"data": [{"x": {"b": 1, "b": 2}}]}', 400, "data[0].x.b appears twice"),
    (b'{"a": "\xff"}', 400, "not UTF-8: byte 8 (0xff)"),
    ("\ufeff{}".encode(), 400, "BOM"),
    ('{"a": 1}'.encode("utf-16"), 400, "not UTF-8"),
    (b'{"a": "\x00"}', 400, "line 1"),
    (b'{"a": "\n"}', 400, "line 1"),
    (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", 400, "64 levels"),
    (b"[" * 100_000, 400, "64 levels"),
    (b'{"a":' * 100_000, 400, "64 levels"),
    (b'{"a": "\\u0000"}', 422, "a: contains a NUL"),
    (b'{"data": {"x": ["\\ud800"]}}', 422, "data.x[0]: contains half"),
    (b'{"data": {"\\udc00": 1}}', 422, "half of a surrogate"),
    (b'{"data": {"n": 1e999999}}', 422, "data.n: the number 1e999999"),
    (b'{"data": {"odd name": -1E131072}}', 422, 'data["odd name"]'),
    (b'{"data": {"n": 1e-16384}}', 422, "data.n"),
    (b'{"data": {"n": ' + b"9" * 131_073 + b"}}", 422, "data.n"),
]


@pytest.mark.parametrize(("body", "status", "message"), REFUSED, ids=range(len(REFUSED)))
def test_an_unreadable_or_unstorable_body_is_refused_with_its_position(body: bytes, status: int, message: str) -> None:
    with pytest.raises(Problem) as refused:
        read_object(body)
    assert refused.value.status == status
    assert message in refused.value.detail


@pytest.mark.parametrize("depth", [1, 2, 63, 64])
def test_nesting_up_to_64_levels_is_read(depth: int) -> None:
    body = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}" if depth > 1 else b"{}"
    assert read_object(body).value is not None


def test_brackets_inside_text_do_not_count_as_nesting() -> None:
    assert read_object(json.dumps({"a": "[{" * 500 + '"\\'}).encode()).value["a"].startswith("[{")


def test_the_raw_text_of_a_member_is_untouched() -> None:
    body = b'{"data": {"n": 12345678901234567890123, "d": 0.1234567890123456789, "e": 1e400 , "u": "\\u00e9\\ud83d\\ude00"}}'
    assert read_object(body).raw["data"] == (
        '{"n": 12345678901234567890123, "d": 0.1234567890123456789, "e": 1e400 , "u": "\\u00e9\\ud83d\\ude00"}'
    )


def test_a_surrogate_pair_is_a_character() -> None:
    assert read_object(b'{"a": "\\ud83d\\ude00"}').value == {"a": "\U0001f600"}


def test_an_escaped_backslash_before_u0000_is_not_nul() -> None:
    assert read_object(b'{"a": "\\\\u0000"}').value == {"a": "\\u0000"}


numbers = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**40), max_value=10**40),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.builds(lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(), st.integers(-20_000, 140_000)),
)


@settings(max_examples=300)
@given(number=numbers)
def test_numbers_are_refused_exactly_when_postgres_would(number: Decimal | int, database_url: str) -> None:
    text = str(number)
    try:
        read_value(f"[{text}]".encode())
        refused = False
    except Problem as problem:
        assert problem.status == 422
        refused = True
    assert refused == _postgres_refuses(database_url, text)


_connections: dict[str, Any] = {}


def _postgres_refuses(url: str, text: str) -> bool:
    if url not in _connections:
        _connections[url] = psycopg2.connect(url)
        _connections[url].autocommit = True
    with _connections[url].cursor() as cursor:
        try:
            cursor.execute("SELECT %s::jsonb", (text,))
        except psycopg2.DataError:
            return True
    return False


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1e5}', 100_000.0),
        (b'{"a": -1.5E-10}', -1.5e-10),
        (b'{"a": 1e99}', 1e99),
        (b'{"a": 1e400}', Decimal("1e400")),
        (b'{"a": 1234567890.1234567890}', Decimal("1234567890.1234567890")),
    ],
)
def test_a_number_with_an_exponent_is_a_double_if_that_has_all_its_digits(body: bytes, value: Any) -> None:
    assert repr(read_object(body).value["a"]) == repr(value)


def test_a_large_body_is_read_as_a_small_one() -> None:
    members = ",".join(f'{{"n": {number}.5, "t": "x[{{"}}' for number in range(20_000))
    assert read_value(f"[{members}]".encode()) == [{"n": number + 0.5, "t": "x[{"} for number in range(20_000)]


def test_a_repeated_name_in_a_large_body_is_refused() -> None:
    members = ",".join(f'{{"n": {number}}}' for number in range(20_000))
    with pytest.raises(Problem, match=r"The name l\[20000\].b appears twice"):
        read_object(f'{{"l": [{members}, {{"b": 1, "b": 2}}]}}'.encode())


def test_a_body_with_a_repeated_name_that_is_no_json_is_refused_with_its_position() -> None:
    with pytest.raises(Problem, match="not JSON: extra data at line 1, column 25"):
        read_object(b'{"a": {"b": 1, "b": 2}} "')


def test_nesting_after_many_brackets_is_refused_at_its_position() -> None:
    body = b"[" + b"[]," * 100_000 + b"[" * 64 + b"]" * 64 + b"]"
    with pytest.raises(Problem, match="line 1, column 300065 on"):
        read_value(body)


def test_the_texts_of_parts_are_those_that_were_sent() -> None:
    body = b'{"a": [ {"b": 1.50, "c\\u00e9": [1e2, "x" ]} ], "d": {"e": null}}'
    texts = ExactTexts(body)
    assert texts.at(()) == body.decode()
    assert texts.at(("a", 0, "b")) == "1.50"
    assert texts.at(("a", 0, "cé")) == '[1e2, "x" ]'
    assert texts.at(("a", 0, "cé", 0)) == "1e2"
    assert texts.at(("d",)) == '{"e": null}'
    with pytest.raises(LookupError):
        texts.at(("d", "x"))
