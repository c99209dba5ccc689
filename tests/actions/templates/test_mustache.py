"""Mustache templates: the specification, the names of a run, and limits on resources."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import pytest

from app.actions import ACTIONS
from app.actions.templates.liquid import MAX_OUTPUT_BYTES
from app.actions.templates.render import TemplateError, check, check_texts, members_read, prepare, render, render_value
from app.actions.templates.render import Text as AnyText
from app.workflows.validate import find_mistakes
from tests.support.action_contexts import perform
from tests.support.http_target import an_http_target

NAMES: dict[str, Any] = {
    "event": "order_placed",
    "distinct_id": "jane",
    "phone": "+915673412780",
    "received_at": "2026-11-22T10:30:00Z",
    "run": {"id": "r-1"},
    "steps": {"nudge": {"body": {"id": "m-1"}}},
    "data": {
        "first-name": "Jane & <Jo> \"x\" 'y'",
        "total": Decimal("199.00"),
        "exact": Decimal("0.1234567890123456789"),
        "large": Decimal("1E+5"),
        "big": 12345678901234567890123,
        "huge": 10**400,
        "zero": 0,
        "nought": Decimal("0.00"),
        "yes": True,
        "no": False,
        "nothing": None,
        "empty": "",
        "none": [],
        "items": [{"name": "shoe", "price": Decimal("1.50")}, {"name": "sock", "price": 2}],
        "numbers": [1, 2, 3],
        "pairs": [[1, 2], [3]],
        "address": {"city": "Pune", "geo": {"lat": Decimal("18.520")}},
        "user.name": "flat",
        "name": "outer",
        "first name": "with a space",
        "größe": "42",
    },
}


def mustache(text: str) -> AnyText:
    return {"mustache": text}


def printed(text: str, names: dict[str, Any] = NAMES, **how: bool) -> str:
    return render(mustache(text), names, **how)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no tags at all", "no tags at all"),
        ("", ""),
        ("{{total}} {{ exact }} {{large}} {{big}}", "199.00 0.1234567890123456789 100000 12345678901234567890123"),
        ("{{yes}} {{no}} [{{nothing}}] [{{empty}}] {{zero}} {{nought}}", "true false [] [] 0 0.00"),
        ("[{{missing}}] [{{address.missing}}] [{{missing.at.all}}]", "[] [] []"),
        ("{{first-name}}", "Jane & <Jo> \"x\" 'y'"),
        ("{{first name}} {{größe}} 🙂", "with a space 42 🙂"),
        ("{{address.city}} {{address.geo.lat}}", "Pune 18.520"),
        ("{{user.name}}", "flat"),
        ("{{items.1.name}} [{{items.2.name}}] {{numbers.0}}", "sock [] 1"),
        ("{{address}} {{numbers}}", '{"city":"Pune","geo":{"lat":18.520}} [1,2,3]'),
        ("{{#items}}{{name}}: {{price}}; {{/items}}", "shoe: 1.50; sock: 2; "),
        ("{{#items}}{{total}} {{/items}}", "199.00 199.00 "),
        ("{{#numbers}}{{.}},{{/numbers}}", "1,2,3,"),
        ("{{#pairs}}({{#.}}{{.}}{{/.}}){{/pairs}}", "(12)(3)"),
        ("{{#address}}{{city}} {{#geo}}{{lat}} {{city}}{{/geo}}{{/address}}", "Pune 18.520 Pune"),
        ("{{#address.geo}}{{lat}}{{/address.geo}}", "18.520"),
        ("{{#address}}[{{name.first}}]{{name}}{{/address}}", "[]outer"),
        ("{{#name}}{{.}}{{/name}}{{#total}}{{.}}{{/total}}{{#huge}}!{{/huge}}", "outer199.00!"),
        ("{{#yes}}a{{/yes}}{{#no}}b{{/no}}{{#nothing}}c{{/nothing}}{{#missing}}d{{/missing}}", "a"),
        ("{{#zero}}a{{/zero}}{{#nought}}b{{/nought}}{{#empty}}c{{/empty}}{{#none}}d{{/none}}", ""),
        (
            "{{^no}}a{{/no}}{{^nothing}}b{{/nothing}}{{^missing}}c{{/missing}}{{^none}}d{{/none}}{{^nought}}e{{/nought}}",
            "abcde",
        ),
        ("{{^yes}}a{{/yes}}{{^items}}b{{/items}}{{^name}}c{{/name}}", ""),
        ("a{{! nobody sees {this} }}b{{!\nlines\n}}c", "abc"),
        ("{{=<% %>=}}<%name%> {{name}} <%={{ }}=%>{{name}}", "outer {{name}} outer"),
        ("{{=| |=}}|#yes|a|/yes|", "a"),
        ("a\n  {{#yes}}\n  b\n  {{/yes}}\nc", "a\n  b\nc"),
        ("a\r\n{{! alone }}\r\nb", "a\r\nb"),
        ("| {{name}} |\n", "| outer |\n"),
        ("{{{first-name}}} {{&first-name}}", "Jane & <Jo> \"x\" 'y' Jane & <Jo> \"x\" 'y'"),
        ("{{distinct_id}} {{phone}} {{event}} {{run.id}}", "jane +915673412780 order_placed r-1"),
        ("{{data.name}} {{steps.nudge.body.id}}", "outer m-1"),
        ("{% if x %}{{ '{{' }}", None),
        ("{{name.__class__}}{{name.upper}}{{items.append}}{{items.__len__}}{{.__class__}}{{__class__}}", ""),
        ("{{items.-1.name}}{{items.٢.name}}{{numbers.99999999999999999999}}", ""),
    ],
)
def test_it_prints(text: str, expected: str | None) -> None:
    if expected is None:
        assert printed(text) == "{% if x %}"
    else:
        assert printed(text) == expected


def test_only_html_is_escaped() -> None:
    text = "{{first-name}} {{{first-name}}} <b>&</b>"
    raw = "Jane & <Jo> \"x\" 'y'"
    assert printed(text) == f"{raw} {raw} <b>&</b>"
    assert printed(text, as_html=True) == f"Jane &amp; &lt;Jo&gt; &quot;x&quot; &#x27;y&#x27; {raw} <b>&</b>"


def test_variables_come_before_the_latest_data_and_those_before_other_names() -> None:
    names = {
        **NAMES,
        "data": {"a": "data"},
        "latest": {"a": "latest", "b": "latest", "phone": "sent"},
        "vars": {"b": "var"},
    }
    assert printed("{{a}} {{b}} {{phone}} {{distinct_id}} {{data.a}}", names) == "latest var sent jane data"


def test_a_strict_text_may_test_for_a_missing_value_but_not_print_it() -> None:
    strict = prepare(NAMES, strict=True)
    assert render(mustache("{{#missing}}a{{/missing}}{{^missing}}b{{/missing}}{{nothing}}{{empty}}"), strict) == "b"
    for text in ("{{missing}}", "{{{missing}}}", "{{address.missing}}", "{{#items}}{{colour}}{{/items}}"):
        with pytest.raises(TemplateError, match="is missing"):
            render(mustache(text), strict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{name", "line 1, column 1: this tag is not closed"),
        ("ü {{{name}}", "line 1, column 3: this tag is not closed"),
        ("a\nü{{#items}}", "line 2, column 2: this section is not closed"),
        ("a\n\n {{/items}}", "line 3, column 2: this tag does not close the section"),
        ("{{#a}}{{#b}}{{/a}}{{/b}}", "line 1, column 13: this tag does not close the section"),
        ("a\n{{> footer}}", "line 2, column 5: {{> footer}}: partials are not supported"),
        ("{{=<% %>=}}\n<%> footer%>", "line 2, column 5: {{> footer}}: partials are not supported"),
        ("{{! > footer }}{{> footer}}", "line 1, column 20: {{> footer}}"),
        ("{{}}", "a tag has no name"),
        ("{{#}}{{/}}", "a tag has no name"),
        ("{{ #items}}", "line 1, column 4: # must follow the braces"),
        ("{{=<%=}}", "delimiters must be set like {{=<% %>=}}"),
        ("{{name}}\ud800", "a lone surrogate"),
        ("{{#a}}" * 31 + "{{/a}}" * 31, "nested deeper than 30"),
        ("{{#a}}{{/a}}" * 5_000, "too many sections"),
        ("{{=| |=}}" + "|#a||/a|" * 5_000, "too many sections"),
        ("x" * 65_537, "65536 are allowed"),
    ],
)
def test_an_error_has_its_position(text: str, message: str) -> None:
    assert message in str(check(mustache(text)))
    with pytest.raises(TemplateError):
        printed(text)


@pytest.mark.parametrize("text", ["{{anything-at.all}}", "{{#a}}{{b}}{{/a}}", "#fff ^ {{a}}" * 5_000, "{{ name }"])
def test_any_name_may_be_read(text: str) -> None:
    assert (check(mustache(text)) is None) == (text != "{{ name }")


HOSTILE = {
    "data": {
        "hundred": list(range(100)),
        "many": [True] * 9_000,
        "square": [[1] * 100] * 100,
        "no": False,
        "long": "x" * 300_000,
    }
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{#hundred}}" * 10 + "{{/hundred}}" * 10, "more than 10000 rounds"),
        ("{{#square}}{{#.}}{{/.}}{{/square}}{{#hundred}}{{/hundred}}", "more than 10000 rounds"),
        ("{{long}}", "larger than 65536 bytes"),
        ("{{#many}}{{many.0}}xxxxx{{/many}}", "larger than 65536 bytes"),
        ("{{#many}}{{#no}}" + "{{long}}" * 7_000 + "{{/no}}{{/many}}", "takes too long"),
    ],
    ids=["rounds", "rounds of inner lists", "value", "output", "time"],
)
def test_unbounded_growth_is_stopped(text: str, message: str) -> None:
    assert check(mustache(text)) is None
    began = time.thread_time()
    with pytest.raises(TemplateError, match=message):
        printed(text, HOSTILE)
    assert time.thread_time() - began < 2


def test_the_largest_output_is_accepted() -> None:
    assert len(printed("{{a}}", {"data": {"a": "x" * MAX_OUTPUT_BYTES}})) == MAX_OUTPUT_BYTES


@pytest.mark.parametrize("length", [65_536, 40_000])
def test_hostile_spaces_and_tags_are_parsed_quickly(length: int) -> None:
    began = time.thread_time()
    for text in (
        " " * (length - 5) + "{{a}}",
        ("{{!x}}" + " " * 30) * (length // 36),
        "{{" + "a." * (length // 2 - 2) + "}}",
    ):
        printed(text)
    assert time.thread_time() - began < 1


def test_the_steps_that_a_mustache_text_reads_are_found() -> None:
    text = "{{steps.a.body}}{{#steps.b}}{{/steps.b}}{{^steps.c.x}}{{/steps.c.x}}{{&steps.d}}{{! steps.e }} steps.f {{steps}}"
    assert members_read(mustache(text), "steps") == {"a", "b", "c", "d"}
    assert members_read(mustache("{{#steps.a}}"), "steps") == frozenset()


def test_reading_a_later_step_is_an_error() -> None:
    step = {
        "id": "sent",
        "sms": {"to": mustache("{{phone}}"), "text": mustache("{{steps.sent.body}}{{#steps.nope.x}}{{/steps.nope.x}}")},
    }
    document = {"name": "a", "on": "b", "steps": [step]}
    assert [(one.path, one.message.split(":")[0]) for one in find_mistakes(json.dumps(document).encode())] == [
        ("steps[0].sms.text.mustache", "steps.nope is not known"),
        ("steps[0].sms.text.mustache", "steps.sent is not known"),
    ]


def test_texts_are_found_and_rendered_at_any_depth() -> None:
    value = {"a": [mustache("{{name}}"), "{{ data.name }}", {"mustache": 5}, {"mustache": "x", "also": 1}]}
    assert render_value(value, NAMES) == {"a": ["outer", "outer", {"mustache": 5}, {"mustache": "x", "also": 1}]}
    assert check_texts({"a": [1, mustache("{{#x}}")]}, "json") == [
        ("json.a[1].mustache", "in the template: line 1, column 1: this section is not closed")
    ]


TEXTS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("sms", {"to": "x", "text": "x", "from": "x"}, ("to", "text", "from")),
    ("call", {"to": "x", "say": "x", "from": "x"}, ("to", "say", "from")),
    ("call", {"to": "x", "url": "x"}, ("url",)),
    (
        "email",
        {"to": "x", "subject": "x", "text": "x", "html": "x", "from": "x", "cc": "x"},
        ("to", "subject", "html", "cc"),
    ),
    ("sendgrid", {"to": "x", "subject": "x", "text": "x", "html": "x", "from": "x"}, ("to", "subject", "html", "from")),
    (
        "whatsapp",
        {"to": "x", "template": "x", "language": "x", "header": "x"},
        ("to", "template", "language", "header"),
    ),
    ("http", {"url": "x", "body": "x"}, ("url", "body")),
]


@pytest.mark.parametrize(("action", "fields", "names"), TEXTS, ids=[action for action, _, _ in TEXTS])
def test_every_text_of_an_action_may_be_mustache(action: str, fields: dict[str, Any], names: tuple[str, ...]) -> None:
    good = {name: mustache("{{x}}") for name in fields}
    assert ACTIONS[action].check(good, action) == []
    for name in names:
        for invalid in (mustache("{{#x}}"), {"mustache": 5}, {"mustache": "x", "more": "x"}):
            mistakes = ACTIONS[action].check({**good, name: invalid}, action)
            assert mistakes, (name, invalid)
            assert all(path.startswith(f"{action}.{name}") for path, _ in mistakes)


def test_a_required_text_must_not_be_empty() -> None:
    fields = {"to": mustache("{{phone}}"), "text": mustache(" ")}
    assert ACTIONS["sms"].check(fields, "sms") == [("sms.text", "is empty: the text")]


def test_lists_and_headers_may_hold_mustache() -> None:
    texts = [mustache("{{x}}"), "y", 1]
    message = {"to": "+915673412780", "template": "a", "language": "en"}
    assert ACTIONS["whatsapp"].check({**message, "params": texts, "buttons": [None, texts[0]]}, "whatsapp") == []
    assert ACTIONS["whatsapp"].check({**message, "params": {"mustache": "{{ event }}"}}, "whatsapp") == []
    assert ACTIONS["http"].check({"url": "https://a.example", "headers": {"X-A": texts[0]}}, "http") == []
    assert ACTIONS["email"].check({"to": [texts[0]], "subject": "x", "text": "x"}, "email") == []
    assert ACTIONS["log"].check(texts[0], "log") == []
    assert ACTIONS["log"].check({"mustache": 5}, "log") != []


def test_an_action_sends_the_rendered_text() -> None:
    with an_http_target() as server:
        fields = {
            "url": mustache(server.url + "/{{price}}"),
            "headers": {"X-Price": mustache("{{price}}")},
            "json": {"text": mustache("{{event}} <{{phone}}>")},
        }
        outcome = perform({"http": fields})
    assert outcome.kind == "done"
    (call,) = server.calls
    assert (call.path, call.headers["X-Price"], call.body) == (
        "/1999",
        "1999",
        b'{"text":"order_placed <+915673412780>"}',
    )


def test_a_strict_step_fails_for_a_missing_value() -> None:
    outcome = perform({"log": mustache("{{missing}}"), "strict": True})
    assert (outcome.kind, outcome.error_class, outcome.error) == ("failed", "template", "missing is missing")
    assert perform({"log": mustache("[{{missing}}]")}).output == {"text": "[]"}
