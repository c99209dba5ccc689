"""The steps `set` and `repeat`, `then` and `else` of actions, and the names that templates and expressions can read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.services import workflows
from app.services.context import AppContext
from app.workflows.yaml_loader import InvalidDocument
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run, rows_of, wake

EXACT = '{"big": 12345678901234567890123, "long": 0.1234567890123456789, "price": 19.99}'


def started(context: AppContext, sender: Sender, *steps: object, data: Any = None, **changes: Any) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps), **changes))
    run: str = sender.post(an_event(data=data or {"price": 1999})).get_json()["runs"][0]
    return run


def outputs(context: AppContext, sender: Sender, run: str) -> list[Any]:
    return [row["output"] for row in rows_of(context, "steps", sender.account_id, run)]


def texts(context: AppContext, sender: Sender, run: str) -> list[str]:
    return [output["text"] for output in outputs(context, sender, run) if output and "text" in output]


# set


def test_a_variable_can_be_read_by_later_values_and_steps(context: AppContext, acme: Sender) -> None:
    run = started(
        context,
        acme,
        {"set": {"double": "mul(data.price, 2)", "more": "inc(vars.double)", "fixed": 7, "yes": True}},
        {
            "if": "vars.more == 3999",
            "then": [{"log": "{{ vars.double }} {{ vars.more }} {{ vars.fixed }} {{ vars.yes }}"}],
        },
    )
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert texts(context, acme, run) == ["3998 3999 7 true"]


def test_the_same_document_with_its_values_in_another_order_is_another_version(
    context: AppContext, acme: Sender
) -> None:
    one, other = {"set": {"bb": "1", "a": "2"}}, {"set": {"a": "2", "bb": "1"}}
    changes = [
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[step])).change
        for step in (one, one, other)
    ]
    assert changes == ["created", "unchanged", "changed"]


def test_a_variable_outlives_the_job_that_set_it(context: AppContext, acme: Sender) -> None:
    run = started(
        context,
        acme,
        {"set": {"a": "1", "b": "1"}},
        {"wait": "1h"},
        {"set": {"b": "2"}},
        {"log": "{{ vars.a }}{{ vars.b }}"},
    )
    execute_run(context, acme.account_id, run)
    execute_run(context, acme.account_id, run, job=2)
    assert texts(context, acme, run) == ["12"]


def test_unstorable_characters_of_a_reason_are_replaced(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"set": {"x": 'latest["\\u0000no"]'}}, {"log": "{{ last.text }}"})
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    step = rows_of(context, "steps", acme.account_id, run)[0]
    assert (step["status"], step["output"]) == ("done", {"x": None})
    assert "\ufffdno" in step["error"]


def test_a_value_that_cannot_be_evaluated_is_null_and_the_step_says_why(context: AppContext, acme: Sender) -> None:
    run = started(
        context,
        acme,
        {"id": "s", "set": {"x": "data.nothing", "y": "div(1, data.price - data.price)", "z": "1"}},
        {"log": "[{{ vars.x }}]"},
    )
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    step = rows_of(context, "steps", acme.account_id, run)[0]
    assert step["output"] == {"x": None, "y": None, "z": 1}
    assert step["error"] == "x: data.nothing is missing; y: div: a division by zero"
    assert texts(context, acme, run) == ["[]"]


def test_every_digit_of_a_number_survives_being_set(context: AppContext, acme: Sender) -> None:
    steps = [
        {"set": {"big": "data.big", "more": "add(data.big, 1)", "long": "data.long", "sum": "add(data.price, 0.01)"}},
        {"wait": "1h"},
        {"log": "{{ vars.big }} {{ vars.more }} {{ vars.long }} {{ vars.sum }}"},
    ]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps))
    body = '{"event": "product_view", "distinct_id": "1", "data": ' + EXACT + "}"
    run = acme.post(body).get_json()["runs"][0]
    execute_run(context, acme.account_id, run)
    execute_run(context, acme.account_id, run, job=2)
    assert texts(context, acme, run) == ["12345678901234567890123 12345678901234567890124 0.1234567890123456789 20.00"]


def test_variables_are_limited(context: AppContext, acme: Sender) -> None:
    double = {"repeat": [{"set": {"x": "vars.x + vars.x"}}], "until": "false", "most": 40}
    run = started(context, acme, {"set": {"x": "'0123456789'"}}, double)
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    errors = [row["error"] for row in rows_of(context, "steps", acme.account_id, run) if row["error"]]
    assert errors[0] == "x: the value is larger than 65536 bytes"


# Names


def test_latest_has_the_latest_value_of_each_field(context: AppContext, acme: Sender) -> None:
    run_on = {"seq": ["a", "b"]}
    steps = [{"set": {"sum": "sum(values(matched, 'n'))"}}, {"log": "{{ latest.x }}{{ latest.y }} {{ vars.sum }}"}]
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=run_on, steps=steps))
    acme.post(an_event(event="a", data={"x": 1, "y": 1, "n": 0.1}))
    run = acme.post(an_event(event="b", data={"y": 2, "n": 0.2})).get_json()["runs"][0]
    execute_run(context, acme.account_id, run)
    assert texts(context, acme, run) == ["12 0.3"]


@pytest.mark.parametrize("waits", [False, True])
def test_last_is_the_result_of_the_last_action(context: AppContext, acme: Sender, waits: bool) -> None:
    wait = [{"wait": "1h"}] if waits else []
    with an_http_target(Answer(body=b'{"ticket": "T-17"}'), Answer(body=b"plain"), Answer(404)) as server:
        call = {"http": {"url": server.url}}
        run = started(
            context,
            acme,
            {"if": "has(last.ticket)", "then": [{"log": "too early"}]},
            call,
            *wait,
            {"set": {"ticket": "last.ticket"}},
            call,
            {"set": {"body": "last.body"}},
            {**call, "else": [*wait, {"set": {"error": "last.error"}}]},
            {"log": "{{ vars.ticket }} {{ vars.body }} {{ vars.error }}"},
        )
        jobs = (1, 2, 3) if waits else (1,)
        for job in jobs:
            execute_run(context, acme.account_id, run, job=job)
    assert texts(context, acme, run) == ["T-17 plain answered 404"]


# then and else of actions


def test_after_a_successful_action_the_run_continues_in_then(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"log": "a", "then": [{"log": "b"}], "else": [{"log": "c"}]}, {"log": "d"})
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert texts(context, acme, run) == ["a", "b", "d"]


def test_after_a_failed_action_the_run_continues_in_else(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(500)) as server:
        call = {"id": "call", "http": {"url": server.url}, "retry": {"attempts": 2, "first": "1s"}}
        run = started(
            context,
            acme,
            {**call, "then": [{"log": "no"}], "else": [{"log": "{{ steps.call.error }}"}, {"wait": "1h"}]},
            {"log": "{{ steps.call.error }} {{ last.text }}"},
        )
        execute_run(context, acme.account_id, run)
        assert execute_run(context, acme.account_id, run, job=2)["status"] == "running"
        after = execute_run(context, acme.account_id, run, job=3)
    assert (after["status"], after["error"]) == ("done", None)
    assert texts(context, acme, run) == ["answered 500", "answered 500 answered 500"]
    rows = rows_of(context, "steps", acme.account_id, run)
    assert (rows[0]["status"], rows[0]["error"]) == ("failed", "answered 500")
    assert [row["outcome"] for row in rows_of(context, "attempts", acme.account_id, run)][:2] == ["retry", "failed"]


def test_an_empty_else_prevents_the_run_from_failing(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        run = started(context, acme, {"http": {"url": server.url}, "else": []}, {"log": "on"})
        assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert texts(context, acme, run) == ["on"]


# repeat


def test_a_repeat_ends_when_its_condition_is_true(context: AppContext, acme: Sender) -> None:
    run = started(
        context,
        acme,
        {"set": {"n": "0"}},
        {"id": "loop", "repeat": [{"set": {"n": "vars.n + 1"}}, {"log": "{{ vars.n }}"}], "until": "vars.n >= 3"},
        {"log": "over after {{ steps.loop.rounds }}"},
    )
    after = execute_run(context, acme.account_id, run)
    assert (after["status"], after["rounds"]) == ("done", 0)
    assert texts(context, acme, run) == ["1", "2", "3", "over after 3"]
    last = [row for row in rows_of(context, "steps", acme.account_id, run) if row["action"] == "repeat"][-1]
    assert last["output"] == {"rounds": 3, "ended": "until"}


def test_a_repeat_whose_condition_is_true_at_the_start_has_no_round(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"repeat": [{"log": "never"}], "until": "true"}, {"log": "on"})
    execute_run(context, acme.account_id, run)
    assert texts(context, acme, run) == ["on"]


def test_a_repeat_ends_after_its_maximum_of_rounds_and_says_so(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"repeat": [{"log": "x"}], "until": "vars.n > 1", "most": 3}, {"set": {"n": "1"}})
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    last = [row for row in rows_of(context, "steps", acme.account_id, run) if row["action"] == "repeat"][-1]
    assert last["output"] == {"rounds": 3, "ended": "most", "why": "vars.n is missing"}


def test_each_round_has_its_own_rows_and_idempotency_keys(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        body = [{"http": {"url": server.url}}, {"wait": "1h"}]
        run = started(context, acme, {"repeat": body, "until": "false", "most": 3}, {"log": "on"})
        for job in (1, 2, 3, 4):
            after = execute_run(context, acme.account_id, run, job=job)
    assert after["status"] == "done"
    keys = [call.headers["Idempotency-Key"] for call in server.calls]
    assert keys == [f"{run}-1", f"{run}-4", f"{run}-7"]
    ordinals = [row["ordinal"] for row in rows_of(context, "steps", acme.account_id, run)]
    assert ordinals == list(range(len(ordinals)))


def test_one_event_ends_one_round_of_waiting(context: AppContext, acme: Sender) -> None:
    reply = {"id": "reply", "wait_for": "reply", "timeout": "1h"}
    run = started(context, acme, {"repeat": [reply, {"log": "{{ steps.reply.data.n }}"}], "until": "false", "most": 2})
    execute_run(context, acme.account_id, run)
    for number, job in ((1, 3), (2, 5)):
        wake(context, acme.account_id, acme.post(an_event(event="reply", data={"n": number})).get_json()["id"])
        after = execute_run(context, acme.account_id, run, job=job)
    assert after["status"] == "done"
    assert texts(context, acme, run) == ["1", "2"]


# Validation

LOG = {"log": "x"}


@pytest.mark.parametrize(
    ("steps", "path", "message"),
    [
        ([{"set": {}}], "steps[0].set", "must be an object"),
        ([{"set": ["x"]}], "steps[0].set", "must be an object"),
        ([{"set": {"1x": "1"}}], "steps[0].set.1x", "must be up to 63"),
        ([{"set": {"x": "1 +"}}], "steps[0].set.x", "unexpected end"),
        ([{"set": {"x": "nope"}}], "steps[0].set.x", "nope is not known"),
        ([{"set": {"x": "frob(1)"}}], "steps[0].set.x", "the function frob is not known"),
        ([{"set": {"x": None}}], "steps[0].set.x", "CEL expression"),
        ([{"set": {"x": "1"}}, {"log": "{{ vars.y }}"}], "steps[1].log", "vars.y is not known"),
        ([{"if": "vars.y > 1", "then": []}], "steps[0].if", "vars.y is not known"),
        ([{"par": [[LOG]]}], "steps[0].par", "2 to 20"),
        ([{"par": [[LOG]] * 21}], "steps[0].par", "2 to 20"),
        ([{"par": "x"}], "steps[0].par", "2 to 20"),
        ([{"par": [[LOG], LOG]}], "steps[0].par[1]", "must be a list of steps"),
        ([{"par": [[LOG], [{"wait": "x"}]]}], "steps[0].par[1][0].wait", "not a duration"),
        ([{"par": [[LOG], [LOG]], "then": []}], "steps[0].then", "is unknown"),
        ([{"repeat": [LOG]}], "steps[0]", "needs until"),
        ([{"repeat": [], "until": "true"}], "steps[0].repeat", "is empty"),
        ([{"repeat": "x", "until": "true"}], "steps[0].repeat", "must be a list of steps"),
        ([{"repeat": [LOG], "until": "nope"}], "steps[0].until", "nope is not known"),
        ([{"repeat": [LOG], "until": "true", "most": 0}], "steps[0].most", "from 1 to 1000"),
        ([{"repeat": [LOG], "until": "true", "most": 1001}], "steps[0].most", "from 1 to 1000"),
        ([{"repeat": [LOG], "until": "true", "most": True}], "steps[0].most", "from 1 to 1000"),
        (
            [{"repeat": [{"par": [[LOG], [{"repeat": [LOG], "until": "true"}]]}], "until": "true"}],
            "steps[0].repeat[0].par[1][0].repeat",
            "is inside of another repeat",
        ),
        ([{"repeat": [LOG] * 30, "until": "true", "most": 1000}], "steps", "may enter 30001 steps"),
        ([{"log": "x", "else": {}}], "steps[0].else", "must be a list of steps"),
        ([{"log": "x", "until": "true"}], "steps[0].until", "is unknown"),
    ],
)
def test_an_error_in_a_step_has_its_path(steps: list[Any], path: str, message: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        workflows.checked_document(a_workflow(steps=steps))
    (mistake,) = caught.value.mistakes
    assert mistake.path == path
    assert message in mistake.message
    assert mistake.line == 1


def test_the_condition_of_a_repeat_may_read_its_steps(context: AppContext) -> None:
    steps = [{"repeat": [{"id": "ask", "log": "x"}], "until": "steps.ask.text == 'x'"}]
    assert json.loads(json.dumps(workflows.checked_document(a_workflow(steps=steps)).value))["steps"] == steps


# Conditions and values that cannot be evaluated


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ({"if": "data.nothing > 1", "then": []}, "steps[0].if: data.nothing is missing"),
        ({"if": "data.price", "then": []}, "steps[0].if: the filter gives a number, not true or false"),
        ({"set": {"a": "1", "b": "data.nothing"}}, "steps[0].set.b: data.nothing is missing"),
        ({"set": {"a": "div(1, data.price - data.price)"}}, "steps[0].set.a: div: a division by zero"),
        ({"repeat": [{"log": "x"}], "until": "vars.n > 1"}, "steps[0].until: vars.n is missing"),
    ],
)
@pytest.mark.parametrize("is_document", [True, False])
def test_a_strict_step_that_cannot_be_evaluated_fails_the_run_with_its_path(
    context: AppContext, acme: Sender, step: dict[str, Any], error: str, is_document: bool
) -> None:
    sets_n = {"if": "false", "strict": False, "then": [{"set": {"n": "1"}}]}
    first, changes = (step, {"strict": True}) if is_document else ({**step, "strict": True}, {})
    run = started(context, acme, first, sets_n, **changes)
    row = execute_run(context, acme.account_id, run)
    assert (row["status"], row["error"]) == ("failed", error)
    last = rows_of(context, "steps", acme.account_id, run)[-1]
    assert (last["status"], last["error"]) == ("failed", error)


def test_a_strict_condition_of_a_repeat_may_read_what_its_rounds_do(context: AppContext, acme: Sender) -> None:
    loop = {"repeat": [{"set": {"n": "1"}}, {"log": "x"}], "until": "vars.n == 1"}
    run = started(context, acme, loop, strict=True)
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert texts(context, acme, run) == ["x"]


def test_a_step_of_a_strict_document_may_be_not_strict(context: AppContext, acme: Sender) -> None:
    run = started(
        context, acme, {"if": "data.nothing", "strict": False, "then": [], "else": [{"log": "no"}]}, strict=True
    )
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    assert texts(context, acme, run) == ["no"]


def test_the_reason_of_a_condition_is_in_the_row_of_its_step(context: AppContext, acme: Sender) -> None:
    loop = {"repeat": [{"set": {"n": "1"}}], "until": "vars.n == 1"}
    run = started(context, acme, {"if": "data.nothing > 1", "then": [{"log": "yes"}]}, loop)
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    found = rows_of(context, "steps", acme.account_id, run)
    assert [(row["action"], row["error"]) for row in found] == [
        ("if", "data.nothing is missing"),
        ("repeat", "vars.n is missing"),
        ("set", None),
        ("repeat", None),
    ]


def test_unstorable_characters_of_an_error_are_replaced(context: AppContext, acme: Sender) -> None:
    run = started(context, acme, {"if": 'data["\\u0000no"] == 1', "then": []}, strict=True)
    row = execute_run(context, acme.account_id, run)
    assert (row["status"], row["error"]) == ("failed", "steps[0].if: \ufffdno is missing")


# Time


@pytest.mark.parametrize(
    "condition",
    [
        "received_at.getHours() == timestamp(string(received_at)).getHours()",
        "now - received_at < duration('1h') && now > timestamp('2026-01-01T00:00:00Z')",
        "matched[0].received_at == received_at",
        "received_at.getFullYear('Asia/Kolkata') >= 2024",
    ],
)
def test_times_are_timestamps_in_conditions(context: AppContext, acme: Sender, condition: str) -> None:
    run = started(context, acme, {"if": condition, "then": [{"log": "yes"}]})
    execute_run(context, acme.account_id, run)
    assert rows_of(context, "steps", acme.account_id, run)[0]["output"] == {"taken": "then"}


@pytest.mark.parametrize("sent", ["2024-03-05T15:30:00+05:30", None])
def test_the_steps_of_a_run_read_when_its_event_happened(context: AppContext, acme: Sender, sent: str | None) -> None:
    steps = [
        {"set": {"at": "occurred_at", "is_known": "occurred_at != null && matched[0].occurred_at == occurred_at"}},
        {
            "log": "{{ occurred_at | default: 'unknown' }} {{ matched[0].occurred_at }} {{ vars.at }} {{ vars.is_known }}"
        },
    ]
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=steps, strict=True))
    run: str = acme.post(an_event(occurred_at=sent)).get_json()["runs"][0]
    execute_run(context, acme.account_id, run)
    time = "2024-03-05T10:00:00.000000Z"
    assert texts(context, acme, run) == [f"{time} {time} {time} true" if sent else "unknown   false"]


def test_times_print_as_text_in_utc(context: AppContext, acme: Sender) -> None:
    run = started(
        context,
        acme,
        {"set": {"at": "received_at", "hour": "received_at.getHours('+05:30')"}},
        {"log": "{{ received_at }} {{ vars.at }} {{ matched[0].received_at }}"},
    )
    execute_run(context, acme.account_id, run)
    first, *others = texts(context, acme, run)[0].split()
    assert len(first) == len("2026-11-22T03:37:29.056370Z")
    assert others == [first, first]
