"""The `when` of 4.1: every form compiles to the right pattern, and the pattern matches accordingly."""

from __future__ import annotations

from typing import Any

import pytest

from app.workflows.cxengage import NotationError, compile_pattern
from app.workflows.expressions.cel_analysis import find_comparisons
from tests.support.cxengage_playback import matches_on, play

ECHO = '(send echo message {:message "seen"})'
A, B, C = {"type": "a"}, {"type": "b"}, {"type": "c"}
IS_A = {"event": "*", "where": 'data.type == "a"'}
IS_B = {"event": "*", "where": 'data.type == "b"'}
IS_C = {"event": "*", "where": 'data.type == "c"'}


def on(when: str) -> Any:
    return compile_pattern(when=when, then=ECHO, templates={}, name="seen")["on"]


def where(condition: str) -> str:
    return str(on(f"(event {condition})")["where"])


def holds(condition: str, data: dict[str, Any]) -> bool:
    return matches_on(on(f"(event {condition})"), data) == [0]


PATTERNS: list[tuple[str, Any]] = [
    ('(event (= type "a"))', IS_A),
    ('(when (event (= type "a")))', IS_A),
    ('(count 1 (event (= type "a")))', IS_A),
    ('(count 2 (event (= type "a")))', {"times": 2, "of": IS_A}),
    ('(seq (event (= type "a")) (event (= type "b")))', {"seq": [IS_A, IS_B]}),
    ('(all (event (= type "a")) (event (= type "b")))', {"all": [IS_A, IS_B]}),
    ('(allOf (event (= type "a")) (event (= type "b")))', {"all": [IS_A, IS_B]}),
    ('(all (event (= type "a")))', IS_A),
    ('(any (event (= type "a")) (event (= type "b")))', {"any": [IS_A, IS_B]}),
    ('(within 1 hours (count 2 (event (= type "a"))))', {"times": 2, "of": IS_A, "within": "1h"}),
    ('(within 2 hours (within 30 minutes (count 2 (event (= type "a")))))', {"times": 2, "of": IS_A, "within": "30m"}),
    (
        '(within 1 hour (all (count 2 (event (= type "a"))) (count 1 (event (= type "b")))))',
        {"all": [{"times": 2, "of": IS_A}, IS_B], "within": "1h"},
    ),
    (
        '(all (within 1 hours (count 2 (event (= type "a")))) (fail (count 1 (event (= type "b")))))',
        {"times": 2, "of": IS_A, "within": "1h", "unless": IS_B},
    ),
    (
        '(all (event (= type "a")) (event (= type "b")) (fail (event (= type "c"))))',
        {"all": [IS_A, IS_B], "unless": IS_C},
    ),
    (
        '(all (count 2 (event (= type "a"))) (fail (event (= type "b"))) (fail (event (= type "c"))))',
        {"times": 2, "of": IS_A, "unless": {"any": [IS_B, IS_C]}},
    ),
    (
        '(all (count 2 (event (= type "a"))) (fail (any (event (= type "b")) (event (= type "c")))))',
        {"times": 2, "of": IS_A, "unless": {"any": [IS_B, IS_C]}},
    ),
    (
        '(seq (event (= type "a")) (fail (event (= type "b"))) (event (= type "c")))',
        {"seq": [IS_A, IS_C], "unless": IS_B},
    ),
    (
        '(seq (event (= type "a")) (fail (event (= type "b"))) (event (= type "c")) (event (= type "a")))',
        {"seq": [{"seq": [IS_A, IS_C], "unless": IS_B}, IS_A]},
    ),
    (
        '(seq (event (= type "a")) (within 30 minutes (fail (event (= type "b")))))',
        {"seq": [IS_A, {"none": IS_B, "for": "30m"}]},
    ),
    ('; all of it\n(event, (= type "a")) ; is one event', IS_A),
]


@pytest.mark.parametrize(("when", "pattern"), PATTERNS)
def test_a_form_compiles_to_a_pattern(when: str, pattern: Any) -> None:
    assert on(when) == pattern


@pytest.mark.parametrize(
    ("unit", "duration"),
    [
        *(("second", "7s"), ("seconds", "7s"), ("minute", "7m"), ("minutes", "7m")),
        *(("hour", "7h"), ("hours", "7h"), ("day", "7d"), ("days", "7d")),
    ],
)
def test_units_may_be_singular_or_plural(unit: str, duration: str) -> None:
    assert on(f'(within 7 {unit} (count 2 (event (= type "a"))))')["within"] == duration


