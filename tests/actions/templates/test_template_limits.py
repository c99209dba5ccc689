"""Limits of templates: whatever the data are, the work, the memory and the output of a template are bounded."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from app.actions.templates import template_budget
from app.actions.templates.filters import MAX_MEMBERS, MAX_RANGE, MAX_RESULT_CHARS
from app.actions.templates.liquid import ENVIRONMENT, MAX_OUTPUT_BYTES
from app.actions.templates.parsing import MAX_TAG_CHARS
from app.actions.templates.render import Names, TemplateError, Text, check, prepare, render

# What an event within the size limit can contain: 512 KiB of it.
DATA: dict[str, Any] = {
    "n": 10**8,
    "huge": Decimal("1e131071"),
    "digits": Decimal("1." + "1" * 100_000),
    "text": "x" * 500_000,
    "tags": "<a>" * 170_000,
    "open": "<script" * 70_000,
    "entities": "&" * 500_000,
    "spaces": " " * 500_000,
    "wide": "\u4e00" * 170_000,
    "list": [{} for _ in range(30_000)],
    "numbers": list(range(30_000)),
    "texts": [str(number) for number in range(30_000)],
    "nested": [[[number]] for number in range(20_000)],
    "rows": [{"a": number, "b": str(number)} for number in range(10_000)],
    "mixed": [1, "a", None, True, {"a": 1}, [1], Decimal("1.5")] * 3_000,
}
ARGUMENTS = {
    "append": "data.text",
    "at_least": "data.huge",
    "at_most": "data.huge",
    "concat": "data.list",
    "date": "'%Y-%m-%d', 'Asia/Kolkata'",
    "divided_by": "data.digits",
    "find": "'a', 9999",
    "find_index": "'a', 9999",
    "has": "'a', 9999",
    "map": "'a'",
    "minus": "data.huge",
    "modulo": "data.digits",
    "money": "'INR'",
    "plus": "data.huge",
    "prepend": "data.text",
    "reject": "'a'",
    "remove": "'x'",
    "remove_first": "'x'",
    "remove_last": "'x'",
    "replace": "'', data.text",
    "replace_first": "'x', data.text",
    "replace_last": "'x', data.text",
    "slice": "0, 1000000000",
    "split": "''",
    "times": "data.digits",
    "truncate": "data.n",
    "truncatewords": "data.n",
    "where": "'a'",
}


@pytest.fixture(scope="module")
def names() -> Names:
    """The data for templates, prepared once."""
    prepared = prepare({"event": "order_placed", "data": DATA, "latest": DATA})
    for name in ("data", "latest"):
        prepared.budget = template_budget.TemplateBudget()
        assert len(prepared[name]) == len(DATA)
    return prepared


def error_of(text: Text, names: Names) -> str:
    """The error of a rendering with a fresh budget; empty if there is none."""
    names.budget = template_budget.TemplateBudget()
    try:
        assert len(render(text, names)) <= MAX_OUTPUT_BYTES
    except TemplateError as exc:
        return str(exc)
    return ""


A_RANGE = f"a range of more than {MAX_RANGE} members; use a shorter one"
ROUNDS = f"loops of more than {template_budget.MAX_ROUNDS} rounds; use a limit, or a shorter list or range"
WORK = f"more than {template_budget.MAX_WORK} units of work"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ (1..data.n) | join: ',' }}", A_RANGE),
        ("{{ (1..data.n) | size }}", A_RANGE),
        ("{% assign all = (1..data.n) %}{{ all | reverse | first }}", A_RANGE),
        ("{{ 'x' | append: (1..data.n) }}", ""),
        ("{{ (1..data.huge) | size }}", "a number of more than 1000 digits is used as an integer"),
        ("{% for i in (1..data.n) %}{% endfor %}", ROUNDS),
        ("{% for i in (1..data.n) reversed %}{% endfor %}", ROUNDS),
        ("{% for i in (1..data.n) offset: 99999999 %}{% endfor %}", ROUNDS),
        ("{% for i in (1..data.n) limit: data.n %}{% endfor %}", ROUNDS),
        ("{% for i in (1..99999999999999999999999) %}{% endfor %}", ROUNDS),
        ("{% tablerow i in (1..data.n) cols: 3 %}{% endtablerow %}", "larger than"),
        ("{% for i in (1..200) %}{% for j in (1..200) %}{% endfor %}{% endfor %}", ROUNDS),
        ("{% for row in data.rows %}{% for other in data.rows %}{% endfor %}{% endfor %}", ROUNDS),
        ("{% for i in (1..9000) %}{% if data.list == latest.list %}{% endif %}{% endfor %}", WORK),
        ("{% for i in (1..9000) %}{% if data.texts contains 'y' %}{% endif %}{% endfor %}", WORK),
        ("{% for i in (1..9000) %}{% assign a = data.text | upcase | size %}{% endfor %}", WORK),
        ("{% for i in (1..9000) %}{% case data.list %}{% when latest.list %}{% endcase %}{% endfor %}", WORK),
        ("{% for i in (1..9000) %}" + "{% if true %}{% endif %}" * 2_000 + "{% endfor %}", WORK),
        ("{% for i in (1..9000) %}" + "{% assign a = 1 %}" * 2_000 + "{% endfor %}", WORK),
        ("{% for i in (1..9000) %}" + "{% increment a %}" * 500 + "{% endfor %}", "larger than"),
        ("{% cycle data.text, 1 %}", "larger than"),
        ("{{ data.text | split: '' | join }}", f"more than {MAX_MEMBERS} members"),
        ("{{ data.text | append: data.text | append: data.text }}", f"more than {MAX_RESULT_CHARS} characters"),
        ("{{ data.text }}", f"larger than {MAX_OUTPUT_BYTES} bytes"),
        ("{{ data }}", f"larger than {MAX_OUTPUT_BYTES} bytes"),
        ("{% capture a %}{{ data.text }}{% endcapture %}", f"larger than {MAX_OUTPUT_BYTES} bytes"),
        ("{% assign a = data.text | upcase %}", "the limit of all variables together"),
        ({"mustache": "{{#data.numbers}}{{#data.numbers}}{{/data.numbers}}{{/data.numbers}}"}, ROUNDS),
        ({"mustache": "{{#data.numbers}}" + "{{!x}}" * 9_000 + "{{/data.numbers}}"}, WORK),
        ({"mustache": "{{#data.numbers}}" + "{{^a}}{{/a}}" * 2_000 + "{{/data.numbers}}"}, WORK),
        ({"mustache": "{{#data.numbers}}{{" + ".".join("a" * 20_000) + "}}{{/data.numbers}}"}, WORK),
        ({"mustache": "{{data}}"}, f"larger than {MAX_OUTPUT_BYTES} bytes"),
    ],
)
def test_a_template_with_hostile_data_is_refused_with_the_limit(text: Text, message: str, names: Names) -> None:
    assert message in error_of(text, names)


@pytest.mark.parametrize("name", sorted(ENVIRONMENT.filters))
def test_every_filter_ends_with_any_data(name: str, names: Names) -> None:
    argument = f": {ARGUMENTS[name]}" if name in ARGUMENTS else ""
    for field in DATA:
        assert "cannot be rendered" not in error_of(f"{{% assign a = data.{field} | {name}{argument} %}}", names)


@pytest.mark.parametrize(
    "begin",
    ["if true", "unless false", "capture a", "ifchanged", "for i in (1..30)", "tablerow i in (1..30)", "case 1"],
)
def test_every_tag_may_be_nested(begin: str, names: Names) -> None:
    when = "{% when 1 %}" if begin.startswith("case") else ""
    for depth in (5, 20):
        text = f"{{% {begin} %}}{when}" * depth + "x" + f"{{% end{begin.split()[0]} %}}" * depth
        assert error_of(text, names).split(":")[0] in ("", "line 1, column 4")


def test_the_same_template_with_the_same_data_uses_the_same_work(names: Names) -> None:
    used = set()
    for _ in range(3):
        assert error_of("{% for row in data.rows limit: 100 %}{{ row.b | upcase }}{% endfor %}", names) == ""
        used.add(template_budget.MAX_WORK - names.budget.work_left)
    assert len(used) == 1


def test_all_texts_of_an_attempt_share_one_budget(names: Names) -> None:
    names.budget = template_budget.TemplateBudget()
    text = "{% for i in (1..6000) %}{% endfor %}"
    render(text, names)
    with pytest.raises(TemplateError, match="rounds"):
        render(text, names)


def test_a_loop_with_a_limit_may_have_a_long_list(names: Names) -> None:
    names.budget = template_budget.TemplateBudget()
    assert render("{% for i in (1..data.n) limit: 3 %}{{ i }}{% endfor %}", names) == "123"
    assert render("{% for row in data.rows %}{{ row.a }}{% break %}{% endfor %}", names) == "0"


def test_used_cpu_time_ends_a_rendering(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_CPU_SECONDS", 0.0)
    text = "{% for i in (1..5000) %}{{ i | plus: 1 }}{% endfor %}"
    assert f"more than {template_budget.MAX_CPU_SECONDS} s" in error_of(text, names)


def test_a_long_tag_is_refused_with_its_position() -> None:
    text = "Hello\n{{ " + "(" * MAX_TAG_CHARS + " }}"
    assert check(text) == f"line 2, column 1: the tag has {MAX_TAG_CHARS + 6} characters; {MAX_TAG_CHARS} are allowed"


@pytest.mark.parametrize(
    "text",
    ["{{ " + "data[" * 21 + "data.a" + "]" * 21 + " }}", "{% if data.a[" + "b[0][" * 20 + "1" + "]" * 21 + " %}"],
)
def test_deep_brackets_are_refused(text: str) -> None:
    assert "more than 20 brackets within each other" in str(check(text))


def test_brackets_beside_each_other_are_no_deep_ones() -> None:
    assert check("[[[ {{ data['a']['b'][0] }} " * 30) is None
