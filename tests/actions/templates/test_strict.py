"""Strict templates: a missing value is an error."""

from __future__ import annotations

from typing import Any

import pytest

from app.actions.templates.render import TemplateError, prepare, render
from app.core.models import Outcome
from tests.support.action_contexts import a_run, perform

NAMES: dict[str, Any] = {"phone": None, "data": {"price": 1999, "items": [], "name": ""}, "steps": {}}


def strictly(text: str) -> str:
    return render(text, prepare(NAMES, strict=True))


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{{ data.price }}", "1999"),
        ("{{ phone }}{{ data.name }}.", "."),
        ("{{ data.nothing | default: 'friend' }}", "friend"),
        ("{{ data.nothing.at.all | default: 'friend' }}", "friend"),
        ("{% if data.nothing %}a{% else %}b{% endif %}", "b"),
        ("{% unless data.nothing %}a{% endunless %}", "a"),
        ("{% for item in data.items %}x{% endfor %}.", "."),
        ("{{ data.items.size }}", "0"),
        ("{% assign a = 1 %}{{ a }}", "1"),
    ],
)
def test_a_strict_template_prints_values_and_may_test_for_missing_ones(text: str, printed: str) -> None:
    assert strictly(text) == printed


@pytest.mark.parametrize(
    "text",
    [
        "{{ data.nothing }}",
        "{{ nobody }}",
        "{{ data.price.currency }}",
        "{{ steps.nudge.body.id }}",
        "{{ data.nothing | upcase }}",
        "{{ data.nothing | plus: 1 }}",
        "{{ data.nothing | json }}",
        "{{ 'a' | append: data.nothing }}",
        "{{ data.nothing | date: '%Y' }}",
        "{% for item in data.nothing %}{{ item }}{% endfor %}",
        "{% assign a = data.nothing %}{{ a }}",
    ],
)
def test_a_missing_value_is_an_error_in_a_strict_template(text: str) -> None:
    assert render(text, NAMES) is not None
    with pytest.raises(TemplateError, match="undefined"):
        strictly(text)


def log(step: dict[str, Any], **document: Any) -> Outcome:
    return perform({"log": "Hello {{ data.name }}", **step}, run=a_run(document=document))


def test_a_step_may_be_strict() -> None:
    outcome = log({"strict": True})
    assert (outcome.kind, outcome.error_class) == ("failed", "template")
    assert outcome.error == "line 1, column 10: data.name is undefined"


def test_a_document_may_be_strict() -> None:
    assert log({}, strict=True).kind == "failed"
    assert log({}).kind == "done"


def test_a_step_of_a_strict_document_may_be_not_strict() -> None:
    assert log({"strict": False}, strict=True).output == {"text": "Hello "}
