"""Members of data in Liquid: nothing is made up, and every name can be written with a dot."""

from __future__ import annotations

from typing import Any

import pytest

from app.actions.templates.render import TemplateError, check, prepare, render

RESERVED = (
    *(
        "true",
        "false",
        "nil",
        "null",
        "empty",
        "blank",
        "and",
        "or",
        "not",
        "contains",
        "in",
        "offset",
        "limit",
        "reversed",
    ),
    *(
        "cols",
        "continue",
        "with",
        "for",
        "as",
        "if",
        "else",
        "required",
        "first",
        "last",
        "size",
        "unless",
        "endfor",
        "by",
    ),
)


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_word_is_a_member_like_any_other(name: str) -> None:
    names = {"data": {name: "found", "inner": {name: {name: 1}}}}
    assert render(f"{{{{ data.{name} }}}}", names) == "found"
    assert (
        render(f"{{% if data.{name} == 'found' and data.inner.{name}.{name} == 1 %}}yes{{% endif %}}", names) == "yes"
    )
    assert (
        render(f"{{% assign a = data.inner.{name}.{name} | plus: data.inner.{name}.{name} %}}{{{{ a }}}}", names) == "2"
    )
    assert render(f"{{% for x in data.inner.{name} limit: 1 %}}{{{{ x[1] }}}}{{% endfor %}}", names) == "1"
    assert render(f"{{{{ data['{name}'] }}}}{{{{ data . {name} }}}}", names) == "foundfound"


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_word_that_is_missing_is_missing(name: str) -> None:
    names: dict[str, Any] = {"data": {"name": {"last": "Rao"}, "other": "x"}}
    if name != "last":
        assert render(f"Dear {{{{ data.name.{name} }}}}", names) == "Dear "
        with pytest.raises(TemplateError, match=f"line 1, column 9: data.name.{name} is undefined"):
            render(f"Dear {{{{ data.name.{name} }}}}", prepare(names, strict=True))


@pytest.mark.parametrize("member", ["data.first", "data.last", "data.size", "data | first", "data | last"])
def test_first_last_and_size_of_an_object_are_not_made_up(member: str) -> None:
    assert render(f"{{{{ {member} }}}}", {"data": {"a": 1, "b": 2}}) == ""


def test_a_list_has_a_first_and_a_last_member_and_a_size() -> None:
    names = {"data": {"items": [1, 2, 3]}}
    assert render("{{ data.items.first }}{{ data.items.last }}{{ data.items.size }}", names) == "133"
    assert render("{{ data.items | first }}{{ data.items | last }}{{ data.items | size }}", names) == "133"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{{ data.list }}", '1true{"b":2}xy'),
        ("{{ data.list | upcase }}", '1TRUE{"B":2}XY'),
        ("{{ data.list | join: '-' }}", '1-true--{"b":2}-x-y'),
        ("{{ data.list | json }}", '[1,true,null,{"b":2},["x",["y"]]]'),
        ("{{ 'a' | append: data.null }}{{ 'b' | append: data.yes }}{{ 'c' | append: data.list[4] }}", "abtruecxy"),
        ("{% for pair in data.object %}{{ pair }};{% endfor %}", "b2;"),
        ("{% cycle data.list[4], 1 %}", "xy"),
        ("{{ data.null }}{{ data.null | upcase }}{{ data.yes }}", "true"),
        ("{{ data.list | map: 'b' | json }}", "[null,null,null,2,null,null]"),
        ("{{ data.same | uniq | json }}", '[1,true,"1",{"a":1}]'),
        ("{{ data.html | strip_html }}", "a < b and c"),
        ("{{ 'abcdef' | slice: -3, 2 }}{{ data.list | slice: 0, 2 | json }}", "de[1,true]"),
    ],
)
def test_values_print_as_data_and_never_as_python(text: str, printed: str) -> None:
    data = {
        "list": [1, True, None, {"b": 2}, ["x", ["y"]]],
        "object": {"b": 2},
        "null": None,
        "yes": True,
        "same": [1, 1.0, True, "1", {"a": 1}, {"a": 1}],
        "html": "<p>a < b</p><script>alert('x')</script> <!-- no -->and <b class='y'>c</b>",
    }
    assert render(text, {"data": data}) == printed


@pytest.mark.parametrize(("limit", "printed"), [(0, "none"), (-1, "none"), (1, "1"), (9, "123")])
def test_a_loop_has_at_most_limit_rounds(limit: int, printed: str) -> None:
    names = {"data": {"n": limit, "items": [1, 2, 3]}}
    text = "{% for item in data.items limit: data.n %}{{ item }}{% else %}none{% endfor %}"
    assert render(text, names) == printed


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{% raw %}{{ data.offset }}{% endraw %}", "{{ data.offset }}"),
        ("a.offset {{ 'data.offset' }} {{ \"x.for\" }}", "a.offset data.offset x.for"),
        ("{{ 1.5 }}{% for i in (1..data.limit) %}{{ i }}{% endfor %}", "1.512"),
        ("{{ data.2fa }}{{ data.a-b }}{{ data.größe }}", "1-3"),
    ],
)
def test_only_members_are_read_as_members(text: str, printed: str) -> None:
    assert render(text, {"data": {"limit": 2, "2fa": 1, "a-b": "-", "größe": 3, "offset": 0}}) == printed


def test_errors_after_a_member_have_the_position_of_the_written_text() -> None:
    assert check("{{ data.offset }}\n{{ data.for }} {{ data.limit | shout }}") == check(
        "{{ 1 }}\n{{ data.for }} {{ data.limit | shout }}"
    )
    assert str(check("{{ data.offset }}\n{{ data.for }} {{ data.limit | shout }}")).startswith("line 2, column 32: ")
    assert str(check("{{ data.for.in }}{{ nobody.of }}")).startswith("line 1, column 21: nobody is unknown")
    assert str(check("{{ data.for }}\n{{ data.in }}{{ x y }}")).startswith("line 2, column ")
