"""Each invalid pattern is refused at the right position (marked ‸) with what was expected there."""

from __future__ import annotations

import pytest

from app.workflows.cxengage import NotationError, compile_pattern, compile_script

UNITS = "one of seconds, minutes, hours, days"
FORMS_41 = "one of event, within, seq, all, any, count, fail"
TESTS_41 = "one of =, >, <, not, and, or, contains"
COMMANDS_41 = "one of seq, par, send, delay, await, if, set"
OPTIONS_41 = "one of retries, within, timeout, template, success, failure"
FORMS_42 = "one of event, times, sequence, and, or, within"
VERBS_42 = "one of fetch, perform, create, update, delete"

WHEN: list[tuple[str, str]] = [
    # syntax
    ("‸", f"expected {FORMS_41}, found the end of the text"),
    ("; nothing but a comment\n‸", f"expected {FORMS_41}, found the end of the text"),
    ('‸(event (= type "a")', 'expected ")" for this "(", found the end of the text'),
    ('(event ‸(= type "a"', 'expected ")" for this "(", found the end of the text'),
    ('(event (= type "a"))‸)', 'expected the end, found ")"'),
    ('(event (= type "a")‸]', 'expected ")" for the "(" of line 1, found "]"'),
    ('(event\n  (= type ‸"a))', "expected a closing quote for this one, found the end of the text"),
    (r'(event (= type "a‸\q"))', r'expected an escape such as \n, \t, \" or \\, found "\q"'),
    ('(event (= type "one\n  two ‸\\x"))', r'expected an escape such as \n, \t, \" or \\, found "\x"'),
    ("(event (= type ‸'a))", 'expected a word, a number, a text or a bracket, found "\'a"'),
    ("(event (= type ‸@a))", 'expected a word, a number, a text or a bracket, found "@a"'),
    ("(event (= type ‸5x))", 'expected a number such as 5 or 2.5, found "5x"'),
    ("(event (= type ‸007))", 'expected a number such as 5 or 2.5, found "007"'),
    ("(event (= type ‸1/2))", 'expected a number such as 5 or 2.5, found "1/2"'),
    ("(event (= type ‸1e999))", 'expected a number between 1e-308 and 1e308, found "1e999"'),
    ('(event (= type ‸"\\u0000"))', 'expected a text without NUL and lone surrogates, found ""\\u0000""'),
    ('(event (= type ‸"\\ud83d"))', 'expected a text without NUL and lone surrogates, found ""\\ud83d""'),
    ("(not " * 100 + "‸(= a 1)" + ")" * 100, "expected at most 100 nested brackets, found one more"),
    # forms
    ('event ‸(= type "a")', 'expected the end, found "(= …)"'),
    ("‸event", f'expected a list that begins with {FORMS_41}, found "event"'),
    ('‸"event"', f'expected a list that begins with {FORMS_41}, found the text "event"'),
    ("‸[event]", f"expected a list that begins with {FORMS_41}, found a vector"),
    ("(‸)", f'expected {FORMS_41}, found ")"'),
    ('(‸evnt (= type "a"))', f'expected {FORMS_41}, found "evnt"'),
    ('(‸"event" (= type "a"))', f'expected {FORMS_41}, found the text "event"'),
    ('(event (= type "a")) ‸(event (= type "b"))', 'expected the end, found "(event …)"'),
    ('(when (event (= type "a")) ‸(event (= type "b")))', 'expected the end of "(when …)", found "(event …)"'),
    ("(when‸)", f'expected {FORMS_41}, found the end of "(when …)"'),
    ("(when (‸send echo message))", f'expected {FORMS_41}, found "send"'),
    ("(seq‸)", f'expected {FORMS_41}, found the end of "(seq …)"'),
    ("(all‸)", f'expected {FORMS_41}, found the end of "(all …)"'),
    ("(any‸)", f'expected {FORMS_41}, found the end of "(any …)"'),
    ('(seq (event (= type "a"))\n     ‸type)', f'expected a list that begins with {FORMS_41}, found "type"'),
    # within
    ('(within 1 ‸hour5 (event (= type "a")))', f'expected {UNITS}, found "hour5"'),
    ('(within 1 ‸"hours" (event (= type "a")))', f'expected {UNITS}, found the text "hours"'),
    ('(within ‸hours 1 (event (= type "a")))', 'expected a whole number of at least 1, found "hours"'),
    ('(within ‸0 hours (event (= type "a")))', "expected a whole number of at least 1, found the number 0"),
    ('(within ‸1.5 hours (event (= type "a")))', "expected a whole number of at least 1, found the number 1.5"),
    ('(within ‸9999 days (event (= type "a")))', "expected at most ten years here, found 9999 days"),
    ("(within 1 hours‸)", f'expected {FORMS_41}, found the end of "(within …)"'),
    ("(within 1‸)", 'expected a unit of time, found the end of "(within …)"'),
    (
        '(within 1 hours (event (= type "a")) ‸(event (= type "b")))',
        'expected the end of "(within …)", found "(event …)"',
    ),
    # count
    ('(count ‸(event (= type "a")) 2)', 'expected how many times: a whole number from 1 to 1000, found "(event …)"'),
    ('(count ‸0 (event (= type "a")))', "expected how many times from 1 to 1000, found the number 0"),
    ('(count ‸1001 (event (= type "a")))', "expected how many times from 1 to 1000, found the number 1001"),
    (
        '(count ‸2.5 (event (= type "a")))',
        "expected how many times: a whole number from 1 to 1000, found the number 2.5",
    ),
    ("(count 2‸)", f'expected {FORMS_41}, found the end of "(count …)"'),
    # conditions
    ("(event‸)", f'expected {TESTS_41}, found the end of "(event …)"'),
    ("(event ‸vip)", f'expected a list that begins with {TESTS_41}, found "vip"'),
    ('(event ‸{:type "a"})', f"expected a list that begins with {TESTS_41}, found a map"),
    ('(event (‸== type "a"))', f'expected {TESTS_41}, found "=="'),
    ("(event (‸>= amount 5))", f'expected {TESTS_41}, found ">="'),
    ('(event (= type "a") ‸(= kind "b"))', 'expected the end of "(event …)", found "(= …)"'),
    ("(event (= type‸))", 'expected a field or a constant, found the end of "(= …)"'),
    ('(event (= type "a" ‸"b"))', 'expected the end of "(= …)", found the text "b"'),
    (
        '(event (= ‸"first name" "a"))',
        'the name of this field cannot be written here: write a workflow with data["first name"]',
    ),
    ('(event (= ‸"type" "a"))', "quoted field names are not supported: write (= type …) without quotes"),
    ("(event (> ‸5 6))", "expected a field of the event on one side, found two constants"),
    ('(event (> amount ‸"5"))', 'expected a field or a number to compare by ">", found the text "5"'),
    ("(event (< amount ‸true))", 'expected a field or a number to compare by "<", found "true"'),
    ("(event (= type ‸*kind*))", 'expected a field or a constant, found "*kind*"'),
    ("(event (= type ‸$kind))", 'expected a field or a constant, found "$kind"'),
    ("(event (= type ‸:a))", 'expected a field or a constant, found ":a"'),
    ("(event (= type ‸[1]))", "expected a field or a constant, found a vector"),
    ("(event (not‸))", f'expected {TESTS_41}, found the end of "(not …)"'),
    ("(event (and‸))", f'expected {TESTS_41}, found the end of "(and …)"'),
    ("(event (or ‸type))", f'expected a list that begins with {TESTS_41}, found "type"'),
    ('(event (contains ‸"items" "x"))', 'expected a field of the event, found the text "items"'),
    (
        "(event (contains items ‸other))",
        'expected a constant: a text, a number, true, false or nil, found "other"',
    ),
    # fail
    (
        '‸(fail (event (= type "a")))',
        'expected another pattern next to "fail" in an "all" or a "seq", found "(fail …)"',
    ),
    (
        "(any (event (= a 1)) ‸(fail (event (= b 1))))",
        'expected another pattern next to "fail" in an "all" or a "seq"',
    ),
    ("(all ‸(fail (event (= b 1))))", 'expected another pattern next to "fail", found "(fail …)"'),
    (
        "(all (event (= a 1)) ‸(fail (event (= b 1))))",
        'expected several events next to "fail", found "(fail …)"',
    ),
    (
        "(all (count 2 (event (= a 1))) (fail ‸(count 2 (event (= b 1)))))",
        'expected "(event …)" or "(any (event …) …)" after "fail", found "(count …)"',
    ),
    (
        "(all (count 2 (event (= a 1))) (fail‸))",
        'expected "(event …)" or "(any (event …) …)", found the end of "(fail …)"',
    ),
    (
        "(seq (event (= a 1)) ‸(fail (event (= b 1))))",
        'expected events before and after "fail", or "(within … (fail …))" at the end of the outermost "seq"',
    ),
    ("(seq ‸(fail (event (= b 1))) (event (= a 1)))", 'expected events before and after "fail"'),
    (
        "(seq (count 2 (event (= a 1))) ‸(fail (event (= b 1))) (event (= c 1)))",
        'expected one event before and one after "fail", found "(fail …)"',
    ),
    (
        "‸(within 1 hour (seq (event (= a 1)) (within 5 minutes (fail (event (= b 1))))))",
        'expected "within" inside the "seq", around the patterns before "fail", found "within" around the "seq"',
    ),
]

