"""The `then` of 4.1: every form compiles to the right steps."""

from __future__ import annotations

from typing import Any

import pytest

from app.workflows.cxengage import NotationError, compile_pattern

TEMPLATES = {"TM1": "Hello {{first-name}}", "TM2": "{{cust-seg}} {{#items}}{{name}}{{/items}}"}
WHEN = '(event (= type "a"))'


def steps(then: str) -> Any:
    return compile_pattern(when=WHEN, then=then, templates=TEMPLATES, name="thanks")["steps"]


def echo(text: str) -> str:
    return f'(send echo message {{:message "{text}"}})'


STEPS: list[tuple[str, Any]] = [
    # send
    ('(send echo message {:message "Hello"})', [{"log": "Hello"}]),
    ("(send echo message {})", [{"log": ""}]),
    ("(send echo message {:message 5})", [{"log": "5"}]),
    ("(send echo message {:message 2.50})", [{"log": "2.50"}]),
    ("(send echo message {:message true})", [{"log": "true"}]),
    ("(send echo message {:message nil})", [{"log": ""}]),
    ("(send echo message {:message *custId*})", [{"log": "{{ latest.custId }}"}]),
    ("(send echo message {:message *phone-number*})", [{"log": '{{ latest["phone-number"] }}'}]),
    ("(send echo message {:message *a.b-c*})", [{"log": '{{ latest.a["b-c"] }}'}]),
    ("(send echo message {:message $call-id})", [{"log": '{{ last["call-id"] }}'}]),
    ("(send echo message {:message +TM1})", [{"log": {"mustache": "Hello {{first-name}}"}}]),
    ('(send echo message {:message "{{ x }} {% y"})', [{"log": "{% raw %}{{ x }} {% y{% endraw %}"}]),
    (
        '(send echo message {:message "{{ x }} {% endraw %}"})',
        [{"set": {"value": '"{{ x }} {% endraw %}"'}}, {"log": "{{ vars.value }}"}],
    ),
    ("(send echo message {:message *size*})", [{"set": {"value": "latest.size"}}, {"log": "{{ vars.value }}"}]),
    (
        '(send twilio sms {:to-phone-number *phone* :from-phone-number "1-506-555-1234" :message "Hi"})',
        [{"sms": {"to": "{{ latest.phone }}", "from": "1-506-555-1234", "text": "Hi"}}],
    ),
    (
        '(send twilio sms {:to "+15552334444" :from "Acme" :body "Hi"})',
        [{"sms": {"to": "+15552334444", "from": "Acme", "text": "Hi"}}],
    ),
    (
        '(send twilio call {:to-phone-number *phone* :from-phone-number "15068009013" :message *text*})',
        [{"call": {"to": "{{ latest.phone }}", "from": "15068009013", "say": "{{ latest.text }}"}}],
    ),
    (
        '(send twilio call {:to *phone* :url "https://example.com/twiml"})',
        [{"call": {"to": "{{ latest.phone }}", "url": "https://example.com/twiml"}}],
    ),
    (
        '(send sendgrid email {:to *email* :from "no-reply@example.com" :subject "Hi" :message "Text"})',
        [{"sendgrid": {"to": "{{ latest.email }}", "from": "no-reply@example.com", "subject": "Hi", "text": "Text"}}],
    ),
    (
        '(send sendgrid email {:to *email* :subject "Hi" :html "<p>Text</p>"})',
        [{"sendgrid": {"to": "{{ latest.email }}", "subject": "Hi", "html": "<p>Text</p>"}}],
    ),
    (
        '(send sendgrid email {:to ["a@example.com" *email*] :subject "Hi" :message "x"})',
        [{"sendgrid": {"to": ["a@example.com", "{{ latest.email }}"], "subject": "Hi", "text": "x"}}],
    ),
    ('(send generic message {:body "Hello"})', [{"message": {"text": "Hello"}}]),
    # template
    (
        "(send twilio sms {:to *phone*} (template {:message +TM1}))",
        [{"sms": {"to": "{{ latest.phone }}", "text": {"mustache": "Hello {{first-name}}"}}}],
    ),
    (
        '(send twilio sms {:to *phone* :message "not this"} (template {:message "Hello {{name}}"}))',
        [{"sms": {"to": "{{ latest.phone }}", "text": {"mustache": "Hello {{name}}"}}}],
    ),
    (
        "(send twilio sms {:to *phone*} (template {:message *text*}))",
        [{"sms": {"to": "{{ latest.phone }}", "text": "{{ latest.text }}"}}],
    ),
    (
        "(seq (set a 1) (send echo message {} (template {:message a})))",
        [{"set": {"a": 1}}, {"log": "{{ vars.a }}"}],
    ),
    (
        "(send echo message {} (success (send echo message {} (template {:message $x}))))",
        [{"log": "", "then": [{"set": {"response": "last"}}, {"log": "{{ vars.response.x }}"}]}],
    ),
    (
        '(seq (set cust-seg "gold") (send echo message {} (template {:message +TM2})))',
        [
            {"set": {"cust_seg": '"gold"'}},
            {"log": {"mustache": "{{cust_seg}} {{#items}}{{name}}{{/items}}"}},
        ],
    ),
    # retries, within, timeout
    ("(send echo message {} (retries 2))", [{"log": "", "retry": {"attempts": 3}}]),
    ("(send echo message {} (retries 0))", [{"log": "", "retry": {"attempts": 1}}]),
    ("(send echo message {} (within 30 seconds))", [{"log": "", "timeout": "30s"}]),
    ("(send echo message {} (timeout 2 minutes))", [{"log": "", "timeout": "2m"}]),
    # success, failure
    (
        f"(send echo message {{}} (success {echo('yes')}) (failure {echo('no')}))",
        [{"log": "", "then": [{"log": "yes"}], "else": [{"log": "no"}]}],
    ),
    (f"(send echo message {{}} (failure {echo('no')}))", [{"log": "", "else": [{"log": "no"}]}]),
    (
        "(send twilio sms {:to *phone* :message *text*} (success (set sid $call-id)))",
        [{"sms": {"to": "{{ latest.phone }}", "text": "{{ latest.text }}"}, "then": [{"set": {"sid": "last.sid"}}]}],
    ),
    # $field belongs to the enclosing send, whatever is sent in between
    (
        '(send twilio sms {:to *a* :message "x"} (success (send echo message {:message "b"}) (set sid $call-id)))',
        [
            {
                "sms": {"to": "{{ latest.a }}", "text": "x"},
                "then": [{"set": {"response": "last"}}, {"log": "b"}, {"set": {"sid": "vars.response.sid"}}],
            }
        ],
    ),
    (
        "(send echo message {} (failure (par (send echo message {}) (set why $error))))",
        [
            {
                "log": "",
                "else": [
                    {"set": {"response": "last"}},
                    {"par": [[{"log": ""}], [{"set": {"why": "vars.response.error"}}]]},
                ],
            }
        ],
    ),
    (
        "(send echo message {} (success (send echo message {} (success (set a $x))) (if $y (set b 1))))",
        [
            {
                "log": "",
                "then": [
                    {"set": {"response": "last"}},
                    {"log": "", "then": [{"set": {"a": "last.x"}}]},
                    {"if": "vars.response.y != null && vars.response.y != false", "then": [{"set": {"b": 1}}]},
                ],
            }
        ],
    ),
    (
        "(send echo message {} (success (await (event (= type 1)) (within 1 day) (success (set a $x)))))",
        [
            {
                "log": "",
                "then": [
                    {
                        "wait_for": {"event": "*", "where": "data.type == 1"},
                        "timeout": "1d",
                        "then": [{"set": {"a": "last.x"}}],
                    }
                ],
            }
        ],
    ),
    # seq, par
    (f"(seq {echo('a')} {echo('b')})", [{"log": "a"}, {"log": "b"}]),
    (f"(seq {echo('a')} (success {echo('b')}))", [{"log": "a"}, {"log": "b"}]),
    (f"(par {echo('a')} {echo('b')})", [{"par": [[{"log": "a"}], [{"log": "b"}]]}]),
    (f"(par {echo('a')})", [{"log": "a"}]),
    (
        f"(seq (par (seq {echo('a')} (delay 1 minute)) {echo('b')}) {echo('c')})",
        [{"par": [[{"log": "a"}, {"wait": "1m"}], [{"log": "b"}]]}, {"log": "c"}],
    ),
    (f"(par {echo('a')} {echo('b')} (success {echo('c')}))", [{"par": [[{"log": "a"}], [{"log": "b"}]]}, {"log": "c"}]),
    (
        f"(seq {echo('a')} (delay 1 minute) (send echo message {{}} (failure (delay 2 minutes))) {echo('b')}"
        f" (failure {echo('no')}) (success {echo('yes')}))",
        [
            {"set": {"failed": False}},
            {"log": "a", "else": [{"set": {"failed": True}}]},
            {"if": "!vars.failed", "then": [{"wait": "1m"}]},
            {"if": "!vars.failed", "then": [{"log": "", "else": [{"wait": "2m"}]}]},
            {"if": "!vars.failed", "then": [{"log": "b", "else": [{"set": {"failed": True}}]}]},
            {"if": "vars.failed", "then": [{"log": "no"}], "else": [{"log": "yes"}]},
        ],
    ),
    (
        f"(par {echo('a')} {echo('b')} (retries 2) (failure {echo('no')}))",
        [
            {
                "repeat": [
                    {"set": {"failed": False}},
                    {
                        "par": [
                            [{"log": "a", "else": [{"set": {"failed": True}}]}],
                            [{"log": "b", "else": [{"set": {"failed": True}}]}],
                        ]
                    },
                ],
                "until": "has(vars.failed) && !vars.failed",
                "most": 3,
            },
            {"if": "vars.failed", "then": [{"log": "no"}]},
        ],
    ),
    # delay
    ("(delay 5 minutes)", [{"wait": "5m"}]),
    ("(delay 1 day)", [{"wait": "1d"}]),
    # set
    ('(set cust-seg "gold")', [{"set": {"cust_seg": '"gold"'}}]),
    ("(set id *custId*)", [{"set": {"id": "latest.custId"}}]),
    ("(set sent $call-id)", [{"set": {"sent": 'last["call-id"]'}}]),
    ("(set n 5)", [{"set": {"n": 5}}]),
    ("(set n 0.10)", [{"set": {"n": "0.10"}}]),
    ("(set n 12345678901234567890)", [{"set": {"n": 12345678901234567890}}]),
    ("(set yes true)", [{"set": {"yes": True}}]),
    ("(set nothing nil)", [{"set": {"nothing": "null"}}]),
    (
        "(seq (set a-b 1) (set a_b a-b) (set in a_b.c))",
        [{"set": {"a_b": 1}}, {"set": {"a_b_2": "vars.a_b"}}, {"set": {"in_2": "vars.a_b_2.c"}}],
    ),
    (
        '(seq (set text "Hi") (send echo message {:message text}))',
        [{"set": {"text": '"Hi"'}}, {"log": "{{ vars.text }}"}],
    ),
    # if
    (
        f'(if (= *seg* "gold") (success {echo("a")}) (failure {echo("b")}))',
        [{"if": 'latest.seg == "gold"', "then": [{"log": "a"}], "else": [{"log": "b"}]}],
    ),
    (
        f'(if (= *seg* "gold") {echo("a")} {echo("b")})',
        [{"if": 'latest.seg == "gold"', "then": [{"log": "a"}], "else": [{"log": "b"}]}],
    ),
    (f"(if (> *n* 5) (failure {echo('b')}))", [{"if": "latest.n > 5", "then": [], "else": [{"log": "b"}]}]),
    (f"(if (< $n 5) {echo('a')})", [{"if": "last.n < 5", "then": [{"log": "a"}]}]),
    (f"(if *vip* {echo('a')})", [{"if": "latest.vip != null && latest.vip != false", "then": [{"log": "a"}]}]),
    (f"(if true {echo('a')})", [{"if": "true", "then": [{"log": "a"}]}]),
    (
        f"(if (not (= *n* 5)) {echo('a')})",
        [{"if": "!(has(latest.n) && latest.n == 5)", "then": [{"log": "a"}]}],
    ),
    (
        f'(if (and (= *a* 1) (or (= *b* 2) (= "x" *c-d*))) {echo("a")})',
        [{"if": 'latest.a == 1 && (latest.b == 2 || latest["c-d"] == "x")', "then": [{"log": "a"}]}],
    ),
    (
        f"(seq (set ok 1) (if (= ok *x*) {echo('a')}))",
        [
            {"set": {"ok": 1}},
            {
                "if": "has(vars.ok) && has(latest.x) && vars.ok == latest.x"
                " || (!(has(vars.ok)) || vars.ok == null) && (!(has(latest.x)) || latest.x == null)",
                "then": [{"log": "a"}],
            },
        ],
    ),
    # await
    (
        f'(await (event (= type "b")) (within 5 minutes) (success {echo("a")}) (failure {echo("b")}))',
        [
            {
                "wait_for": {"event": "*", "where": 'data.type == "b"'},
                "timeout": "5m",
                "then": [{"log": "a"}],
                "else": [{"log": "b"}],
            }
        ],
    ),
    (
        '(await (event (= type "b")) (timeout 3 days))',
        [{"wait_for": {"event": "*", "where": 'data.type == "b"'}, "timeout": "3d"}],
    ),
]