CONDITIONS = [
    ('(= type "a")', 'data.type == "a"'),
    ('(= "a" type)', 'data.type == "a"'),
    ("(= amount 5)", "data.amount == 5"),
    ("(= amount 2.50)", "data.amount == 2.50"),
    ("(= amount -3)", "data.amount == -3"),
    ("(= amount 12345678901234567890)", "data.amount == 1.2345678901234567890e19"),
    ("(= vip true)", "data.vip == true"),
    ("(= vip false)", "data.vip == false"),
    ("(> amount 5)", "data.amount > 5"),
    ("(< amount 5)", "data.amount < 5"),
    ("(> 5 amount)", "5 > data.amount"),
    (
        "(> a b)",
        "(type(data.a) == int || type(data.a) == double) && (type(data.b) == int || type(data.b) == double)"
        " && data.a > data.b",
    ),
    ('(= maintenance-cost "x")', 'data["maintenance-cost"] == "x"'),
    ('(= a.b-c.d "x")', 'data.a["b-c"].d == "x"'),
    ('(= in "x")', 'data["in"] == "x"'),
    ('(= naïve "é \\"q\\" \\\\ \\n")', 'data["naïve"] == "é \\"q\\" \\\\ \\n"'),
    ('(and (= type "a") (> amount 5))', 'data.type == "a" && data.amount > 5'),
    ('(and (= type "a") (and (> amount 5) (< amount 9)))', 'data.type == "a" && data.amount > 5 && data.amount < 9'),
    ('(or (= type "a") (= type "b"))', 'data.type == "a" || data.type == "b"'),
    ("(and (or (= a 1) (= b 2)) (= c 3))", "(data.a == 1 || data.b == 2) && data.c == 3"),
    ('(not (= type "a"))', '!(has(data.type) && data.type == "a")'),
    ("(not (= a.b 1))", "!(has(data.a) && type(data.a) == map && has(data.a.b) && data.a.b == 1)"),
    ("(not (= x-y 1))", '!("x-y" in data && data["x-y"] == 1)'),
    (
        "(not (> amount 5))",
        "!(has(data.amount) && (type(data.amount) == int || type(data.amount) == double) && data.amount > 5)",
    ),
    ("(= type nil)", "!(has(data.type)) || data.type == null"),
]


@pytest.mark.parametrize(("condition", "text"), CONDITIONS)
def test_a_condition_compiles_to_a_filter(condition: str, text: str) -> None:
    assert where(condition) == text


def test_a_simple_condition_can_use_the_predicate_index() -> None:
    found = find_comparisons(where('(and (= customerSegment "platinum") (= type "flcheck") (> amount 5))'))
    assert [(each.path, each.operator, each.constant) for each in found] == [
        ("data.customerSegment", "==", "platinum"),
        ("data.type", "==", "flcheck"),
        ("data.amount", ">", 5),
    ]


MISSING: dict[str, Any] = {}
TRUTHS: list[tuple[str, dict[str, Any], bool]] = [
    ('(= type "a")', A, True),
    ('(= type "a")', B, False),
    ('(= type "a")', MISSING, False),
    ('(not (= type "a"))', MISSING, True),
    ('(not (= type "a"))', A, False),
    ('(not (not (= type "a")))', MISSING, False),
    ('(not (not (= type "a")))', A, True),
    ('(or (= kind "x") (= type "a"))', A, True),
    ('(or (not (= kind "x")) (= type "z"))', A, True),
    ('(and (not (= kind "x")) (= type "a"))', A, True),
    ('(not (or (= kind "x") (= type "b")))', A, True),
    ('(not (and (= kind "x") (= type "a")))', A, True),
    ("(= n 5)", {"n": "5"}, False),
    ("(not (= n 5))", {"n": "5"}, True),
    ("(= n 5)", {"n": 5.0}, True),
    ("(> n 5)", {"n": 6}, True),
    ("(> n 5)", {"n": 5}, False),
    ("(> n 5)", {"n": 5.5}, True),
    ("(> n 5)", {"n": "6"}, False),
    ("(not (> n 5))", {"n": "6"}, True),
    ("(not (> n 5))", {"n": [6]}, True),
    ("(not (> n 5))", {"n": None}, True),
    ("(not (> n 5))", MISSING, True),
    ("(< n 5)", {"n": 4}, True),
    ("(< n 5)", {"n": True}, False),
    ("(not (< n 5))", {"n": True}, True),
    ("(< n m)", {"n": 4, "m": 5}, True),
    ("(not (< n m))", {"n": 4}, True),
    ("(not (< n m))", {"n": 4, "m": "x"}, True),
    ("(< n m)", {"n": "a", "m": "b"}, False),
    ("(not (< n m))", {"n": "a", "m": "b"}, True),
    ("(= n m)", {"n": 4, "m": 4.0}, True),
    ("(= n m)", {"n": 4}, False),
    ("(= n m)", MISSING, True),
    ("(= n m)", {"n": None}, True),
    ("(not (= n m))", MISSING, False),
    ("(= n nil)", MISSING, True),
    ("(= n nil)", {"n": None}, True),
    ("(= n nil)", {"n": 0}, False),
    ("(not (= n nil))", {"n": 0}, True),
    ("(= a.b nil)", {"a": 5}, True),
    ("(= a.b 1)", {"a": {"b": 1}}, True),
    ("(= a.b 1)", {"a": 5}, False),
    ("(not (= a.b 1))", {"a": 5}, True),
    ("(not (= a.b 1))", {"a": None}, True),
    ("(not (= a.b 1))", {"a": [1]}, True),
    ("(not (= a-b.c 1))", {"a-b": ["c"]}, True),
    ('(contains items "x")', {"items": ["w", "x"]}, True),
    ('(contains items "x")', {"items": ["w"]}, False),
    ('(contains items "x")', {"items": "axe"}, True),
    ('(contains items "x")', {"items": {"x": 1}}, False),
    ('(contains items "x")', MISSING, False),
    ('(not (contains items "x"))', MISSING, True),
    ('(not (contains items "x"))', {"items": 5}, True),
    ("(contains items 5)", {"items": [5]}, True),
    ("(contains items 5)", {"items": "5"}, False),
    ("(contains items 5)", MISSING, False),
    ("(not (contains items 5))", MISSING, True),
]


