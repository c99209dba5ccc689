"""The expressions of a 4.2 script compile to CEL, and evaluate to their values."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.workflows.expressions.cel import compile_expression
from tests.workflows.cxengage.test_v42_script import (
    steps,
)

EXPRESSIONS = [
    ("(+ 1 $a)", "add(1, latest.a)"),
    ("(+ 1 2 3)", "add(1, 2, 3)"),
    ("(+ $a)", "latest.a"),
    ("(- $a 1)", "sub(latest.a, 1)"),
    ("(- $a)", "sub(0, latest.a)"),
    ("(* $a 0.9)", "mul(latest.a, 0.9)"),
    ("(/ $a 3)", "div(latest.a, 3)"),
    ("(/ 4)", "div(1, 4)"),
    ("(mod $a 3)", "mod(latest.a, 3)"),
    ("(quot $a 3)", "quot(latest.a, 3)"),
    ("(rem $a 3)", "rem(latest.a, 3)"),
    ("(inc $a)", "inc(latest.a)"),
    ("(dec $a)", "dec(latest.a)"),
    ("(abs $a)", "abs(latest.a)"),
    ("(floor $a)", "floor(latest.a)"),
    ("(ceil $a)", "ceil(latest.a)"),
    ("(sqrt $a)", "sqrt(latest.a)"),
    ("(pow $a 2)", "pow(latest.a, 2)"),
    ("(sum (all $a))", 'sum(values(matched, "a"))'),
    ("(min (all $a))", 'min(values(matched, "a"))'),
    ("(max 1 $a)", "max([1, latest.a])"),
    ("(avg (all $a))", 'avg(values(matched, "a"))'),
    ("(stdev (all $a))", 'stdev(values(matched, "a"))'),
    ("(count (all $a.b))", 'count(values(matched, "a.b"))'),
    ("(first (all $a))", 'first(values(matched, "a"))'),
    ("(last [1 2 3])", "last([1, 2, 3])"),
    ("(nth [1 2 3] 2)", "nth([1, 2, 3], 2)"),
    (
        "(filter (>= 10) (all $a))",
        'values(matched, "a").filter(item, (type(item) == int || type(item) == double) && item >= 10)',
    ),
    (
        "(remove (< 10) (all $a))",
        'values(matched, "a").filter(item, !((type(item) == int || type(item) == double) && item < 10))',
    ),
    ('(filter (not (= "x")) $a)', 'latest.a.filter(item, !(item == "x"))'),
    ('(filter (or (= "x") (= nil)) $a)', 'latest.a.filter(item, item == "x" || item == null)'),
    ('{:id $id :name "x"}', '{"id": latest.id, "name": "x"}'),
    (
        "(> $a 5)",
        "has(latest.a) && (type(latest.a) == int || type(latest.a) == double) && latest.a > 5",
    ),
    ("(if (= $a 1) 2 3)", "(has(latest.a) && latest.a == 1) ? 2 : 3"),
    ("(not $a)", "!(has(latest.a) && latest.a != null && latest.a != false)"),
]


@pytest.mark.parametrize(("expression", "text"), EXPRESSIONS)
def test_an_expression_compiles_to_cel(expression: str, text: str) -> None:
    assert steps(f"(def x {expression})") == [{"set": {"x": text}}]


MATCHED = [{"a": 1}, {"b": 2}, {"a": Decimal("0.1")}, {"a": Decimal("0.2")}, {"a": 10}]
RESULTS: list[tuple[str, dict[str, Any], Any]] = [
    ("(+ 1 2 $a)", {"a": Decimal("0.1")}, Decimal("3.1")),
    ("(- $a)", {"a": 5}, -5),
    ("(- $a 1 2)", {"a": 5}, 2),
    ("(* $a 0.9)", {"a": Decimal("19.99")}, Decimal("17.991")),
    ("(/ 4)", {}, Decimal("0.25")),
    ("(mod -7 3)", {}, 2),
    ("(rem -7 3)", {}, -1),
    ("(quot -7 2)", {}, -3),
    ("(inc $a)", {"a": 12345678901234567890}, 12345678901234567891),
    ("(dec $a)", {"a": Decimal("0.5")}, Decimal("-0.5")),
    ("(abs -2.5)", {}, Decimal("2.5")),
    ("(floor -2.5)", {}, -3),
    ("(ceil 2.1)", {}, 3),
    ("(sqrt 9)", {}, 3),
    ("(pow 2 10)", {}, 1024),
    ("(sum (all $a))", {}, Decimal("11.3")),
    ("(min (all $a))", {}, Decimal("0.1")),
    ("(max 1 $a 7)", {"a": 5}, 7),
    ("(avg (all $a))", {}, Decimal("2.825")),
    ("(stdev [1 3])", {}, Decimal("1.414213562373095048801688724209698")),
    ("(count (all $a))", {}, 4),
    ("(first (all $a))", {}, 1),
    ("(last (all $a))", {}, 10),
    ("(nth (all $a) 1)", {}, Decimal("0.1")),
    ("(filter (>= 1) (all $a))", {}, [1, 10]),
    ("(remove (< 1) [0 1 2])", {}, [1, 2]),
    ('(remove (< 1) [0 "x" nil])', {}, ["x", None]),
    ('(filter (and (not (= "x")) (> 0)) ["x" 1 0])', {}, [1]),
    ("(sum (filter (> (avg (all $a))) (all $a)))", {}, 10),
    ('(if (> $a 3) "big" "small")', {"a": Decimal("3.0001")}, "big"),
    ('(if (> $a 3) "big" "small")', {}, "small"),
    ("(and (= $a 1) (not $b))", {"a": 1}, True),
    ("(or (= $z 1) (= $a 1))", {"a": 1}, True),
    ("(= $a 2.50)", {"a": Decimal("2.5")}, True),
    ("(= $a nil)", {}, True),
    ('(contains? $a "x")', {"a": ["x"]}, True),
    ("{:id $a :n [1 2]}", {"a": 12345678901234567890123}, {"id": 12345678901234567890123, "n": [1, 2]}),
    ("$a.b-c", {"a": {"b-c": "d"}}, "d"),
]


@pytest.mark.parametrize(("expression", "latest", "result"), RESULTS)
def test_an_expression_evaluates_to_its_value(expression: str, latest: dict[str, Any], result: Any) -> None:
    (step,) = steps(f"(def x {expression})")
    received_at = datetime(2026, 10, 18, 12, tzinfo=UTC)
    matched = [{"event": "event", "received_at": received_at, "data": data} for data in MATCHED]
    found = compile_expression(step["set"]["x"]).value({"latest": latest, "matched": matched, "vars": {}, "last": {}})
    assert found == (result, None)