@pytest.mark.parametrize(("then", "expected"), STEPS)
def test_a_form_compiles_to_steps(then: str, expected: Any) -> None:
    assert steps(then) == expected


def test_more_than_twenty_members_of_par_become_nested_blocks() -> None:
    found = steps(f"(par {' '.join(echo(str(number)) for number in range(45))})")
    blocks = [block[0]["par"] for block in found[0]["par"]]
    assert [len(block) for block in blocks] == [20, 20, 5]
    assert [step["log"] for block in blocks for (step,) in block] == [str(number) for number in range(45)]


def test_the_example_of_the_reference_compiles() -> None:
    assert steps("""
        (seq (send echo message {:message "Hello"}) (delay 5 minutes)
             (send twilio sms {:to-phone-number *phone-number*} (template {:message +TM1}) (retries 3) (within 30 seconds)
                   (success (set sid $call-id)) (failure (send echo message {:message *custId*}))))
    """) == [
        {"log": "Hello"},
        {"wait": "5m"},
        {
            "sms": {"to": '{{ latest["phone-number"] }}', "text": {"mustache": "Hello {{first-name}}"}},
            "retry": {"attempts": 4},
            "timeout": "30s",
            "then": [{"set": {"sid": "last.sid"}}],
            "else": [{"log": "{{ latest.custId }}"}],
        },
    ]


def test_far_too_many_steps_are_refused_early() -> None:
    with pytest.raises(NotationError, match=r"then, line 1002, column 1: expected fewer steps, found more than 1000"):
        steps("(seq\n" + "(delay 1 day)\n" * 4_000 + ")")


def test_an_error_in_then_names_the_field() -> None:
    with pytest.raises(NotationError) as exc:
        steps("(seq\n  (delay 5 hour5))")
    assert str(exc.value) == ('then, line 2, column 12: expected one of seconds, minutes, hours, days, found "hour5"')
