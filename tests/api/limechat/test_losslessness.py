"""JSON is stored and read back unchanged; any other input is refused and never a 500."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services import workflows
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.builders import Sender, a_sender, a_workflow, an_event


@pytest.fixture(scope="module")
def sender(context: AppContext, client: FlaskClient) -> Sender:
    """Posts without a network, for speed, to an account whose workflow looks at all events."""
    found = a_sender(context, client)
    where = "data.a > 1 || data.b == 'x' || size(data.c) > 0 || event.startsWith('x')"
    workflows.apply_workflow(context, found.account_id, a_workflow(on={"event": "*", "where": where}))
    return found


class Number(str):
    """A number as it is written."""


digits = st.text("0123456789", min_size=1, max_size=60)
whole = st.integers(min_value=-(10**60), max_value=10**60).map(str)
numbers = st.one_of(
    whole,
    st.integers().map(str),
    st.builds(lambda number, fraction: f"{number}.{fraction}", whole, digits),
    st.builds(lambda number, e, power: f"{number}{e}{power}", whole, st.sampled_from("eE"), st.integers(-400, 400)),
    st.builds(lambda n, p, e: f"{n}.{p}e{e:+d}", whole, digits, st.integers(-400, 400)),
    st.sampled_from(["-0", "-0.0", "0e5", "1E400", "1e-400", "9" * 4299, "9" * 4301, "0." + "1" * 5000, "1e131071"]),
).map(Number)
# Everything in Unicode but what Postgres cannot keep; short escapes, long escapes and pairs of surrogates come by `text_of`.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
named = texts.filter(bool)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=5)),
    max_leaves=25,
)
objects = st.dictionaries(texts, values, max_size=6)


def text_of(value: Any, *, escaped: bool) -> str:
    """A value as JSON text: numbers exactly as they are written, characters beyond ASCII as escapes or not."""
    if isinstance(value, Number):
        return str.__str__(value)
    if isinstance(value, dict):
        pairs = (
            f"{text_of(name, escaped=escaped)} : {text_of(member, escaped=escaped)}" for name, member in value.items()
        )
        return "{" + ",\n".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(text_of(member, escaped=escaped) for member in value) + "]"
    return json.dumps(value, ensure_ascii=escaped)


def exact(text: str) -> Any:
    """JSON text as values that are equal exactly when the numbers are."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


def kept(rows: Rows, event_id: str) -> tuple[Any, Any]:
    """The stored values: `data` and `extra` as the text that Postgres has."""
    ((data, extra),) = rows("SELECT data::text, extra::text FROM events WHERE id = %s", event_id)
    return exact(str(data)), None if extra is None else exact(str(extra))


@settings(max_examples=150)
@given(data=objects, escaped=st.booleans())
def test_data_is_read_back_as_it_was_sent(sender: Sender, rows: Rows, data: dict[str, Any], escaped: bool) -> None:
    text = text_of(data, escaped=escaped)
    answer = sender.post(json.dumps(an_event(data="?")).replace('"?"', text))
    assert answer.status_code == 200, answer.text
    assert kept(rows, answer.json["id"])[0] == exact(text)


@settings(max_examples=100)
@given(extra=st.dictionaries(texts.filter(lambda name: name not in an_event()), values, min_size=1, max_size=4))
def test_unknown_fields_are_read_back_as_they_were_sent(sender: Sender, rows: Rows, extra: dict[str, Any]) -> None:
    text = text_of(extra, escaped=False)
    answer = sender.post(json.dumps(an_event())[:-1] + ", " + text[1:])
    assert answer.status_code == 200, answer.text
    assert kept(rows, answer.json["id"]) == (an_event()["data"], exact(text))


@settings(max_examples=150)
@given(name=named, distinct_id=named)
def test_names_and_subjects_are_read_back_as_they_were_sent(
    sender: Sender, rows: Rows, name: str, distinct_id: str
) -> None:
    answer = sender.post(an_event(event=name, distinct_id=distinct_id))
    assert answer.status_code == 200, answer.text
    question = "SELECT event, distinct_id FROM events WHERE id = %s"
    assert rows(question, answer.json["id"]) == [(name, distinct_id)]
    assert (answer.json["event"], answer.json["distinct_id"]) == (name, distinct_id)


def assert_accepted_or_refused(answer: Any) -> None:
    """The response is an accepted event or a problem document."""
    assert answer.status_code in (200, 400, 413, 415, 422), answer.text
    if answer.status_code == 200:
        assert UUID(answer.json["id"]).version == 7
    else:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["status"] == answer.status_code
        assert answer.json["detail"]


@settings(max_examples=300)
@given(body=st.binary(max_size=2_000))
def test_any_bytes_are_accepted_or_refused(sender: Sender, body: bytes) -> None:
    assert_accepted_or_refused(sender.post(body))


@settings(max_examples=100)
@given(body=st.binary(max_size=2_000))
def test_any_gzip_bytes_are_accepted_or_refused(sender: Sender, body: bytes) -> None:
    assert_accepted_or_refused(sender.post(b"\x1f\x8b\x08" + body, Content_Encoding="gzip"))


def cut_and_paste(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, length, text in changes:
        start = position % (len(body) + 1)
        body = body[:start] + text + body[start + length :]
    return body


PIECES = [b'"', b"\\", b"\\u", b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b",", b":", b"1e999999", b"9" * 4301]
PIECES += [
    b"NaN",
    b"-",
    b".",
    b"e5",
    b"\0",
    b"\xff",
    b"\n",
    b'"event":1,',
    b'"a":1,"a":2,',
    b"null",
    b"\xed\xa0\x80",
    b"",
]
changes = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 6), st.sampled_from(PIECES)), min_size=1, max_size=4)


@settings(max_examples=500)
@given(changes=changes)
def test_any_damaged_event_is_accepted_or_refused(sender: Sender, changes: list[tuple[int, int, bytes]]) -> None:
    assert_accepted_or_refused(sender.post(cut_and_paste(json.dumps(an_event()).encode(), changes)))


anything = st.one_of(values, objects, st.text(max_size=300), st.from_regex(r"\+[0-9 .()\[\]-]{0,20}", fullmatch=True))


@settings(max_examples=150)
@given(fields=st.dictionaries(st.sampled_from(["event", "distinct_id", "phone", "data", "other"]), anything))
def test_any_values_of_fields_are_accepted_or_refused(sender: Sender, fields: dict[str, Any]) -> None:
    escaped = text_of(fields, escaped=True)
    assert_accepted_or_refused(sender.post(escaped))


header_text: Callable[..., Any] = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=300)


@settings(max_examples=200)
@given(key=header_text, kind=header_text, encoding=header_text, request_id=header_text)
def test_any_headers_are_accepted_or_refused(
    sender: Sender, key: str, kind: str, encoding: str, request_id: str
) -> None:
    for headers in (
        {"Idempotency_Key": key, "X_Request_Id": request_id},
        {"Content_Type": kind},
        {"Content_Type": f"application/json; {kind}"},
        {"Content_Encoding": encoding},
    ):
        assert_accepted_or_refused(sender.post(an_event(), **headers))
