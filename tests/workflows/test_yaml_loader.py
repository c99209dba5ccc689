"""A document is read with the position of each part, and every mistake has the right position."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.workflows.validate import find_mistakes
from app.workflows.yaml_loader import read_bytes, read_document, write_document

TEN_MISTAKES = """\
name: cart rescue
on:
  event: product_view
  where: data.price >
colour: red
steps:
  - wait: soon
  - id: nudge
    http:
      method: FETCH
      url: https://example.com/hook
  - log: "{{ steps.later.body }}"
    retry: {attempts: 0}
  - if: data.price > 5000 && nobody
    then:
      - log: "Hello {{ data.name"
  - wait_for: {where: "true"}
    timeout: 1d
"""
POSITIONS = [
    ("name", 1, 7),
    ("on.where", 4, 10),
    ("colour", 5, 1),
    ("steps[0].wait", 7, 11),
    ("steps[1].http.method", 10, 15),
    ("steps[2].log", 12, 10),
    ("steps[2].retry.attempts", 13, 23),
    ("steps[3].if", 14, 9),
    ("steps[3].then[0].log", 16, 14),
    ("steps[4].wait_for", 17, 5),
]


def _positions(text: str) -> list[tuple[str, int | None, int | None]]:
    return [(mistake.path, mistake.line, mistake.column) for mistake in find_mistakes(text.encode())]


def test_ten_mistakes_are_found_at_once_with_their_positions() -> None:
    assert _positions(TEN_MISTAKES) == POSITIONS


def test_a_document_without_mistakes_has_none() -> None:
    assert find_mistakes(b"name: a\non: b\nsteps:\n  - log: c\n") == []


@pytest.mark.parametrize(
    ("text", "path", "line", "column"),
    [
        ("name: a\non: b\nsteps:\n  - http:\n      method: GET\n", "steps[0].http.url", 4, 5),
        ("name: a\non: b\nsteps:\n  - http: {method: GET}\n", "steps[0].http.url", 4, 5),
        ("name: a\non:\n  where: 'true'\nsteps: [{log: c}]\n", "on", 2, 1),
        ("name: a\non: b\nsteps:\n  - wait_for: c\n", "steps[0].timeout", 4, 5),
        ("name: a\non: b\nsteps:\n  - {}\n", "steps[0]", 4, 5),
        ("on: b\nsteps: [{log: c}]\n", "name", 1, 1),
    ],
)
def test_a_missing_field_has_the_position_of_the_part_that_needs_it(
    text: str, path: str, line: int, column: int
) -> None:
    assert _positions(text) == [(path, line, column)]


@pytest.mark.parametrize(
    ("step", "column"),
    [
        ("if: 'data.price >'\n    then: []", 9),
        ("if: |\n      data.price >\n    then: []", 9),
        ("log: {a: b}", 5),
        ("log: []", 5),
        ("wait:", 5),
        ("nonsense: 1\n    log: x", 5),
    ],
)
def test_a_mistake_in_a_scalar_has_its_position_and_any_other_that_of_the_name(step: str, column: int) -> None:
    found = _positions(f"name: a\non: b\nsteps:\n  - {step}\n")
    assert [(line, found_column) for _, line, found_column in found] == [(4, column)]


def test_json_has_positions_too() -> None:
    assert _positions('{\n\t"name": "a",\n\t"on": "b",\n\t"steps": [{"wait": "soon"}]\n}') == [("steps[0].wait", 4, 21)]


def test_json_escapes_are_read() -> None:
    text = '{"a": "x\\/y", "b": "\\ud83d\\ude00", "\\ud83d\\ude00": 1}'
    assert read_document(text).value == {"a": "x/y", "b": "😀", "😀": 1}


@pytest.mark.parametrize(
    ("raw", "message", "line", "column"),
    [
        (b"", "the document is empty", None, None),
        (b"# nothing\n", "the document is empty", None, None),
        (b"a: b: c", "not YAML: mapping values are not allowed here", 1, 5),
        (b"a: 1\nb: \xff", "not UTF-8: byte 9 is invalid", 2, 4),
        (b"a: 1\nb: \x07", "not YAML: the character U+0007 is not allowed", 2, 4),
        (b"[" * 5_000, "nested too deeply", 1, 101),
        (b"[" + b"[]," * 10_000 + b"]", "the document has more than 10000 parts", 1, 29_999),
        (b"a" * 300_000, "the document is larger than 262144 bytes", None, None),
    ],
)
def test_an_unreadable_document_is_one_mistake(raw: bytes, message: str, line: int | None, column: int | None) -> None:
    (mistake,) = find_mistakes(raw)
    assert (mistake.path, mistake.message[: len(message)], mistake.line, mistake.column) == ("", message, line, column)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "is an alias (*x); aliases are not supported, repeat the part"),
        ("b: !!python/object:x 1", "has the tag tag:yaml.org,2002:python/object:x; tags are not supported"),
        ("b: !!int x", "cannot be read as int"),
        ("b: " + "9" * 5_000, "cannot be read as int"),
        ("b: 1e999", "is a number that is too large"),
        ("b: 0.1234567890123456789", "has more digits than a number of a document keeps; put it in quotes"),
        ("b: 12345678901234567890.5", "has more digits than a number of a document keeps; put it in quotes"),
        ("b: 1e-400", "has more digits than a number of a document keeps; put it in quotes"),
        ("b: !!float x", "cannot be read as float"),
        ("b: !!float .nan", "cannot be read as float"),
        ("b: 0110001", "begins with a zero; put it in quotes to keep it: '0110001'"),
        ("b: -012", "begins with a zero; put it in quotes to keep it: '-012'"),
        ('b: "\\0"', "contains a character that cannot be stored (NUL or a lone surrogate)"),
        ('b: "\\ud800"', "contains a character that cannot be stored (NUL or a lone surrogate)"),
        ("b: 1\nb: 2", "appears twice"),
    ],
)
def test_a_part_that_cannot_be_stored_is_a_mistake_at_its_path(text: str, message: str) -> None:
    (mistake,) = read_document(text).mistakes
    assert (mistake.path, mistake.message) == ("b", message)


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("name: a\non: &n b\nsteps:\n  - log: x\n  - log: *n\n", [("steps[1].log", 5, 10)]),
        ("name: a\non: b\nsteps:\n  - &s\n    log: x\n  - *s\n", [("steps[1]", 6, 5)]),
        ("name: a\non: b\nsteps: &s\n  - *s\n", [("steps[0]", 4, 5)]),
        ("name: &n a\non: b\n? *n\n: 1\nsteps: [{log: c}]\n", [("", 3, 3)]),
        ("name: a\non: b\nsteps:\n  - &s {wait: soon}\n  - *s\n", [("steps[0].wait", 4, 15), ("steps[1]", 5, 5)]),
    ],
)
def test_an_alias_and_the_part_that_it_repeats_have_their_own_positions(text: str, positions: list[object]) -> None:
    assert _positions(text) == positions


def test_an_unread_part_is_one_mistake() -> None:
    assert [path for path, _, _ in _positions("name: a\non: &b b\nsteps: *b\n")] == ["steps"]


@pytest.mark.parametrize(
    "text", ["0.1", "0.10", "-1.5e3", "1.", ".5", "0.30000000000000004", "1e21", "9007199254740993"]
)
def test_a_number_keeps_its_digits(text: str) -> None:
    document = read_document(f"a: {text}")
    assert (document.mistakes, Decimal(repr(document.value["a"]))) == ([], Decimal(text))


@pytest.mark.parametrize("text", ["1_000", "1_000.5", "0x1f", "0o17", "1:30", "1,000", ".inf", ".nan"])
def test_the_numbers_of_yaml_1_1_are_text(text: str) -> None:
    assert read_document(f"a: {text}").value == {"a": text}


def test_the_booleans_of_yaml_1_1_are_text() -> None:
    assert read_bytes(b"on: no\noff: yes\nday: 2026-11-22\n").value == {"on": "no", "off": "yes", "day": "2026-11-22"}


plain_data = st.recursive(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40),
        st.sampled_from(
            ["on", "yes", "null", "1", "1e3", "~", "- a", "a: b", "a\n b \n", "# x", "2026-01-01", "0x1f", "{{ x }}"]
        ),
        st.integers(),
        st.booleans(),
        st.none(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("onab: '", max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["name", "on", "no", "steps", "3"]), plain_data, min_size=1))
@example({"name": "\x85"})
@example({"name": "a\u2028b", "on": {"\u2029": "a\n\x85 b"}})
def test_a_written_document_is_read_as_the_same_data(value: dict[str, Any]) -> None:
    text = write_document(value)
    read = read_document(text)
    assert (read.mistakes, read.value) == ([], value)


def test_a_written_document_is_readable() -> None:
    shared = ["again"]
    written = write_document(
        {"name": "x", "on": {"any": ["a", "b"]}, "steps": [{"log": "one\ntwo\n"}], "a": shared, "b": shared}
    )
    assert written == (
        "name: x\non:\n  any:\n    - a\n    - b\nsteps:\n  - log: |\n      one\n      two\na:\n  - again\nb:\n  - again\n"
    )


QUOTE = "put the whole text in quotes, such as 'data.items[0] > 1'"


@pytest.mark.parametrize(
    "text",
    [
        "a: {where: data.items[0] > 1}",
        'a: {where: data.m["k"] == 1}',
        'a: {where: data.x == {"a": 1}.a}',
        "a: {where: size(data.l) > 0 ? data.a : data.b}",
        'a: {where: data.t == "a: b"}',
        'a: {where: "x" in data.tags}',
        "a: {where: [1, 2].exists(x, x == 1)}",
        "a: {where: !data.x}",
        'a: {where: data.tags.exists(t, t == "x")}',
        'a: {where: data.name == "x, y"}',
        "a: {log: {{ event }}}",
        "a: {{ event }}",
        'a: data.t == "a: b"',
        'a: "x" in data.tags',
        "a: [1, 2].exists(x, x == 1)",
        'a: {"a": 1}.a == 1',
        'a: data.t == "a" ? data.x: 3',
        "a: !data.x",
        "a: `x`",
        "a: @x",
        "a: %x",
        "a: - 1 > data.x",
    ],
)
def test_a_text_that_yaml_reads_as_something_else_gives_the_hint_to_quote_it(text: str) -> None:
    (mistake, *_) = read_document(text).mistakes
    assert mistake.message.endswith(f"; {QUOTE}")
    assert mistake.line == 1


@pytest.mark.parametrize(
    "text", ["a: {where: 'data.items[0] > 1'}", "a: {b, c}", "a: {b: }", "a: {b: null}", "a: [1, {b: 2}]"]
)
def test_a_flow_mapping_that_means_what_it_says_gives_no_hint(text: str) -> None:
    assert read_document(text).mistakes == []


@pytest.mark.parametrize(
    "text", ["a: [", "a: {b: 1", "a:\n b: 1\n  c: 2", "a: 'x", "\ta: 1", "a: 1\u2028b: [", "a: [\r"]
)
def test_another_error_in_yaml_gives_no_hint(text: str) -> None:
    (mistake,) = read_document(text).mistakes
    assert QUOTE not in mistake.message
