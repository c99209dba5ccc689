"""Scripts of 4.2: every form compiles to the right pattern and steps, and the pattern matches accordingly."""

from __future__ import annotations

from typing import Any

import pytest

from app.workflows.cxengage import compile_script
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
