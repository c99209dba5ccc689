"""An item of a batch is parsed as a single event, and as Python reads it; bodies are split into their items."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import Problem
from app.core.exact_json import read_fraction, read_object
from app.core.ids import uuid7
from app.core.models import Event
from app.ingest.limechat.batch_items import read_item, split_array, split_lines
from app.ingest.limechat.parser import EVENT, parse_event
from tests.support.builders import an_event

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ID = uuid7(NOW)
GOOD = json.dumps(an_event(data={"a": [1, {"b": 2.5}], "c": 'x": y', "d": 0.0, "e": None})).encode()
PIECES = [
    b'"',
    b"\\",
    b"\\ud800",
    b"\\ud83d\\ude00",
    b"\\u0000",
    b"\\u0061",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'": ',
]
PIECES += [
    b"1e999999",
    b"1e-99999",
    b"0e-99999",
    b"0.0",
    b"-0",
    b"9" * 30,
    b"1.0",
    b"NaN",
    b"null",
    b" ",
    b"\n",
    b"\xff",
]
PIECES += [
    "é".encode(),
    b'"event"',
    b'"data": {}',
    b'"a": 1, ',
    b'"\\u0061": 1, ',
    b'"phone": "", ',
    b'"idempotency_key": "k", ',
]
PIECES += [
    b'"distinct_id": 7, ',
    b'"distinct_id": "", ',
    b'"other": 1, ',
    b'"a" : 1, ',
    b"\x00",
    b"\x7f",
    b"true",
    b"[" * 70,
]


def as_item(item: bytes) -> Event | None:
    try:
        return read_item(item, account_id=1, event_id=ID, received_at=NOW, max_bytes=1_000_000)
    except Problem:
        return None


def as_single_event(body: bytes) -> Event | None:
    try:
        return parse_event(read_object(body), EVENT, account_id=1, event_id=ID, received_at=NOW)
    except Problem:
        return None


def cut_and_paste(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, length, text in changes:
        start = position % (len(body) + 1)
        body = body[:start] + text + body[start + length :]
    return body


@settings(max_examples=1_000)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 6), st.sampled_from(PIECES) | st.binary(max_size=3)), max_size=4
    )
)
def test_an_item_is_parsed_as_a_single_event(changes: list[tuple[int, int, bytes]]) -> None:
    item = cut_and_paste(GOOD, changes)
    parsed, single = as_item(item), as_single_event(item)
    if b"idempotency_key" not in item:
        assert parsed == single
        assert repr(parsed and parsed.data) == repr(single and single.data)
    if parsed is not None:
        assert repr(parsed.data) == repr(json.loads(item, parse_float=read_fraction).get("data", {}))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\é :', max_size=3), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=250)
@given(
    data=st.dictionaries(st.text("abc", max_size=2), values, max_size=4),
    ascii_only=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" , ", " :\n")]),
)
def test_any_data_are_parsed(data: dict[str, Any], ascii_only: bool, separators: tuple[str, str]) -> None:
    item = json.dumps(an_event(data=data), ensure_ascii=ascii_only, separators=separators).encode()
    parsed = as_item(item)
    assert parsed is not None
    assert parsed.data == data
    assert parsed == as_single_event(item)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"phone": ...},
        {"distinct_id": ...},
        {"data": ...},
        {"idempotency_key": "k"},
        {"event": "a b"},
        {"data": {"a": 0.0}},
    ],
)
def test_common_events_are_valid_items(changes: dict[str, Any]) -> None:
    assert as_item(json.dumps(an_event(**changes)).encode()) is not None


@pytest.mark.parametrize(
    "text",
    [
        '{"event": "x", "distinct_id": "1", "data": {"a": 1, "a": 1}}',
        '{"event": "x", "distinct_id": "1", "data": {"a": 1, "a" : "\\":"}}',
        '{"event": "x", "distinct_id": "1", "data": {"b": {"a": 1, "\\u0061": 1}}}',
        '{"event": "x", "distinct_id": "1", "distinct_id": "1"}',
        '{"event": "x", "distinct_id": "1", "data": {}, "data": {}}',
        '{"event": "x", "distinct_id": "1", "data": {"a": 0e-99999}}',
        '{"event": "x", "distinct_id": "1", "data": {"a": 1e-99999}}',
        '{"event": "x", "distinct_id": "1", "data": {"a": "\\u0000"}}',
        '{"event": "x", "distinct_id": "1", "data": {"a": 0.' + "0" * 17_000 + "1}}",
    ],
)
def test_an_item_with_a_repeated_name_or_an_unstorable_value_is_refused(text: str) -> None:
    assert as_single_event(text.encode()) is None
    with pytest.raises(Problem):
        read_item(text.encode(), account_id=1, event_id=ID, received_at=NOW, max_bytes=1_000_000)


@settings(max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 6), st.sampled_from(PIECES)), max_size=3),
)
def test_an_array_is_split_as_python_reads_it_or_refused(changes: list[tuple[int, int, bytes]]) -> None:
    body = cut_and_paste(b"[" + b" ,\n".join([GOOD] * 3) + b"]", changes)
    try:
        parts = [json.loads(bytes(part)) for part in split_array(body, 5, 1_000_000)]
    except Problem as exc:
        assert exc.status == 413 or not _is_an_array(body)
    else:
        assert repr(parts) == repr(json.loads(body))


def _is_an_array(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body.decode()), list)
    except ValueError:
        return False


@settings(max_examples=100)
@given(body=st.text("a \t\r\n", max_size=60).map(str.encode))
def test_blank_lines_are_ignored(body: bytes) -> None:
    expected = [line.strip() for line in body.split(b"\n") if line.strip()]
    assert [body[start:end].rstrip() for start, end in split_lines(body, 100)] == expected