@pytest.mark.parametrize(("condition", "data", "truth"), TRUTHS)
def test_a_condition_is_evaluated_as_in_clojure(condition: str, data: dict[str, Any], truth: bool) -> None:
    assert holds(condition, data) is truth


def test_count_needs_that_many_events() -> None:
    assert matches_on(on('(count 2 (event (= type "a")))'), A, B, A, A, A) == [2, 4]


def test_seq_needs_events_in_order() -> None:
    assert matches_on(on('(seq (event (= type "a")) (event (= type "b")))'), B, A, C, B) == [3]


def test_all_needs_different_events_in_any_order() -> None:
    assert matches_on(on('(all (event (= type "a")) (event (= type "b")))'), B, C, A) == [2]
    assert matches_on(on("(all (event (> n 1)) (event (> n 2)))"), {"n": 3}, {"n": 2}) == [1]


def test_any_needs_one_event() -> None:
    assert matches_on(on('(any (event (= type "a")) (event (= type "b")))'), C, B, A) == [1, 2]


def test_within_ignores_old_events() -> None:
    pattern = on('(within 10 seconds (count 2 (event (= type "a"))))')
    assert matches_on(pattern, (0, A), (11, A), (21, A)) == [2]


def test_fail_in_all_ends_a_partial_match() -> None:
    pattern = on('(all (count 2 (event (= type "a"))) (fail (event (= type "b"))))')
    assert matches_on(pattern, A, B, A) == []
    assert matches_on(pattern, A, B, A, A) == [3]


def test_fail_in_seq_applies_between_two_events() -> None:
    pattern = on('(seq (event (= type "a")) (fail (event (= type "b"))) (event (= type "c")) (event (= type "a")))')
    assert matches_on(pattern, A, B, C, A) == []
    assert matches_on(pattern, A, C, B, A) == [3]


def test_fail_at_the_end_of_seq_fires_after_the_time() -> None:
    pattern = on('(seq (event (= type "a")) (within 30 seconds (fail (event (= type "b")))))')
    assert play(pattern, [(0, A)]).by_clock == [30]
    assert play(pattern, [(0, A), (30, B)]).by_clock == []


def test_the_example_of_the_reference_fires() -> None:
    pattern = on("""
        (within 1 hours (all (count 2 (event (and (= customerSegment "platinum") (= type "flcheck"))))
                             (count 1 (event (and (= customerSegment "platinum") (= type "cnclticket"))))))
    """)
    check, cancelled = ({"customerSegment": "platinum", "type": kind} for kind in ("flcheck", "cnclticket"))
    assert matches_on(pattern, (0, check), (60, cancelled), (3600, check)) == [2]
    assert matches_on(pattern, (0, check), (60, cancelled), (3601, check)) == []
    assert matches_on(pattern, check, cancelled, {**check, "customerSegment": "gold"}) == []


@pytest.mark.parametrize(
    ("when", "line", "column", "message"),
    [
        (
            '(within 1 hour5 (event (= type "a")))',
            1,
            11,
            'expected one of seconds, minutes, hours, days, found "hour5"',
        ),
        (
            '(all (count 100 (event (= type "a")))\n     (count 100 (event (= type "b"))))',
            1,
            1,
            "on: may have to remember more than 20,000 events per subject",
        ),
        (
            f"(event {'(not (or (= b 2) ' * 40}(= a 1){'))' * 40})",
            1,
            1,
            "on.where: the filter nests brackets deeper than 32",
        ),
        ('(event (= a "' + "x" * 3000 + '"))', 1, 1, "on.where: the filter has 3"),
    ],
)
def test_an_error_has_a_position(when: str, line: int, column: int, message: str) -> None:
    with pytest.raises(NotationError) as exc:
        on(when)
    found = exc.value
    assert (found.field, found.line, found.column) == ("when", line, column)
    assert found.message.startswith(message)
