"""Templates: output, errors, and limits on resources."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.actions.templates.liquid import MAX_OUTPUT_BYTES
from app.actions.templates.render import (
    MAX_TEMPLATE_CHARS,
    MAX_VALUE_CHARS,
    TemplateError,
    Text,
    check,
    check_texts,
    members_read,
    prepare,
    render,
    render_value,
)

NAMES: dict[str, Any] = {
    "event": "order_placed",
    "phone": "+915673412780",
    "received_at": datetime(2026, 11, 22, 10, 30, tzinfo=UTC),
    "now": datetime(2026, 12, 1, tzinfo=UTC),
    "steps": {"nudge": {"body": {"id": "m-1"}}},
    "data": {
        "price": 1999,
        "exact": Decimal("0.1234567890123456789"),
        "name": "Ünal & <Söhne>",
        "tags": ["a", "b"],
        "items": [{"price": Decimal("0.1")}, {"price": Decimal("0.2")}],
        "address": {"city": "Pune", "rent": Decimal("10.50")},
        "long": "x" * 300_000,
        "paid": 1763807400,
    },
}


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("no template at all", "no template at all"),
        ("{{ data.price }}", "1999"),
        ("{{ data.exact }}", "0.1234567890123456789"),
        ("{{ data.exact | times: 2 }}", "0.2469135780246913578"),
        ("{{ data.items | sum: 'price' }}", "0.3"),
        ("{{ data.items | map: 'price' | join: ' and ' }}", "0.1 and 0.2"),
        ("{{ data.name }}", "Ünal & <Söhne>"),
        ("{{ data.nothing }}{{ data.nothing.at.all }}{{ nobody }}.", "."),
        ("{{ data.nothing | default: 'friend' }}", "friend"),
        ("{{ data.address }}", '{"city":"Pune","rent":10.50}'),
        ("{{ data.items | json }}", '[{"price":0.1},{"price":0.2}]'),
        ("{{ data.tags[1] }}{{ data.tags.first }}{{ data.tags.size }}", "ba2"),
        ("{{ steps.nudge.body.id }}", "m-1"),
        ("{{ received_at }}", "2026-11-22T10:30:00.000000Z"),
        ("{{ received_at | date: '%d.%m.%Y %H:%M' }}", "22.11.2026 10:30"),
        ("{{ data.paid | date: '%Y-%m-%d %H:%M' }}", "2025-11-22 10:30"),
        ("{{ 'now' | date: '%Y-%m' }}", "2026-12"),
        ("{{ 'no date' | date: '%Y' }}", "no date"),
        ("{% if data.items[0].price == 0.1 %}yes{% endif %}", "yes"),
        ("{% for item in data.items %}{{ forloop.index }}:{{ item.price }};{% endfor %}", "1:0.1;2:0.2;"),
        ("{% assign who = data.name | upcase %}{{ who }}", "ÜNAL & <SÖHNE>"),
        ("{% raw %}{{ data.price }}{% endraw %}", "{{ data.price }}"),
        ("{{ phone | url_encode }}", "%2B915673412780"),
    ],
)
def test_it_prints(text: str, printed: str) -> None:
    assert render(text, NAMES) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hello {{ data.name", "line 1, column 7: {{ is not closed by }}"),
        ("a\n{% if data.x", "line 2, column 1: {% is not closed by %}"),
        ("{% if data.x %}", "expected tag endif"),
        ("x {% nonsense %}", "line 1, column 6: unexpected tag 'nonsense'"),
        ("{{ data.name | shout }}", "the filter shout is unknown"),
        ("{{ dat.name }}", "line 1, column 4: dat is unknown; a template can read event, distinct_id"),
        ("{% include 'secrets' %}", "unexpected tag 'include'"),
        ("{% render 'secrets' %}", "unexpected tag 'render'"),
        ("{{ }}", "expected"),
    ],
)
def test_an_error_has_its_position(text: str, message: str) -> None:
    assert message in str(check(text))


@pytest.mark.parametrize("text", ["", "{{ data.x }}", "{% assign mine = 1 %}{{ mine }}", "{{ now }}", "100 % {sure}"])
def test_a_valid_template_has_no_errors(text: str) -> None:
    assert check(text) is None


def test_each_text_in_a_value_is_checked_with_its_path() -> None:
    found = check_texts({"a": ["{{ event }}", {"b": "{{ nope }}"}], "c": 3}, "steps[0].http.json")
    assert [path for path, _ in found] == ["steps[0].http.json.a[1].b"]


def test_the_steps_that_a_template_reads_are_found() -> None:
    text = "{{ steps.nudge.body }}{% if steps['open'].status == 200 %}{{ steps[event] }}{% endif %}"
    assert members_read(text, "steps") == {"nudge", "open"}


def test_texts_are_rendered_at_any_depth() -> None:
    value = {"to": "{{ phone }}", "n": [1, True, None, {"at": "{{ data.price }}"}]}
    assert render_value(value, NAMES) == {"to": "+915673412780", "n": [1, True, None, {"at": 1999}]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ data.price }}", 1999),
        (" {{ data.price }}", " 1999"),
        ("{{ data.price }}{{ data.price }}", "19991999"),
        ("{{ data.exact }}", Decimal("0.1234567890123456789")),
        ("{{ data.exact | times: 2 }}", Decimal("0.2469135780246913578")),
        ("{{ 1.5 }}", Decimal("1.5")),
        ("{{- data.tags -}}", ["a", "b"]),
        ("{{ data.items }}", [{"price": Decimal("0.1")}, {"price": Decimal("0.2")}]),
        ("{{ data.address }}", {"city": "Pune", "rent": Decimal("10.50")}),
        ("{{ data.items | map: 'price' }}", [Decimal("0.1"), Decimal("0.2")]),
        ("{{ data.yes }}", True),
        ("{{ data.null }}", None),
        ("{{ data.nothing }}", None),
        ("{{ data.nothing | default: false }}", False),
        ("{{ (1..3) }}", [1, 2, 3]),
        ("{{ data.price | append: '' }}", "1999"),
        ("{{ received_at }}", "2026-11-22T10:30:00.000000Z"),
        ("{% if true %}{{ data.price }}{% endif %}", "1999"),
        ({"mustache": "{{data.price}}"}, "1999"),
    ],
)
def test_a_value_that_is_one_expression_keeps_its_type(text: Text, value: Any) -> None:
    names = {**NAMES, "data": {**NAMES["data"], "yes": True, "null": None}}
    rendered = render_value({"a": [text]}, names)["a"][0]
    assert (rendered, type(rendered)) == (value, type(value))


def test_a_missing_value_of_a_strict_step_is_an_error_also_alone() -> None:
    with pytest.raises(TemplateError, match=r"line 1, column 4: data\.nothing is undefined"):
        render_value(["{{ data.nothing }}"], prepare(NAMES, strict=True))


def test_deep_data_do_not_keep_other_members_from_being_read() -> None:
    deep: Any = "x"
    for _ in range(800):
        deep = [deep]
    names = {"data": {"deep": deep, "city": "Pune"}}
    assert render("{{ data.city }}{{ forloop }}", names) == "Pune"
    with pytest.raises(TemplateError, match="nested too deep"):
        render_value(["{{ data.deep }}"], names)


def test_a_range_alone_is_limited() -> None:
    with pytest.raises(TemplateError, match="a range of more than 10000 members"):
        render_value(["{{ (1..100000000) }}"], NAMES)


def test_a_number_of_thousands_of_digits_is_printed_in_full() -> None:
    assert render("{{ data.n }}", {"data": {"n": 10**5_000}}) == "1" + "0" * 5_000


def test_templates_cannot_access_python() -> None:
    assert render("{{ data.__class__ }}{{ data.name.__len__ }}{{ data.tags.append }}{{ event.upper }}", NAMES) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ data.long }}", f"larger than {MAX_OUTPUT_BYTES} bytes"),
        ("{% for i in (1..100000) %}x{% endfor %}", "rounds"),
        ("{% for i in (1..200) %}{% for j in (1..200) %}{% endfor %}{% endfor %}", "rounds"),
        ("{% assign s = 'x' %}{% for i in (1..99) %}{% assign s = s | append: s %}{% endfor %}", "limit"),
        ("{% assign l = data.tags %}{% for i in (1..99) %}{% assign l = l | concat: l %}{% endfor %}", "limit"),
        ("{{ data.long | replace: '', data.long }}", "too large"),
        ("{{ data.long | split: '' | join: data.long }}", "too large"),
        ("{{ 'x' " + "| base64_encode " * 100 + "}}", "too large"),
        ("{{ 9 " + "| times: 9999999999 " * 200 + "}}", "too large"),
        ("{{ data.price | divided_by: 0 }}", "a division by zero"),
        ("{% for i in (1..9000) %}{{ data.long | upcase | downcase | size }}{% endfor %}", "takes too long"),
        ("{{ event | upcase: context: 1 }}", "the filter upcase has no argument context"),
    ],
)
def test_unbounded_growth_is_stopped(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(TemplateError, match=message):
        render(text, NAMES)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        "{{" + " " * 60_000 + "}}",
        "{%" + " " * 60_000 + "%}",
        "{% if" + " " * 60_000 + "%}",
        "{{" * 30_000,
        "{%- " * 15_000 + "%}",
        "{% raw %}" * 7_000,
        "{% comment %}" * 4_000,
        "{% if data %}" * 2_000 + "{% endif %}" * 2_000,
        "{% if " + "data and " * 7_000 + "data %}{% endif %}",
        "{{ data" + "[data" * 2_000 + "]" * 2_000 + " }}",
        "{{ '" + "\\" * 60_000 + " }}",
        "x" * MAX_TEMPLATE_CHARS + "{{ event }}",
    ],
)
def test_a_hostile_text_is_parsed_or_refused_quickly(text: str) -> None:
    began = time.process_time()
    check(text)
    assert time.process_time() - began < 3


def test_all_texts_of_a_value_together_are_limited() -> None:
    with pytest.raises(TemplateError, match="together"):
        render_value(["x" * 60_000] * (MAX_VALUE_CHARS // 60_000 + 1), NAMES)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{% if data.list < 1 %}{% endif %}", "a list cannot be compared with a number"),
        ("{% if data.text > true %}{% endif %}", "true or false cannot be compared with a text"),
        ("{% if data.number contains 'a' %}{% endif %}", "a number contains nothing"),
        ("{{ data.number | find: data.text }}", "a number has no members"),
        ("{% tablerow i in data.list cols: data.list %}{{ i }}{% endtablerow %}", "cannot take the values"),
    ],
)
def test_values_of_the_wrong_types_have_an_error_in_words_of_templates(text: str, error: str) -> None:
    with pytest.raises(TemplateError, match=error):
        render(text, {"data": {"list": [1], "text": "a", "number": 5}})
