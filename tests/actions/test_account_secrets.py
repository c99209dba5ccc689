"""Secrets of the account in the fields of the action http: they are sent, masked in all that is stored, and read nowhere else."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.actions import ACTIONS, http
from app.actions.templates.render import check, secrets_read
from app.core.config import SettingsError
from app.core.models import Outcome
from app.workflows.validate import check_workflow
from app.workflows.yaml_loader import read_document
from tests.support.action_contexts import perform
from tests.support.http_target import Answer, Call, an_http_target

TOKEN = "canary-9f86d081"
AWKWARD = 'pa55/wörd+&|^"<x>%41'
SECRETS = {"TOKEN": TOKEN, "AWKWARD": AWKWARD, "DIGITS": "12345678", "KEY": "-----BEGIN-----\nMIIB/abc=\n-----END-----"}
AS_JSON = (("Content-Type", "application/json"),)


def call(fields: Mapping[str, Any], *, path: str = "/hook", **changes: Any) -> tuple[Outcome, list[Call]]:
    """The outcome of a step whose target sends back all that it receives, and what it received. `path`: a template."""

    def answer(call: Call) -> Answer:
        body = json.dumps({"path": call.path, "headers": dict(call.headers), "body": call.body.decode()})
        return Answer(200, body.encode(), (*AS_JSON, ("X-Custom", call.headers.get("X-Custom", "-"))))

    with an_http_target() as server:
        server.answer = answer
        changes = {"find_secret": SECRETS.get, **changes}
        return perform({"http": {"url": server.url + path, **fields}}, **changes), server.calls


def stored(outcome: Outcome) -> str:
    """Everything that is stored of an outcome."""
    return repr((outcome.error, outcome.output, outcome.request, outcome.response, outcome.gone))


# What is sent and what is stored


@pytest.mark.parametrize("field", ["Authorization", "X-Custom"])
def test_a_secret_in_a_header_is_sent_and_masked(field: str) -> None:
    outcome, (sent,) = call({"headers": {field: "Bearer {{ secrets.TOKEN }}"}})
    assert sent.headers[field] == f"Bearer {TOKEN}"
    assert outcome.kind == "done"
    assert TOKEN not in stored(outcome)
    assert outcome.request is not None
    assert outcome.request["headers"][field] == ("***" if field == "Authorization" else "Bearer ***")


@pytest.mark.parametrize(
    "path",
    [
        "/hook?to={{ phone | url_encode }}&any={{ secrets.TOKEN }}",
        "/bot{{ secrets.TOKEN }}/sendMessage",
        "/{{ secrets.TOKEN }}",
        "/hook#{{ secrets.TOKEN }}",
    ],
)
def test_a_secret_in_a_url_is_sent_and_masked(path: str) -> None:
    outcome, (sent,) = call({}, path=path)
    assert "#" in path or TOKEN in sent.path
    assert TOKEN not in stored(outcome)
    assert "***" in outcome.request["url"]


@pytest.mark.parametrize(
    "path", ["/{{ secrets.AWKWARD | url_encode }}/x", "/hook?any={{ secrets.AWKWARD | url_encode }}"]
)
def test_a_secret_is_masked_however_the_url_is_encoded(path: str) -> None:
    outcome, _ = call({}, path=path)
    assert "pa55" not in stored(outcome)
    assert "rd+" not in stored(outcome)


def test_a_secret_in_a_host_is_masked_in_small_letters() -> None:
    outcome = perform({"http": {"url": "https://{{ secrets.HOST }}.invalid/x"}}, find_secret={"HOST": "CaNaRy9F86"}.get)
    assert outcome.error == "the host name ***.invalid cannot be resolved"
    assert "canary9f86" not in stored(outcome) + str(outcome.target)


def test_a_secret_may_be_a_whole_url() -> None:
    with an_http_target() as server:
        url = f"{server.url}/services/T0/B0/canary-9f86d081?x=|^"
        outcome = perform({"http": {"url": "{{ secrets.HOOK }}"}}, find_secret={"HOOK": url}.get)
    assert server.calls[0].path.startswith("/services/T0/B0/canary-9f86d081?x=")
    assert "canary" not in stored(outcome)
    assert "services" not in stored(outcome)


def test_a_secret_in_json_is_sent_and_masked() -> None:
    outcome, (sent,) = call(
        {"json": {"any": ["{{ secrets.AWKWARD }}"], "text": "a {{ secrets.KEY }} b", "price": 1999}}
    )
    assert sent.json == {"any": [AWKWARD], "text": f"a {SECRETS['KEY']} b", "price": 1999}
    for part in ("pa55", "MIIB"):
        assert part not in stored(outcome)
    assert '"price":1999' in outcome.request["body"]


def test_a_secret_in_a_body_is_sent_and_masked() -> None:
    outcome, (sent,) = call(
        {
            "body": "grant_type=x&any={{ secrets.AWKWARD | url_encode }}",
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        }
    )
    assert sent.body == b"grant_type=x&any=pa55%2Fw%C3%B6rd%2B%26%7C%5E%22%3Cx%3E%2541"
    assert "pa55" not in stored(outcome)
    assert outcome.request["body"] == "grant_type=x&any=***"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('"jane:" | append: secrets.TOKEN | base64_encode', base64.b64encode(f"jane:{TOKEN}".encode()).decode()),
        ("secrets.TOKEN | upcase", TOKEN.upper()),
        ("secrets.TOKEN | slice: 7, 8", TOKEN[7:]),
        ("secrets.TOKEN | replace: 'canary', 'bird'", TOKEN.replace("canary", "bird")),
        ("data.nothing | default: secrets.TOKEN", TOKEN),
        ("secrets.DIGITS", "12345678"),
        ("secrets.DIGITS | plus: 1", "12345679"),
    ],
)
@pytest.mark.parametrize("field", ["headers", "json", "body"])
def test_what_a_filter_makes_of_a_secret_is_masked(expression: str, value: str, field: str) -> None:
    text = f"{{{{ {expression} }}}}"
    fields = {"headers": {"X-Custom": text}, "json": {"a": text}, "body": f"a {text} b"}
    outcome, (sent,) = call({field: fields[field]})
    assert value in sent.headers.get("X-Custom", "") + sent.body.decode()
    assert value not in stored(outcome)


def test_a_secret_may_be_printed_in_a_block() -> None:
    outcome, (sent,) = call(
        {"body": "{% if data.price > 5 %}{% for i in (1..2) %}{{ secrets.TOKEN }} {% endfor %}{% endif %}"}
    )
    assert sent.body.decode() == f"{TOKEN} {TOKEN} "
    assert TOKEN not in stored(outcome)


def test_a_secret_can_be_printed_by_a_strict_step() -> None:
    with an_http_target() as server:
        step = {"http": {"url": server.url, "json": {"a": "{{ secrets.TOKEN }}"}}, "strict": True}
        assert perform(step, find_secret=SECRETS.get).kind == "done"
    assert server.calls[0].json == {"a": TOKEN}


def test_an_error_contains_no_secret() -> None:
    outcome = perform({"http": {"url": "https://{{ secrets.TOKEN }}:x@nowhere.example/"}}, find_secret=SECRETS.get)
    assert outcome.kind == "failed"
    assert TOKEN not in stored(outcome)


def test_two_secrets_in_the_path_are_two_targets_without_the_secrets() -> None:
    step = {"http": {"url": ""}}
    gone = []
    with an_http_target() as server:
        server.answer = lambda call: Answer(410)
        step["http"]["url"] = server.url + "/bot{{ secrets.TOKEN }}/send"
        for value in (TOKEN, TOKEN, "canary-another"):
            gone.append(perform(step, find_secret={"TOKEN": value}.get).gone)
        assert gone[0] == gone[1] != gone[2]
        assert gone[0] is not None and "canary" not in gone[0]
        assert gone[0].startswith(f"{server.url}/***/send#")
        refused = perform(step, find_secret=SECRETS.get, disabled={gone[0]: "answered 410"})
    assert refused.error_class == "target_disabled"
    assert len(server.calls) == 3


def test_the_circuit_of_a_target_is_named_without_the_secret() -> None:
    from app.actions.action_context import ActionContext
    from app.actions.http_request import make_request

    seen: list[str] = []

    async def act(fields: Any, context: ActionContext) -> Outcome:
        for url in ("{{ secrets.HOOK }}", "https://a.example/{{ secrets.PART }}/x"):
            seen.append((await context.compose(make_request, {"url": url}, context)).target)
        return Outcome("done")

    values = {"HOOK": "https://hooks.example/services/short", "PART": "canary-1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "act", act)
        outcome = perform({"http": {"url": "{{ secrets.HOOK }}{{ secrets.PART }}"}}, find_secret=values.get)
    assert outcome.kind == "done"
    assert seen == ["POST https://hooks.example/*", "POST https://a.example/*/x"]


# What is missing


def test_a_missing_secret_fails_the_step_before_anything_is_sent() -> None:
    outcome, sent = call({"headers": {"X-Custom": "{{ secrets.MISSING }}"}})
    assert (outcome.kind, outcome.error_class) == ("failed", "no_secret")
    assert outcome.error == "the account has no secret MISSING: set it"
    assert sent == []


def test_a_secret_that_cannot_be_decrypted_is_retried() -> None:
    def find_secret(name: str) -> str:
        raise SettingsError("ENCRYPTION_KEY cannot decrypt a stored secret")

    outcome, sent = call({"headers": {"X-Custom": "{{ secrets.TOKEN }}"}}, find_secret=find_secret)
    assert (outcome.kind, outcome.error_class) == ("retry", "encryption_key")
    assert sent == []


def test_only_the_secrets_that_a_step_reads_are_decrypted() -> None:
    found = []

    def find_secret(name: str) -> str:
        found.append(name)
        return TOKEN

    call({"headers": {"X-Custom": "{{ secrets.TOKEN }}"}}, find_secret=find_secret)
    call({"headers": {"X-Custom": "{{ phone }}"}}, find_secret=find_secret)
    assert found == ["TOKEN"]


def test_data_of_the_event_cannot_name_a_secret() -> None:
    names = {"data": {"secrets": {"TOKEN": "of the sender"}, "name": "TOKEN"}, "latest": {}}
    body = {"mustache": "{{secrets.TOKEN}}|{{data.secrets.TOKEN}}|{{name}}|{{#secrets}}{{TOKEN}}{{/secrets}}"}
    outcome, (sent,) = call({"headers": {"X-Custom": "{{ secrets.TOKEN }}"}, "body": body}, names=names)
    assert TOKEN not in sent.body.decode()
    assert outcome.kind == "done"


# Where secrets can be read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ secrets }}", "line 1, column 4: a secret is read as secrets.NAME"),
        ("{{ secrets | json }}", "a secret is read as secrets.NAME"),
        ("{{ secrets.token }}", "a secret is read as secrets.NAME"),
        ("{{ secrets[data.name] }}", "a secret is read as secrets.NAME"),
        ("{{ secrets.TOKEN.size }}", "a secret is read as secrets.NAME"),
        ("{% for one in secrets %}{{ one }}{% endfor %}", "a secret is read as secrets.NAME"),
        (
            "a\n{% if secrets.TOKEN %}x{% endif %}",
            "line 2, column 7: a secret can only be printed, as {{ secrets.TOKEN }}",
        ),
        ("{% assign x = secrets.TOKEN %}{{ x | upcase }}", "can only be printed"),
        ("{% capture x %}{% if data.a %}{{ secrets.TOKEN }}{% endif %}{% endcapture %}", "can only be printed"),
        ("{% case secrets.TOKEN %}{% when 'a' %}b{% endcase %}", "can only be printed"),
        ("{% cycle secrets.TOKEN, 'x' %}", "can only be printed"),
        ("{{ secrets.TOKEN }}{{ nope }}", "nope is unknown"),
    ],
)
def test_a_wrong_use_is_a_mistake_with_its_place(text: str, message: str) -> None:
    for path, fields in {
        "headers.X": {"headers": {"X": text}},
        "json.a[0]": {"json": {"a": [text]}},
        "body": {"body": text},
        "url": {"url": f"https://a.example/{text}"},
    }.items():
        ((where, what),) = http.check({"url": "https://a.example/", **fields}, "steps[0].http")
        assert where == f"steps[0].http.{path}"
        assert message in what or path == "url"


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "https://a.example/{{ secrets.A }}"},
        {"url": "{{ secrets.URL_1 }}"},
        {"url": "https://a.example", "headers": {"Authorization": "Bearer {{ secrets.A }}"}},
        {"url": "https://a.example", "json": {"a": [{"b": "{{ secrets['A'] }}"}]}},
        {"url": "https://a.example", "body": "{% if data.x %}{% echo secrets.A %}{% endif %}"},
    ],
)
def test_all_fields_of_a_call_may_print_secrets(fields: Mapping[str, Any]) -> None:
    assert http.check(fields, "http") == []


def test_the_example_of_the_page_is_valid() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "workflows.md").read_text("utf-8")
    example = page.partition("**Secrets of the account**")[2].split("```")[1].removeprefix("yaml\n")
    steps = textwrap.indent(example, "  ")
    document = read_document(f"name: example\non: order_placed\nsteps:\n{steps}")
    assert check_workflow(document) == []
    assert secrets_read(document.value) == {"BOT_TOKEN", "SHOP_API_KEY", "SHOP_PASSWORD"}


def test_a_mustache_text_of_a_call_cannot_print_secrets() -> None:
    fields = {"url": "https://a.example", "headers": {"X": {"mustache": "Bearer {{secrets.TOKEN}}"}}}
    ((path, message),) = http.check(fields, "http")
    assert path == "http.headers.X.mustache"
    assert "secrets can be read in Liquid texts only" in message
    assert http.check({"url": "https://a.example", "body": {"mustache": "{{secrets.size}}{{secrets}}"}}, "http") == []


SECRET = "{{ secrets.TOKEN }}"
ELSEWHERE: Mapping[str, tuple[Any, str]] = {
    "whatsapp": ({"to": "+915673412780", "template": "t", "language": "en", "params": [SECRET]}, "params[0]"),
    "sms": ({"to": "+915673412780", "text": SECRET}, "text"),
    "call": ({"to": "+915673412780", "say": SECRET}, "say"),
    "email": ({"to": "jane@example.com", "subject": "x", "text": SECRET}, "text"),
    "sendgrid": ({"to": "jane@example.com", "subject": "x", "text": SECRET}, "text"),
    "message": ({"text": SECRET}, "text"),
    "log": (SECRET, ""),
}


def test_all_other_actions_are_listed() -> None:
    assert ELSEWHERE.keys() == ACTIONS.keys() - {"http"}


@pytest.mark.parametrize("verb", ELSEWHERE)
def test_no_other_action_can_read_a_secret(verb: str) -> None:
    fields, field = ELSEWHERE[verb]
    path = f"steps[0].{verb}" + (f".{field}" if field else "")
    message = "in the template: line 1, column 4: secrets can be read in the fields of the action http only"
    assert ACTIONS[verb].check(fields, f"steps[0].{verb}") == [(path, message)]


def test_a_variable_of_a_text_may_be_called_secrets() -> None:
    assert check("{% assign secrets = data.list %}{{ secrets.size }}") is None
