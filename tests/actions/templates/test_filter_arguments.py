"""Filters are checked when a document is saved: their names, how many arguments they have, and literal ones."""

from __future__ import annotations

import json

import pytest

from app.actions.templates.liquid import ENVIRONMENT
from app.actions.templates.render import TemplateError, check, render
from app.workflows.validate import find_mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ data.a | upcase: 1 }}", "line 1, column 13: the filter upcase takes no arguments, not 1"),
        ("{{ data.a | append }}", "line 1, column 13: the filter append takes 1 argument, not 0"),
        ("{{ data.a | plus }}", "line 1, column 13: the filter plus takes 1 argument, not 0"),
        (
            "{{ data.a | replace: 'a', 'b', 'c' }}",
            "line 1, column 13: the filter replace takes 1 to 2 arguments, not 3",
        ),
        ("{{ data.a | date }}", "line 1, column 13: the filter date takes 1 to 2 arguments, not 0"),
        ("{{ data.a | default: 1, allow: true }}", "the filter default has no argument allow; it has allow_false"),
        ("x\n{% assign a = data.b | split %}", "line 2, column 24: the filter split takes 1 argument, not 0"),
        (
            "{% if true %}{% for i in (1..2) %}{{ i | times: 2, 3 }}{% endfor %}{% endif %}",
            "the filter times takes 1 argument, not 2",
        ),
        ("{% capture a %}{% echo 1 | join: 1, 2 %}{% endcapture %}", "the filter join takes 0 to 1 arguments, not 2"),
        ("{{ data.a | shout }}", "line 1, column 13: the filter shout is unknown"),
        ("{{ data.a | date: '%Y', 'Mars/Olympus' }}", "the time zone is not known; use a name such as Asia/Kolkata"),
        ("{{ data.a | money: 'RUPEES' }}", "'RUPEES' is not a currency; use a code such as INR"),
        ("{{ data.a | money: 'INR', 'xx_YY' }}", "'xx_YY' is not a locale; use one such as en_IN"),
        ("{{ data.a | number: 'Klingon' }}", "'Klingon' is not a locale"),
        ("{{ data.a | divided_by: 0 }}", "the filter divided_by cannot have this argument: a division by zero"),
        ("{{ data.a | modulo: 0.0 }}", "the filter modulo cannot have this argument: a division by zero"),
        ("{{ data.a | divided_by: 'x' }}", "the filter divided_by cannot have this argument: a division by zero"),
        ("{{ data.a | slice: 0, 1.5 }}", "the filter slice cannot have this argument: '1.5' is not a whole number"),
        ("{{ data.a | truncate: 'x' }}", "the filter truncate cannot have this argument: 'x' is not a whole number"),
        ("{{ data.a | concat: 'x' }}", "the filter concat cannot have this argument: 'x' is not a list"),
        ("{{ data.a | money: 5 }}", "'5' is not a currency; use a code such as INR"),
        ("{{ data.a | number: 'en', 30 }}", "the number of decimals must be 0 to 20"),
    ],
)
def test_a_filter_with_wrong_arguments_is_an_error_of_the_document(text: str, message: str) -> None:
    assert message in str(check(text))
    document = json.dumps({"name": "a", "on": "b", "steps": [{"log": text}]})
    (mistake,) = find_mistakes(document.encode())
    assert mistake.path == "steps[0].log"
    assert message in mistake.message


@pytest.mark.parametrize("name", sorted(ENVIRONMENT.filters))
def test_every_filter_refuses_too_many_arguments(name: str) -> None:
    assert f"the filter {name} takes " in str(check(f"{{{{ data.a | {name}: 1, 2, 3, 4 }}}}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ 5 | modulo: data.zero }}", "modulo: a division by zero"),
        ("{{ 0.0 | divided_by: data.zero }}", "divided_by: a division by zero"),
        ("{{ data.list | concat: data.text }}", "concat: 'abc' is not a list"),
    ],
)
def test_an_argument_that_data_make_wrong_is_an_error_of_the_rendering(text: str, message: str) -> None:
    assert check(text) is None
    with pytest.raises(TemplateError) as caught:
        render(text, {"data": {"zero": 0, "list": [1], "text": "abc"}})
    assert message in str(caught.value)