THEN: list[tuple[str, str]] = [
    ("‸", f"expected {COMMANDS_41}, found the end of the text"),
    ("(‸notify echo message {})", f'expected {COMMANDS_41}, found "notify"'),
    ("(seq‸)", f'expected {COMMANDS_41}, found the end of "(seq …)"'),
    ("(par (delay 1 minute)\n  (‸sleep 5))", f'expected {COMMANDS_41}, found "sleep"'),
    ("(send‸)", 'expected an endpoint, found the end of "(send …)"'),
    ("(send echo‸)", 'expected an action of the endpoint, found the end of "(send …)"'),
    ("(send echo message‸)", 'expected a map such as {:message *text*}, found the end of "(send …)"'),
    (
        "(send ‸salesforce case {})",
        "salesforce is not supported: call its API by an http step of a workflow, or use one of echo, twilio, sendgrid,",
    ),
    ("(send twilio ‸fax {})", 'expected one of sms, call of "twilio", found "fax"'),
    ('(send echo message {:message ‸["a"]})', "expected one text, number or template, found a vector"),
    ("(send sendgrid email {:to ‸[]})", "expected one text, number or template, found an empty vector"),
    ("(send echo message ‸[])", "expected a map such as {:key value}, found a vector"),
    ('(send echo message {‸"message" "x"})', "quoted field names are not supported: write :message"),
    ("(send echo message {‸5 6})", "expected a key such as :message, found the number 5"),
    ("(send echo message {:message‸})", 'expected a value for :message, found "}"'),
    ('(send echo message {:message "x" ‸:message "y"})', 'expected each key only once, found ":message"'),
    ('(send echo message {‸:text "x"})', 'expected :message, found ":text"'),
    (
        '(send twilio sms {:to "1" ‸:twil-ml "x"})',
        'expected one of :to-phone-number, :to, :from-phone-number, :from, :message, :body, found ":twil-ml"',
    ),
    ('(send twilio sms {:to "1"\n ‸:to-phone-number "2"})', 'expected "to" only once, found ":to-phone-number"'),
    ('‸(send twilio sms {:message "x"})', "expected :to-phone-number among the parameters, found none"),
    ("‸(send generic message {})", "expected :body among the parameters, found none"),
    ('‸(send twilio sms {:to "1"})', "expected :message among the parameters, found none"),
    ('‸(send twilio call {:to "1"})', "expected :message or :url among the parameters, found none"),
    ('‸(send sendgrid email {:to "a@x.io" :message "x"})', "expected :subject among the parameters, found none"),
    (
        '‸(send sendgrid email {:to "a@x.io" :subject "x"})',
        "expected :message or :html among the parameters, found none",
    ),
    ('‸(send twilio call {:to "1" :message "x" :url "y"})', "expected either :message or :url, found both"),
    ("(send echo message {:message ‸+TM7})", 'expected one of +TM1, +TM2, +TM3, found "+TM7"'),
    ("(send echo message {} (template {:message ‸+TM7}))", 'expected one of +TM1, +TM2, +TM3, found "+TM7"'),
    ("(send echo message {} (template ‸+TM1))", 'expected a map such as {:key value}, found "+TM1"'),
    ("(send echo message {:message ‸who})", 'expected a variable that "set" created, found "who"'),
    (
        "(seq (set a 1) (send echo message {:message ‸b}))",
        'expected a known variable: a, found "b"',
    ),
    ("(send echo message {} (‸retry 3))", f'expected {OPTIONS_41}, found "retry"'),
    ("(send echo message {} ‸3)", f"expected a list that begins with {OPTIONS_41}, found the number 3"),
    ("(send echo message {} (retries ‸many))", 'expected how many retries: a whole number from 0 to 99, found "many"'),
    ("(send echo message {} (retries ‸100))", "expected how many retries from 0 to 99, found the number 100"),
    (
        "(send echo message {} (retries 3) ‸(retries 4))",
        'expected "retries" only once in "(send …)", found "(retries …)"',
    ),
    ("(send echo message {} (timeout ‸5 minutes))", "expected at most 2m here, found 5 minutes"),
    ("(send echo message {} (within 5 ‸weeks))", f'expected {UNITS}, found "weeks"'),
    ("(send echo message {} (success‸))", f'expected {COMMANDS_41}, found the end of "(success …)"'),
    (
        "(seq (delay 1 minute) ‸(retries 3))",
        '"retries" of a whole "seq" is not supported without "(failure …)": write "retries" in each "send"',
    ),
    (
        "(par (delay 1 minute) ‸(within 1 hour))",
        '"within" of a whole "par" is not supported: write "within" in each "send"',
    ),
    ("(delay 5‸)", 'expected a unit of time, found the end of "(delay …)"'),
    ("(set x‸)", 'expected a constant, *field*, $field or a variable, found the end of "(set …)"'),
    ("(set ‸5 6)", "expected the name of a variable, found the number 5"),
    ("(set x ‸+TM1)", 'expected a constant, *field*, $field or a variable, found "+TM1"'),
    ("(if‸)", 'expected a condition, found the end of "(if …)"'),
    ("(if (= *a* 1)‸)", 'expected "(success …)" or "(failure …)", found the end of "(if …)"'),
    ("(if (> *a* ‸nil) (delay 1 minute))", 'expected a field or a number to compare by ">", found "nil"'),
    ("(if (‸>= *a* 1) (delay 1 minute))", 'expected one of =, >, <, not, and, or, found ">="'),
    (
        "(if true (success (delay 1 minute)) ‸(success (delay 1 minute)))",
        'expected "success" only once in "(if …)", found "(success …)"',
    ),
    (
        "(await ‸twilio call-status {:sid 5} (if true (delay 1 minute)) (within 5 minutes))",
        "polling an endpoint is not supported: wait for an event, as in (await (event …) (within 5 minutes) …)",
    ),
    (
        '(await (event (= type "b"))‸)',
        'expected "(within …)", the maximum time to wait, found the end of "(await …)"',
    ),
    ("(await (event (= type ‸*kind*)) (within 5 minutes))", 'expected a field or a constant, found "*kind*"'),
]

