"""Scripts of 4.2: every form compiles to the right pattern and steps, and the pattern matches accordingly."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.workflows.cxengage import NotationError, compile_script
from app.workflows.expressions.cel import compile_expression
from tests.support.cxengage_playback import matches_on

TEMPLATES = {"TM1": "Hello {{first-name}}", "TM2": "{{total}} {{result.sid}}"}
A, B, C = {"type": "a"}, {"type": "b"}, {"type": "c"}
IS_A = {"event": "*", "where": 'data.type == "a"'}
IS_B = {"event": "*", "where": 'data.type == "b"'}
IS_C = {"event": "*", "where": 'data.type == "c"'}
EVENT_A, EVENT_B, EVENT_C = (f'(event {{:type "{kind}"}})' for kind in "abc")


def script(code: str, key: str | None = None) -> dict[str, Any]:
    return compile_script(code, key=key, templates=TEMPLATES, name="script")


def on(events: str) -> Any:
    return script(f"{events} (perform echo message {{}})")["on"]


def steps(interactions: str) -> Any:
    return script(f"{EVENT_A}\n{interactions}")["steps"]


def echo(text: str) -> str:
    return f'(perform echo message {{:message "{text}"}})'


PATTERNS: list[tuple[str, Any]] = [
    (EVENT_A, IS_A),
    ("(event {})", {"event": "*"}),
    (f"(times 4 {EVENT_A})", {"times": 4, "of": IS_A}),
    (f"(count 4 {EVENT_A})", {"times": 4, "of": IS_A}),
    (f"(times 1 {EVENT_A})", IS_A),
    (f"(sequence {EVENT_A} {EVENT_B})", {"seq": [IS_A, IS_B]}),
    (f"(and {EVENT_A} {EVENT_B})", {"all": [IS_A, IS_B]}),
    (f"(all {EVENT_A} {EVENT_B})", {"all": [IS_A, IS_B]}),
    (f"(or {EVENT_A} {EVENT_B})", {"any": [IS_A, IS_B]}),
    (f"(within 30 days (times 4 {EVENT_A}))", {"times": 4, "of": IS_A, "within": "30d"}),
    (f"(within 1 day (sequence {EVENT_A} {EVENT_B}))", {"seq": [IS_A, IS_B], "within": "1d"}),
    (f"{EVENT_A} {EVENT_B}", {"seq": [IS_A, IS_B]}),
    (
        f"(within 1 hour (and {EVENT_A} {EVENT_B})) (or {EVENT_A} {EVENT_C})",
        {"seq": [{"all": [IS_A, IS_B], "within": "1h"}, {"any": [IS_A, IS_C]}]},
    ),
]


@pytest.mark.parametrize(("events", "pattern"), PATTERNS)
def test_events_compile_to_a_pattern(events: str, pattern: Any) -> None:
    assert on(events) == pattern


FILTERS = [
    ('{:type "a"}', 'data.type == "a"'),
    ("{:amount 5}", "data.amount == 5"),
    ("{:vip true}", "data.vip == true"),
    ("{:gone nil}", "!(has(data.gone)) || data.gone == null"),
    ('{:product "car" :type "service"}', 'data.product == "car" && data.type == "service"'),
    ('{:priority #{"high" "medium"} :type "a"}', 'data.priority in ["high", "medium"] && data.type == "a"'),
    ("{:amount (> 50000)}", "data.amount > 50000"),
    ("{:amount (>= 50000)}", "data.amount >= 50000"),
    ("{:amount (< 50000)}", "data.amount < 50000"),
    ("{:amount (<= 0.5)}", "data.amount <= 0.5"),
    ("{:amount (= 5)}", "data.amount == 5"),
    ("{:amount (and (> 50000) (< 100000))}", "data.amount > 50000 && data.amount < 100000"),
    (
        '{:type "a" :amount (or (< 5) (> 9))}',
        'data.type == "a" && (data.amount < 5 || data.amount > 9)',
    ),
    ('{:type (not (= "a"))}', '!(has(data.type) && data.type == "a")'),
    ('{:maintenance-cost "x"}', 'data["maintenance-cost"] == "x"'),
    ('{:customer.segment "gold"}', 'data.customer.segment == "gold"'),
    (
        '{:items (contains? "2L_PEPSI")}',
        'type(data.items) == list && "2L_PEPSI" in data.items'
        ' || type(data.items) == string && data.items.contains("2L_PEPSI")',
    ),
]


@pytest.mark.parametrize(("described", "where"), FILTERS)
def test_the_map_of_an_event_compiles_to_a_filter(described: str, where: str) -> None:
    assert on(f"(event {described})") == {"event": "*", "where": where}


TRUTHS: list[tuple[str, dict[str, Any], bool]] = [
    ('{:priority #{"high" "medium"}}', {"priority": "medium"}, True),
    ('{:priority #{"high" "medium"}}', {"priority": "low"}, False),
    ('{:priority #{"high" "medium"}}', {}, False),
    ('{:priority #{"high" 5 nil}}', {}, True),
    ('{:priority #{"high" 5 nil}}', {"priority": 5.0}, True),
    ('{:priority #{"high" 5 nil}}', {"priority": "5"}, False),
    ("{:priority #{nil}}", {"priority": None}, True),
    ("{:amount (and (> 50000) (< 100000))}", {"amount": 60_000}, True),
    ("{:amount (and (> 50000) (< 100000))}", {"amount": 100_000}, False),
    ("{:amount (or (< 5) (> 9))}", {"amount": 10}, True),
    ("{:amount (or (< 5) (> 9))}", {"amount": "x"}, False),
    ("{:amount (not (> 5))}", {"amount": "x"}, True),
    ("{:amount (not (> 5))}", {}, True),
    ("{:amount (not (or (> 5) (= 3)))}", {"amount": 3}, False),
    ("{:amount (>= 5)}", {"amount": 5}, True),
    ("{:amount (<= 5)}", {"amount": 5.5}, False),
    ('{:items (contains? "2L_PEPSI")}', {"items": ["2L_PEPSI", "PIZZA"]}, True),
    ('{:items (contains? "2L_PEPSI")}', {"items": "PIZZA, 2L_PEPSI"}, True),
    ('{:items (not (contains? "2L_PEPSI"))}', {}, True),
    ('{:items (contains? 5) :type "a"}', {"items": [4, 5], "type": "a"}, True),
    ("{:a.b (> 1)}", {"a": {"b": 2}}, True),
    ("{:a.b (> 1)}", {"a": 2}, False),
]


@pytest.mark.parametrize(("described", "data", "truth"), TRUTHS)
def test_an_event_matches_when_its_values_fit(described: str, data: dict[str, Any], truth: bool) -> None:
    assert (matches_on(on(f"(event {described})"), data) == [0]) is truth


def test_each_event_form_uses_a_different_event() -> None:
    pattern = on('(and (event {:priority "high" :type "purchase"}) (event {:amount (> 50000)}))')
    purchase = {"priority": "high", "type": "purchase"}
    assert matches_on(pattern, {**purchase, "amount": 100_000}) == []
    assert matches_on(pattern, {"amount": 100_000}, purchase) == [1]


def test_times_needs_that_many_events() -> None:
    assert matches_on(on(f"(times 3 {EVENT_A})"), A, B, A, A, A) == [3]


def test_sequence_needs_events_in_order() -> None:
    assert matches_on(on(f"(sequence {EVENT_A} {EVENT_B})"), B, A, C, B) == [3]
    assert matches_on(on(f"{EVENT_A} {EVENT_B}"), B, A, C, B) == [3]


def test_or_needs_one_event() -> None:
    assert matches_on(on(f"(or {EVENT_A} {EVENT_B})"), C, B) == [1]


def test_within_ignores_old_events() -> None:
    pattern = on(f"(within 10 seconds (times 2 {EVENT_A}))")
    assert matches_on(pattern, (0, A), (11, A), (21, A)) == [2]


@pytest.mark.parametrize(
    ("data", "fires"),
    [
        ({"type": "a", "owner": {"id": "x"}}, True),
        ({"type": "a", "owner": {"id": 7}}, True),
        ({"type": "a", "owner": {"id": Decimal("7.5")}}, True),
        ({"type": "a"}, False),
        ({"type": "a", "owner": "x"}, False),
        ({"type": "a", "owner": {"id": None}}, False),
        ({"type": "a", "owner": {"id": ""}}, False),
        ({"type": "a", "owner": {"id": True}}, False),
        ({"type": "a", "owner": {"id": ["x"]}}, False),
        ({"type": "b", "owner": {"id": "x"}}, False),
    ],
)
@pytest.mark.parametrize("event", [EVENT_A, '(event {:type (or (= "a") (= "z"))})'])
def test_an_event_without_the_key_does_not_fire(event: str, data: dict[str, Any], fires: bool) -> None:
    assert matches_on(script(f"{event} {echo('x')}", key="owner.id")["on"], (0, data)) == ([0] if fires else [])


def test_events_are_matched_per_value_of_the_key() -> None:
    assert script(f"{EVENT_A} {echo('x')}", key="customer-id")["key"] == "data.customer-id"
    assert "key" not in script(f"{EVENT_A} {echo('x')}")
    with pytest.raises(NotationError, match="expected a key of letters, digits, _ and -"):
        script(f"{EVENT_A} {echo('x')}", key="no key")


STEPS: list[tuple[str, Any]] = [
    # verbs
    *(
        (f'({verb} echo message {{:message "x"}})', [{"log": "x"}])
        for verb in ("fetch", "perform", "create", "update", "delete")
    ),
    *(
        (f'({verb} twilio sms {{:to $phone :message "x"}})', [{"sms": {"to": "{{ latest.phone }}", "text": "x"}}])
        for verb in ("perform", "create")
    ),
    ("(perform echo message)", [{"log": ""}]),
    ("(perform echo message {:message $cust-id})", [{"log": '{{ latest["cust-id"] }}'}]),
    ("(perform echo message {:message $a.b})", [{"log": "{{ latest.a.b }}"}]),
    ('(create twilio call {:to $phone :message "x"})', [{"call": {"to": "{{ latest.phone }}", "say": "x"}}]),
    (
        '(create sendgrid email {:to $Email :from "s@example.com" :subject (template +TM1) :text "x"})',
        [
            {
                "sendgrid": {
                    "to": "{{ latest.Email }}",
                    "from": "s@example.com",
                    "subject": {"mustache": "Hello {{first-name}}"},
                    "text": "x",
                }
            }
        ],
    ),
    (
        '(create sendgrid email {:to ["a@example.com" $email] :subject "Hi" :message "x"})',
        [{"sendgrid": {"to": ["a@example.com", "{{ latest.email }}"], "subject": "Hi", "text": "x"}}],
    ),
    ('(perform generic message {:body "x"})', [{"message": {"text": "x"}}]),
    ("(perform echo message {:message (template +TM1)})", [{"log": {"mustache": "Hello {{first-name}}"}}]),
    ('(perform echo message {:message (template "Hi {{x}}")})', [{"log": {"mustache": "Hi {{x}}"}}]),
    (
        "(perform echo message {:message (* $price 0.9)})",
        [{"set": {"value": "mul(latest.price, 0.9)"}}, {"log": "{{ vars.value }}"}],
    ),
    # options
    (
        f"(perform echo message {{}} (retries 3) (timeout 2 minutes) (catch {echo('no')}))",
        [{"log": "", "retry": {"attempts": 3}, "timeout": "2m", "else": [{"log": "no"}]}],
    ),
    # parallel, in sequence
    (f"{echo('x')} {echo('y')}", [{"par": [[{"log": "x"}], [{"log": "y"}]]}]),
    (f"{echo('x')} (delay 10 seconds) {echo('y')}", [{"log": "x"}, {"wait": "10s"}, {"log": "y"}]),
    (f"(do {echo('x')} (do {echo('y')}))", [{"par": [[{"log": "x"}], [{"log": "y"}]]}]),
    # def, set
    (
        '(def company "acme") (set company "acme-inc")',
        [{"set": {"company": '"acme"'}}, {"set": {"company": '"acme-inc"'}}],
    ),
    ("(def a 1) (def b-c (+ a 1))", [{"set": {"a": 1, "b_c": "add(vars.a, 1)"}}]),
    ("(def sent (perform echo message {}))", [{"log": ""}, {"set": {"sent": "last"}}]),
    (
        f"(def sent (perform echo message {{}} (catch {echo('no')})))",
        [
            {
                "log": "",
                "then": [{"set": {"sent": "last"}}],
                "else": [{"log": "no"}, {"set": {"sent": "null"}}],
            }
        ],
    ),
    # let
    (
        "(let [total (sum (all $amount))] (perform echo message {:message total}))",
        [{"set": {"total": 'sum(values(matched, "amount"))'}}, {"log": "{{ vars.total }}"}],
    ),
    (
        "(let [total 1] (let [total 2] (perform echo message {:message total})) (perform echo message {:message total}))",
        [{"set": {"total": 1, "total_2": 2}}, {"log": "{{ vars.total_2 }}"}, {"log": "{{ vars.total }}"}],
    ),
    (
        "(def total 1) (let [total 2] (set total 3)) (perform echo message {:message (template +TM2)})",
        [
            {"set": {"total": 1, "total_2": 2}},
            {"set": {"total_2": 3}},
            {"log": {"mustache": "{{total}} {{result.sid}}"}},
        ],
    ),
    (
        "(def total 1) (let [total 2] (perform echo message {:message (template +TM2)}))",
        [{"set": {"total": 1, "total_2": 2}}, {"log": {"mustache": "{{total_2}} {{result.sid}}"}}],
    ),
    (
        '(let [r (create twilio call {:to $phone :message "x"})] (perform echo message {:message r.sid}))',
        [
            {"call": {"to": "{{ latest.phone }}", "say": "x"}},
            {"set": {"r": "last"}},
            {"log": "{{ vars.r.sid }}"},
        ],
    ),
    # if-let, when-let
    (
        f"(if-let [r (create twilio call {{:to $phone :message 5}})] (perform echo message {{:message r.sid}}) {echo('no')})",
        [
            {
                "call": {"to": "{{ latest.phone }}", "say": "5"},
                "then": [{"set": {"r": "last"}}, {"log": "{{ vars.r.sid }}"}],
                "else": [{"log": "no"}],
            }
        ],
    ),
    (
        f"(if-let [n $amount] {echo('yes')} {echo('no')})",
        [
            {"set": {"n": "latest.amount"}},
            {"if": "vars.n != null && vars.n != false", "then": [{"log": "yes"}], "else": [{"log": "no"}]},
        ],
    ),
    (
        f"(when-let [r (perform echo message {{}})] (delay 1 minute) {echo('x')})",
        [{"log": "", "then": [{"set": {"r": "last"}}, {"wait": "1m"}, {"log": "x"}], "else": []}],
    ),
    (
        f"(when-let [n $amount] {echo('x')})",
        [{"set": {"n": "latest.amount"}}, {"if": "vars.n != null && vars.n != false", "then": [{"log": "x"}]}],
    ),
    # if, when
    (
        f"(if (> $amount 500) {echo('big')} {echo('small')})",
        [{"if": "latest.amount > 500", "then": [{"log": "big"}], "else": [{"log": "small"}]}],
    ),
    (f"(if (>= $amount 500) {echo('big')})", [{"if": "latest.amount >= 500", "then": [{"log": "big"}]}]),
    (
        f"(if (perform echo message {{}}) {echo('yes')} {echo('no')})",
        [{"log": "", "then": [{"log": "yes"}], "else": [{"log": "no"}]}],
    ),
    (
        f"(when (<= $amount 5) (delay 1 minute) {echo('x')})",
        [{"if": "latest.amount <= 5", "then": [{"wait": "1m"}, {"log": "x"}]}],
    ),
    (
        f'(when (contains? $items "x") {echo("x")})',
        [
            {
                "if": 'type(latest.items) == list && "x" in latest.items'
                ' || type(latest.items) == string && latest.items.contains("x")',
                "then": [{"log": "x"}],
            }
        ],
    ),
    # cond, case
    (
        f"(cond (= 200 $amount) {echo('a')} (> $amount 500) {echo('b')} {echo('c')})",
        [
            {
                "if": "latest.amount == 200",
                "then": [{"log": "a"}],
                "else": [{"if": "latest.amount > 500", "then": [{"log": "b"}], "else": [{"log": "c"}]}],
            }
        ],
    ),
    (
        f"(cond (= 200 $amount) {echo('a')} :else {echo('b')})",
        [{"if": "latest.amount == 200", "then": [{"log": "a"}], "else": [{"log": "b"}]}],
    ),
    (f"(cond (= 200 $amount) {echo('a')})", [{"if": "latest.amount == 200", "then": [{"log": "a"}]}]),
    (
        f'(case $status "red" {echo("a")} 300 {echo("b")} {echo("c")})',
        [
            {
                "if": 'latest.status == "red"',
                "then": [{"log": "a"}],
                "else": [{"if": "latest.status == 300", "then": [{"log": "b"}], "else": [{"log": "c"}]}],
            }
        ],
    ),
    # unless, until, times
    (
        f"(unless (> $amount 5) {echo('x')} {echo('y')})",
        [
            {
                "if": "!(has(latest.amount) && (type(latest.amount) == int || type(latest.amount) == double)"
                " && latest.amount > 5)",
                "then": [{"par": [[{"log": "x"}], [{"log": "y"}]]}],
            }
        ],
    ),
    (
        "(def n 0) (until (= n 3) (set n (inc n)))",
        [
            {"set": {"n": 0}},
            {
                "repeat": [{"if": "!(has(vars.n) && vars.n == 3)", "then": [{"set": {"n": "inc(vars.n)"}}]}],
                "until": "has(vars.n) && vars.n == 3",
                "most": 1000,
            },
        ],
    ),
    (f"(times 3 {echo('x')})", [{"repeat": [{"log": "x"}], "until": "false", "most": 3}]),
    # delay
    ("(delay 10 seconds)", [{"wait": "10s"}]),
]


@pytest.mark.parametrize(("interactions", "expected"), STEPS)
def test_interactions_compile_to_steps(interactions: str, expected: Any) -> None:
    assert steps(interactions) == expected


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


def test_unless_is_checked_before_each_action_that_may_follow_a_change() -> None:
    stop = "has(vars.counter) && (type(vars.counter) == int || type(vars.counter) == double) && vars.counter >= 10"
    assert steps("""
        (def counter 0)
        (unless (>= counter 10)
          (times 20
            (do
              (perform echo message {:message "Hello World"})
              (set counter (inc counter)))))
    """) == [
        {"set": {"counter": 0}},
        {
            "if": f"!({stop})",
            "then": [
                {
                    "repeat": [
                        {"if": f"!({stop})", "then": [{"log": "Hello World"}]},
                        {"if": f"!({stop})", "then": [{"set": {"counter": "inc(vars.counter)"}}]},
                    ],
                    "until": stop,
                    "most": 20,
                }
            ],
        },
    ]


def test_constants_may_be_named_before_the_events() -> None:
    found = script(
        f'(def dealer "dealer@example.com") {EVENT_A} (def n 1) (create sendgrid email {{:to dealer :subject "Hi" :text "x"}})'
    )
    assert found["on"] == IS_A
    assert found["steps"] == [
        {"set": {"dealer": '"dealer@example.com"', "n": 1}},
        {"sendgrid": {"to": "{{ vars.dealer }}", "subject": "Hi", "text": "x"}},
    ]


def test_large_loops_get_fewer_rounds() -> None:
    body = " ".join(f"(delay {number} seconds)" for number in range(1, 41))
    (loop,) = steps(f"(until (= $a 1) {body})")
    assert loop["most"] == 475


def test_the_example_of_the_reference_compiles() -> None:
    found = script("""
        (within 30 days (times 4 (event {:product "car" :type "service"})))
        (let [total (sum (all $maintenance-cost))]
          (create sendgrid email {:to "dealer@example.com" :subject "Service" :message total})
          (when (> total 5000) (create twilio sms {:to "+15552334444" :message "Call the customer"})))
    """)
    assert found == {
        "name": "script",
        "on": {
            "times": 4,
            "of": {"event": "*", "where": 'data.product == "car" && data.type == "service"'},
            "within": "30d",
        },
        "steps": [
            {"set": {"total": 'sum(values(matched, "maintenance-cost"))'}},
            {
                "par": [
                    [{"sendgrid": {"to": "dealer@example.com", "subject": "Service", "text": "{{ vars.total }}"}}],
                    [
                        {
                            "if": "vars.total > 5000",
                            "then": [{"sms": {"to": "+15552334444", "text": "Call the customer"}}],
                        }
                    ],
                ]
            },
        ],
    }
    service = {"product": "car", "type": "service", "maintenance-cost": 1400}
    day = 86_400
    assert matches_on(found["on"], *((at * day, service) for at in (0, 1, 2, 31, 31))) == [4]


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
