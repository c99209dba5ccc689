"""Any text compiles to a document with a valid pattern, or raises NotationError with a position in the text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.workflows.cxengage import NotationError, compile_pattern, compile_script
from app.workflows.validate import check_workflow
from app.workflows.yaml_loader import Document

WORDS = re.findall(
    r"\S+",
    """
event = > < >= <= not and or within seq all any count fail contains allOf when seconds minutes hours days second day par send
delay await if success failure set retries timeout template times sequence contains? def let if-let when-let cond case unless
until do + - * / mod quot rem inc dec abs floor ceil sqrt pow sum min max avg stdev first last nth filter remove fetch perform
create update delete catch echo message twilio sms call sendgrid email generic nil true false type amount total x
""",
)
ATOMS = [
    *(
        ":to",
        ":to-phone-number",
        ":message",
        ":body",
        ":type",
        ":",
        "+TM1",
        "+TM9",
        "*custId*",
        "$amount",
        "$a.b",
        "**",
        "$",
    ),
    *(
        "1",
        "2",
        "30",
        "0",
        "-1",
        "2.5",
        "1e400",
        "007",
        "1/2",
        "99999999999999999999",
        '"a"',
        '"{{x}}"',
        '"{% x"',
        '"\\q"',
        '"',
    ),
    *("#", "'a", "@x", "^", "\\a", "~", "`", "\x00", "\ud800", "é", "a.b", ".", "{{", "#(", "#_", "; c\n", ",", "\n"),
]
BRACKETS = ["(", "(", "(", ")", ")", ")", "[", "]", "{", "}", "#{"]
tokens = st.one_of(st.sampled_from(WORDS), st.sampled_from(ATOMS), st.sampled_from(BRACKETS))
soups = st.lists(tokens, max_size=40).map(" ".join)


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(inner, max_size=5).map(" ".join)
    lists = st.builds(lambda head, rest: f"({head} {rest})", st.sampled_from(WORDS), members)
    return st.one_of(
        lists, lists, lists, members.map(lambda text: f"[{text}]"), members.map(lambda text: f"{{{text}}}")
    )


balanced = st.recursive(st.one_of(st.sampled_from(WORDS), st.sampled_from(ATOMS)), nested, max_leaves=30)
texts = st.one_of(soups, balanced, st.lists(balanced, max_size=4).map("\n".join), st.text(max_size=60))

EVENT = '(event (= type "a"))'
ECHO = "(send echo message {})"
TEMPLATES = {"TM1": "Hello {{first-name}}"}


def compiled(compile_it: Callable[[], dict[str, Any]], text: str, field: str) -> None:
    try:
        document = compile_it()
    except NotationError as exc:
        assert exc.field == field
        assert 1 <= exc.line <= text.count("\n") + 1
        assert 1 <= exc.column <= len(text.split("\n")[exc.line - 1]) + 1
        assert exc.message
    else:
        assert check_workflow(Document(document)) == []


unhurried = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(texts)
def test_any_text_as_when(text: str) -> None:
    compiled(lambda: compile_pattern(when=text, then=ECHO, templates=TEMPLATES, name="any"), text, "when")


@unhurried
@given(texts)
def test_any_text_as_then(text: str) -> None:
    compiled(lambda: compile_pattern(when=EVENT, then=text, templates=TEMPLATES, name="any"), text, "then")


@unhurried
@given(texts, st.booleans())
def test_any_text_as_script(text: str, with_event: bool) -> None:
    code = f'(event {{:type "a"}})\n{text}' if with_event else text
    compiled(lambda: compile_script(code, key=None, templates=TEMPLATES, name="any"), code, "code")


LARGE = [
    "(" * 100_000,
    "(" * 60_000,
    ")" * 60_000,
    "(event " * 99 + ")" * 99,
    "(not " * 99 + "x" + ")" * 99,
    "(all " * 99 + EVENT + ")" * 99,
    "(seq " * 98 + ECHO + ")" * 98,
    "(event (and " + "(= a 1) " * 8_000 + "))",
    "(all " + EVENT * 3_000 + ")",
    "(par " + ECHO * 2_900 + ")",
    '(event {:a "' + "x" * 65_000 + '"})',
    "9" * 60_000,
    "1e" + "9" * 60_000,
    '"' + "\\" * 60_001,
    ";" * 65_536,
    "," * 65_536,
    "é" * 40_000,
    "(do " * 98 + "(perform echo message {})" + ")" * 98,
    "(set x " + "(+ 1 " * 98 + "1" + ")" * 99,
    "(if (= 1 1) " * 98 + ECHO + ")" * 98,
    "(if (= 1 1) " * 98 + "(perform echo message {})" + ")" * 98,
    "(let [x " + "(filter (> 1) " * 90 + "[1]" + ")" * 90 + "] (perform echo message {}))",
    "(let [x " + "(if (= $a $b) " * 90 + "1 2" + " 3)" * 90 + "] (perform echo message {}))",
    "(perform echo message {})" * 2_600,
    "(let [a 1] " * 98 + "(perform echo message {:message a})" + ")" * 98,
]


@pytest.mark.parametrize("text", LARGE, ids=range(len(LARGE)))
def test_large_and_deeply_nested_texts(text: str) -> None:
    test_any_text_as_when.hypothesis.inner_test(text)  # type: ignore[attr-defined]
    test_any_text_as_then.hypothesis.inner_test(text)  # type: ignore[attr-defined]
    test_any_text_as_script.hypothesis.inner_test(text, True)  # type: ignore[attr-defined]