# Errors that only the whole document shows.
THEN += [
    ('‸(send twilio sms {:to "nobody" :message "x"})', "steps[0].sms.to: "),
    (
        '(seq (delay 1 minute)\n  ‸(send twilio sms {:to *phone* :message ""}))',
        "steps[1].sms.text: is empty: the text",
    ),
    (
        "(send echo message {:message ‸+TM3})",
        "steps[0].log.mustache: in the template: line 1, column 1: this section is not closed",
    ),
    (
        '(send echo message {} (template\n {:message ‸"{{> x}}"}))',
        "steps[0].log.mustache: in the template: line 1, column",
    ),
    (
        "‸(seq " + "(delay 1 day)" * 201 + ")",
        "steps: has 201 steps; at most 200 are allowed",
    ),
    (
        "(if true " * 10 + "‸(if true (delay 1 day))" + ")" * 10,
        "steps[0]" + ".then[0]" * 10 + ".then: is nested deeper than 10 blocks",
    ),
    ('‸(if (= *a* "' + "x" * 3_000 + '") (delay 1 day))', "steps[0].if: the filter has 30"),
    (
        "(seq ‸(seq (send echo message {}) (retries 1) (failure (delay 1 day))) (retries 1) (failure (delay 1 day)))",
        "steps[0].repeat[1].repeat: is inside of another repeat, which is not allowed",
    ),
]

CODE: list[tuple[str, str]] = [
    ("‸", f"expected {FORMS_42}, found the end of the text"),
    ('(event {:type "a"})‸', f"expected an interaction: {VERBS_42}, found the end of the text"),
    ("‸(perform echo message {})", f'expected {FORMS_42}, found "(perform …)"'),
    ("(def a ‸b) (event {})", 'expected a variable that "def, set or let" created, found "b"'),
    ("(event ‸(= type 1)) (perform echo message)", 'expected a map such as {:key value}, found "(= …)"'),
    (
        "(event {:type ‸other}) (perform echo message)",
        'expected a constant, a set or a predicate such as (> 5), found "other"',
    ),
    ("(event {:type #{‸}}) (perform echo message)", 'expected a constant, found "}"'),
    (
        "(event {:n (‸between 1 5)}) (perform echo message)",
        'expected one of =, >, <, >=, <=, not, and, or, contains?, found "between"',
    ),
    ('(event {:n (> ‸"5")}) (perform echo message)', 'expected a number, found the text "5"'),
    ("(event {:n (>‸)}) (perform echo message)", 'expected a constant, found the end of "(> …)"'),
    ("(event {:n (> 5 ‸6)}) (perform echo message)", 'expected the end of "(> …)", found the number 6'),
    (
        "(times ‸x (event {})) (perform echo message)",
        'expected how many times: a whole number from 1 to 1000, found "x"',
    ),
    ("(within 30 ‸dayz (event {})) (perform echo message)", f'expected {UNITS}, found "dayz"'),
    ("(sequence (event {}) ‸5 (event {})) (perform echo message)", f"expected a list that begins with {FORMS_42}"),
    (
        "(event {}) (perform echo message) ‸(event {})",
        "an event between interactions is not supported: write two patterns, or a workflow with wait_for",
    ),
    ("(event {}) (‸send echo message {})", "expected one of fetch, perform, create, update, delete, def,"),
    (
        "(event {}) (fetch ‸telco plan {:id $id})",
        "telco is not supported: call its API by an http step of a workflow, or use one of echo, twilio, sendgrid, generic",
    ),
    ("(event {}) (‸delete twilio sms {})", 'expected one of create, perform for "twilio sms", found "delete"'),
    ("(event {}) (perform echo message {:message ‸+TM1})", 'expected "(template +TM1)", found "+TM1"'),
    ("(event {}) (perform echo message {:message (template ‸+TM7)})", 'expected one of +TM1, +TM2, +TM3, found "+TM7"'),
    (
        "(event {}) (perform echo message {:message (‸gcd 4 6)})",
        "gcd is not supported: send its value as a field of the event",
    ),
    ("(event {}) (def a (‸lcm 4 6))", "lcm is not supported: send its value as a field of the event"),
    ("(event {}) (def a (‸rand))", "rand is not supported: send its value as a field of the event"),
    ("(event {}) (when (‸even? $a) (perform echo message))", "even? is not supported: write (= (mod x 2) 0)"),
    ("(event {}) (when (‸odd? $a) (perform echo message))", "odd? is not supported: write (= (mod x 2) 1)"),
    ("(event {}) (def a (‸reduce 1))", "expected one of +, -, *, /, mod, quot, rem, pow, inc,"),
    ('(event {‸"type" 1}) (perform echo message)', "quoted field names are not supported: write :type"),
    (
        "(event {}) (perform echo message {} (retries ‸0))",
        "expected how many attempts in all from 1 to 100, found the number 0",
    ),
    (
        '(event {}) ‸(create sendgrid email {:to "a@x.io" :subject "x"})',
        "expected :message or :html among the parameters, found none",
    ),
    (
        "(event {}) (perform echo message {:message ‸*id*})",
        "expected a value: a constant, $field, a variable or a list",
    ),
    ("(event {}) (perform echo message {:message ‸[1 2]})", "expected one text, number or template, found a vector"),
    ("(event {}) (create sendgrid email {:to ‸[]})", "expected one text, number or template, found an empty vector"),
    (
        "(event {}) (create sendgrid email {:to [$a ‸[$b]]})",
        "expected one text, number or template, found several values",
    ),
    (
        "(event {}) (perform echo message {:message ‸(all $a)})",
        "expected one text, number or template, found several values",
    ),
    ("(event {}) (perform echo message {} (‸retry 3))", 'expected one of retries, timeout, catch, found "retry"'),
    ("(event {}) (perform echo message {} (timeout ‸3 minutes))", "expected at most 2m here, found 3 minutes"),
    ("(event {}) (def ‸5 5)", "expected the name of a variable, found the number 5"),
    ("(event {}) (set ‸x 5)", 'expected a variable that "def" or "let" created, found "x"'),
    ("(event {}) (set ‸5 5)", "expected the name of a variable, found the number 5"),
    (
        "(event {}) (cond ‸:else (perform echo message) true (perform echo message))",
        "expected a value: a constant, $field, a variable or a list",
    ),
    ("(event {}) (def y 1) (set ‸x 5)", 'expected a known variable: y, found "x"'),
    ("(event {}) (let ‸(x 1) (perform echo message))", "expected names and values such as [total (sum (all $amount))]"),
    ("(event {}) (let [x‸] (perform echo message))", 'expected a value for "x", found "]"'),
    (
        "(event {}) (let [x 1] (perform echo message)) (perform echo message {:message ‸x})",
        'expected a variable that "def, set or let" created, found "x"',
    ),
    ("(event {}) (if-let [x 1]‸)", "expected one of fetch, perform, create, update, delete,"),
    ("(event {}) (if-let [x 1 ‸y 2] (perform echo message))", 'expected "]": one name and its value, found "y"'),
    ("(event {}) (when (> $a 1)‸)", "expected one of fetch, perform, create, update, delete,"),
    (
        '(event {}) (when (<= ‸"5" $a) (perform echo message))',
        'expected a field or a number to compare by "<=", found the text "5"',
    ),
    ("(event {}) (case $a ‸$b (perform echo message))", 'expected a constant, found "$b"'),
    (
        "(event {}) (until ‸(event {:type 1}) (perform echo message))",
        "stopping at an event is not supported: write a workflow with exit_on",
    ),
    (
        "(event {}) (perform echo message {:message (sum (all ‸amount))})",
        'expected a field such as $amount, found "amount"',
    ),
    (
        "(event {}) (perform echo message {:message (filter ‸5 [1])})",
        "expected a list that begins with one of =, >, <,",
    ),
    ("(event {}) (perform echo message {:message (inc 1 ‸2)})", 'expected the end of "(inc …)", found the number 2'),
    ("(event {})\n(delay\n  10 ‸lightyears)", f'expected {UNITS}, found "lightyears"'),
]

BROKEN = [
    *(("when", *row) for row in WHEN),
    *(("then", *row) for row in THEN),
    *(("code", *row) for row in CODE),
]


def compiled(field: str, text: str) -> object:
    templates = {"TM1": "Hello {{first-name}}", "TM2": "Bye", "TM3": "{{#a}} is never closed"}
    if field == "code":
        return compile_script(text, key=None, templates=templates, name="broken")
    texts = {"when": '(event (= type "a"))', "then": "(send echo message {})", field: text}
    return compile_pattern(**texts, templates=templates, name="broken")


@pytest.mark.parametrize(("field", "marked", "message"), BROKEN)
def test_an_invalid_pattern_is_refused_with_the_position(field: str, marked: str, message: str) -> None:
    before = marked[: marked.index("‸")]
    with pytest.raises(NotationError) as exc:
        compiled(field, marked.replace("‸", ""))
    found = exc.value
    assert found.message.startswith(message)
    assert (found.field, found.line) == (field, before.count("\n") + 1)
    assert found.column == len(before) - (before.rfind("\n") + 1) + 1


def test_there_are_more_than_a_hundred_cases() -> None:
    assert len({(field, text) for field, text, _ in BROKEN}) == len(BROKEN) > 100
