"""`signalbox workflow try`: decisions, steps with rendered requests, waits left out, and nothing sent."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from app.actions import ACTIONS
from app.actions.integration_kinds import KINDS
from app.core.models import Event
from app.db import event_queries, runs
from app.services import inspection, integrations, secrets, workflow_trial, workflows
from app.services.context import AppContext
from app.services.run_trial import MAX_STEPS, TrialContext, TriedRun
from app.services.workflow_trial import MAX_OWN, Trial, read_events
from app.workflows.validate import find_mistakes
from app.workflows.workflow_template_files import workflow_templates
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run, rows_of


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def _events(context: AppContext, *values: dict[str, Any]) -> list[Event]:
    lines = [{"event": "a", "distinct_id": "1", **value} for value in values]
    return read_events("\n".join(map(json.dumps, lines)), context.clock())


def _try(context: AppContext, *values: dict[str, Any], answers: dict[str, Any] | None = None, **document: Any) -> Trial:
    source = a_workflow(**{"on": "a", **document})
    return workflow_trial.try_file(context, source, _events(context, *values), answers or {})


def _run(trial: Trial) -> TriedRun:
    (run,) = [tried.run for tried in trial.events if tried.run is not None]
    return run


def _texts(trial: Trial) -> list[str]:
    return [step.request["text"] for step in _run(trial).steps if step.verb == "log" and step.request]


AT = ["2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z", "2026-11-22T12:00:00Z", "2026-11-25T12:00:00Z"]


def test_a_wait_is_left_out_with_its_time(context: AppContext) -> None:
    run = _run(_try(context, {"received_at": AT[0]}, steps=[{"wait": "2h"}, {"log": "{{ now }}"}]))
    assert [str(step.until) for step in run.steps] == ["2026-11-22 12:00:00+00:00", "None"]
    assert run.steps[1].request == {"text": "2026-11-22T12:00:00.000000Z"}
    assert (run.status, str(run.ended_at)) == ("done", "2026-11-22 12:00:00+00:00")


def test_a_request_is_rendered_with_exact_numbers(context: AppContext) -> None:
    step = {"http": {"url": "https://example.com/{{ data.n }}", "json": {"n": "{{ data.n }}"}}}
    trial = workflow_trial.try_file(
        context,
        a_workflow(on="a", steps=[step]),
        read_events('{"event": "a", "distinct_id": "1", "data": {"n": 12345678901234567890.10}}', context.clock()),
        {},
    )
    request = _run(trial).steps[0].request
    assert request is not None
    assert request["url"] == "https://example.com/12345678901234567890.10"
    assert request["body"] == '{"n":12345678901234567890.10}'


def test_an_answer_is_what_later_steps_read(context: AppContext) -> None:
    steps = [
        {"id": "ask", "http": {"url": "https://example.com"}},
        {"log": "{{ steps.ask.status }} {{ steps.ask.body.name }}"},
    ]
    assert _texts(_try(context, {}, steps=steps)) == ["200 "]
    assert _texts(_try(context, {}, steps=steps, answers={"ask": {"body": {"name": "Anna"}}})) == ["200 Anna"]


def test_a_bad_answer_takes_the_else_of_a_step(context: AppContext) -> None:
    step = {"id": "ask", "http": {"url": "https://example.com"}, "else": [{"log": "{{ steps.ask.error }}"}]}
    trial = _try(context, {}, steps=[step], answers={"ask": {"status": 404}})
    assert _texts(trial) == ["the answer has the status 404"]


def test_a_list_of_answers_is_used_one_after_the_other(context: AppContext) -> None:
    call = {"id": "ask", "http": {"url": "https://example.com"}}
    steps = [{"repeat": [call, {"wait": "1h"}], "until": "steps.ask.body.paid", "most": 5}]
    answers = {"ask": [{"body": {"paid": False}}, {"body": {"paid": True}}]}
    run = _run(_try(context, {}, steps=steps, answers=answers))
    assert [step.verb for step in run.steps].count("http") == 2
    assert run.status == "done"


def test_a_condition_shows_the_values_that_decided_it(context: AppContext) -> None:
    steps = [{"if": "data.n > 1", "then": [{"log": "many"}], "else": [{"log": "few"}]}]
    trial = _try(context, {"data": {"n": 5}}, steps=steps)
    assert _run(trial).steps[0].values == {"data.n": 5}
    assert _texts(trial) == ["many"]


def test_a_later_event_ends_a_wait_for(context: AppContext) -> None:
    steps = [{"wait_for": "b", "timeout": "1d", "then": [{"log": "came"}], "else": [{"log": "late"}]}]
    events = [{"received_at": AT[0]}, {"event": "b", "received_at": AT[1]}]
    assert _texts(_try(context, *events, steps=steps)) == ["came"]
    assert _texts(_try(context, events[0], {**events[1], "received_at": AT[3]}, steps=steps)) == ["late"]
    assert _texts(_try(context, events[0], {**events[1], "distinct_id": "2"}, steps=steps)) == ["late"]


def test_a_later_event_ends_a_run_by_exit_on(context: AppContext) -> None:
    events = [{"received_at": AT[0]}, {"event": "b", "received_at": AT[1]}]
    run = _run(_try(context, *events, exit_on="b", steps=[{"wait": "2h"}, {"log": "too late"}]))
    assert (run.status, [step.verb for step in run.steps]) == ("exited", ["wait"])
    assert str(run.ended_at) == "2026-11-22 11:00:00+00:00"


def test_blocks_in_parallel_begin_at_the_same_time(context: AppContext) -> None:
    blocks = [[{"wait": "1h"}, {"id": "one", "log": "one {{ now }}"}], [{"id": "two", "log": "two {{ now }}"}]]
    steps = [{"par": blocks}, {"log": "{{ steps.one.text }} {{ steps.two.text }} {{ now }}"}]
    texts = _texts(_try(context, {"received_at": AT[0]}, steps=steps))
    assert texts == [
        "one 2026-11-22T11:00:00.000000Z",
        "two 2026-11-22T10:00:00.000000Z",
        "one 2026-11-22T11:00:00.000000Z two 2026-11-22T10:00:00.000000Z 2026-11-22T11:00:00.000000Z",
    ]


def test_a_failing_text_fails_the_run_with_its_reason(context: AppContext) -> None:
    run = _run(_try(context, {}, strict=True, steps=[{"log": "{{ data.nothing }}"}, {"log": "never"}]))
    assert run.status == "failed"
    assert "data.nothing" in str(run.error)
    assert len(run.steps) == 1


def test_an_event_that_starts_nothing_has_a_reason(context: AppContext) -> None:
    (tried,) = _try(context, {"data": {"n": 1}}, on={"event": "a", "where": "data.n > 1"}).events
    assert (tried.started, tried.reason, tried.run) == (False, "the filter is false", None)


def test_a_deadline_starts_a_run_on_the_events_of_its_match(context: AppContext) -> None:
    on = {"seq": ["a", {"none": "b", "for": "30m"}]}
    trial = _try(context, {"received_at": AT[0]}, on=on, steps=[{"log": "{{ matched[0].event }} {{ now }}"}])
    assert _texts(trial) == ["a 2026-11-22T10:30:00.000000Z"]


def test_a_long_run_is_cut(context: AppContext) -> None:
    steps = [{"repeat": [{"log": "x"}], "until": "false", "most": 1000}]
    run = _run(_try(context, {}, steps=steps))
    assert run.status == "cut"
    assert len(run.steps) <= MAX_STEPS


def test_a_trial_without_time_says_that_it_is_cut(context: AppContext, acme: Sender) -> None:
    trial = workflow_trial.try_own(context, acme.account_id, a_workflow(on="a"), _events(context, {}), seconds=0)
    assert (trial.is_cut, trial.events) == (True, [])


def test_a_trial_takes_the_steps_that_a_worker_takes(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(200, b'{"paid": true}')) as target:
        call = {"id": "ask", "http": {"url": target.url}}
        steps = [
            {"set": {"total": "data.n * 2", "bad": "data.missing"}},
            {
                "if": "vars.total > 5",
                "then": [{"id": "many", "log": "many {{ vars.total }}"}],
                "else": [{"log": "few"}],
            },
            {"repeat": [call], "until": "steps.ask.body.paid", "most": 3},
            {"if": "data.missing", "then": [{"log": "never"}]},
            {"http": {"url": "{{ data.missing }}"}, "else": [{"log": "{{ last.error }} {{ steps.many.text }}"}]},
            {"message": {"text": "{{ vars.total }}", "data": {"n": "{{ data.n }}"}}},
        ]
        workflows.apply_workflow(context, acme.account_id, a_workflow(name="same", on="parity", steps=steps))
        sent = acme.post(an_event(event="parity", data={"n": 5})).get_json()
        execute_run(context, acme.account_id, sent["runs"][0])
    answers = {"ask": {"body": {"paid": True}}}
    trial = workflow_trial.try_stored(
        context, acme.account_id, a_workflow(name="same", on="parity", steps=steps), UUID(sent["id"]), answers
    )
    lived = rows_of(context, "steps", acme.account_id, sent["runs"][0])
    tried = _run(trial)
    assert [(step.path, step.verb, step.status) for step in tried.steps] == [
        (row["path"], row["action"], row["status"]) for row in lived
    ]
    compared = [number for number, row in enumerate(lived) if row["action"] not in ("http", "message")]
    assert [tried.steps[number].output for number in compared] == [lived[number]["output"] for number in compared]
    assert [step.error for step in tried.steps] == [row["error"] for row in lived]


def test_every_action_has_a_preview(context: AppContext) -> None:
    steps = [
        {"http": {"url": "https://example.com"}},
        {"whatsapp": {"to": "{{ phone }}", "template": "t", "language": "en"}},
        {"sms": {"to": "{{ phone }}", "text": "hello"}},
        {"call": {"to": "{{ phone }}", "say": "hello"}},
        {"email": {"to": "a@example.com", "subject": "s", "text": "plain", "html": "<p>rich</p>"}},
        {"sendgrid": {"to": "a@example.com", "subject": "s", "text": "plain"}},
        {"message": {"text": "hello", "data": {"n": "{{ data.n }}"}}},
        {"log": "hello"},
    ]
    run = _run(_try(context, {"phone": "+915673412780", "data": {"n": 1}}, steps=steps))
    assert run.status == "done", run.error
    assert [step.status for step in run.steps] == ["done"] * 8
    assert all(step.request for step in run.steps)
    assert run.steps[4].request is not None
    assert run.steps[4].request["html"] == "<p>rich</p>\n"


def test_nothing_is_sent_logged_or_stored(
    context: AppContext, acme: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    with an_http_target(Answer(200, b"{}")) as target:
        source = a_workflow(on="a", steps=[{"http": {"url": target.url}}, {"log": "loud"}, {"message": {"text": "m"}}])
        trial = workflow_trial.try_own(context, acme.account_id, source, _events(context, {}))
    assert _run(trial).status == "done"
    assert target.calls == []
    assert "loud" not in capsys.readouterr().out


def test_secrets_of_the_account_are_masked_everywhere(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP_KEY", "very-secret-value-17")
    step = {
        "http": {
            "url": "https://example.com/{{ secrets.SHOP_KEY }}/x?k={{ secrets.SHOP_KEY }}",
            "headers": {"Authorization": "Bearer {{ secrets.SHOP_KEY }}"},
            "json": {"a": "{{ secrets.SHOP_KEY }}", "b": "{{ secrets.SHOP_KEY | upcase }}"},
        }
    }
    trial = workflow_trial.try_own(context, acme.account_id, a_workflow(on="a", steps=[step]), _events(context, {}))
    shown = repr(_run(trial))
    assert "very-secret" not in shown.lower()
    assert "https://example.com/***/x" in shown
    assert trial.missing == []


def test_no_text_prints_a_part_of_a_secret_or_its_length(context: AppContext, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "PAY", "abcdef-very-secret-value")
    texts = {"a": "{{ secrets.PAY | slice: 0, 3 }}", "b": "{{ secrets.PAY | size }}", "c": "{{ secrets.PAY | upcase }}"}
    source = a_workflow(on="a", steps=[{"http": {"url": "https://example.com", "json": texts}}])
    shown = [
        repr(_run(trial))
        for trial in (
            workflow_trial.try_own(context, acme.account_id, source, _events(context, {})),
            workflow_trial.try_file(context, source, _events(context, {}), {}),
        )
    ]
    assert "abc" not in shown[0].lower()
    assert [json.loads(text.split("'body': '")[1].split("'")[0]) for text in shown] == [
        {"a": "pla", "b": len("placeholder-for-PAY"), "c": "***"}
    ] * 2


def test_what_the_account_lacks_is_said(context: AppContext, acme: Sender) -> None:
    step = {"http": {"url": "{{ secrets.WHOLE_URL }}"}, "else": []}
    steps = [step, {"sms": {"to": "+915673412780", "text": "x"}}]
    source = a_workflow(on="a", steps=steps)
    trial = workflow_trial.try_own(context, acme.account_id, source, _events(context, {}))
    assert trial.missing == ["the secret WHOLE_URL", "the twilio integration"]
    assert _run(trial).status == "done"


def test_the_integration_of_the_account_is_used(context: AppContext, acme: Sender) -> None:
    fields = {"account_sid": f"AC{1:032d}", "auth_token": "token-of-twilio", "from": "+14155550100"}
    integrations.set_integration(context, acme.account_id, KINDS["twilio"], fields)
    source = a_workflow(on="a", steps=[{"sms": {"to": "+915673412780", "text": "x"}}])
    trial = workflow_trial.try_own(context, acme.account_id, source, _events(context, {}))
    assert "14155550100" in repr(_run(trial))
    assert "token-of-twilio" not in repr(_run(trial))


def test_secret_fields_of_an_integration_are_placeholders(context: AppContext, acme: Sender) -> None:
    fields = {"access_token": "token-of-meta", "phone_number_id": "12345"}
    integrations.set_integration(context, acme.account_id, KINDS["whatsapp"], fields)
    config = integrations.find_outbound_config(context, acme.account_id)
    found = TrialContext(context.settings, partial(integrations.open_integration, context, config)).find_integration(
        "whatsapp"
    )
    assert found == {"access_token": "placeholder-credential", "phone_number_id": "12345"}


def test_a_stored_event_is_tried_with_those_around_it(context: AppContext, acme: Sender) -> None:
    ids = [acme.post(an_event(event=name)).get_json()["id"] for name in ("view", "view", "order")]
    steps = [{"wait_for": "order", "timeout": "1h", "then": [{"log": "sold"}]}]
    source = a_workflow(on={"times": 2, "of": "view"}, steps=steps)
    trial = workflow_trial.try_stored(context, acme.account_id, source, UUID(ids[1]))
    assert (trial.earlier, [tried.started for tried in trial.events]) == (1, [True])
    assert _texts(trial) == ["sold"]
    details = inspection.find_event_details(context, acme.account_id, UUID(ids[1]))
    assert details is not None
    assert list(details.runs) == []


def test_the_nearest_events_are_read_up_to_a_size(context: AppContext, acme: Sender) -> None:
    ids = [acme.post(an_event(event="near", data={"n": number})).get_json()["id"] for number in range(5)]
    event = runs.find_event(context.database, acme.account_id, UUID(ids[2]))
    assert event is not None
    with context.database.transaction() as connection:

        def near(**options: Any) -> list[str]:
            values = {"limit": 10, "max_bytes": 1000, "are_later": False, **options}
            found = event_queries.find_events_of_subject_near(connection, event, ["near"], **values)
            return [str(one.id) for one in found]

        assert (near(), near(are_later=True)) == (ids[:2], ids[3:])
        assert (near(limit=1), near(limit=1, are_later=True)) == (ids[1:2], ids[3:4])
        assert near(max_bytes=len('{"n": 1}')) == ids[1:2]


def test_the_latest_event_of_a_name_is_found(context: AppContext, acme: Sender) -> None:
    ids = [acme.post(an_event()).get_json()["id"] for _ in range(2)]
    assert workflow_trial.find_latest_event(context, acme.account_id, "product_view") == UUID(ids[1])


def test_the_events_of_another_account_are_not_found(
    runner: FlaskCliRunner, acme: Sender, globex: Sender, tmp_path: Path
) -> None:
    file = tmp_path / "w.json"
    file.write_text(a_workflow())
    event = globex.post(an_event()).get_json()["id"]
    for wanted in (["--event", event], ["--event", str(uuid4())], ["--latest", "product_view"]):
        result = runner.invoke(args=["workflow", "try", str(file), *wanted, "--account", acme.slug])
        assert result.exit_code == 1
        assert "Traceback" not in result.output


def test_the_command_prints_decisions_and_steps(runner: FlaskCliRunner, tmp_path: Path) -> None:
    file, lines, answers = tmp_path / "w.json", tmp_path / "e.ndjson", tmp_path / "a.json"
    file.write_text(
        a_workflow(on="a", steps=[{"id": "ask", "http": {"url": "https://example.com"}}, {"log": "{{ last.n }}"}])
    )
    lines.write_text('{"event": "a", "distinct_id": "1"}\n{"event": "b", "distinct_id": "\u202eevil"}\n')
    answers.write_text('{"ask": {"body": {"n": 17}}}')
    result = runner.invoke(args=["workflow", "try", str(file), str(lines), "--answers", str(answers)])
    assert result.exit_code == 0, result.output
    assert "a of 1: starts a run (matched)" in result.output
    assert "POST: https://example.com" in result.output
    assert "text: 17" in result.output
    assert "the run is done" in result.output
    assert "b of \\u202eevil: starts nothing" in result.output
    as_json = runner.invoke(args=["workflow", "try", str(file), str(lines), "--json"]).output
    assert [step["verb"] for step in json.loads(as_json)["events"][0]["run"]["steps"]] == ["http", "log"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, not JSON"),
        ('{"event": "a"}\n{"event": }', "line 2: not JSON"),
        ("[]", f"expected 1 to {MAX_OWN} events, not 0"),
        ("[1]", "an event is an object such as"),
        ('{"event": "a", "data": [1]}', "data must be an object"),
        ('{"event": "a", "received_at": "soon"}', "it must be a timestamp"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["cut", "line", "none", "number", "data", "time", "deep"],
)
def test_unreadable_events_are_explained(runner: FlaskCliRunner, tmp_path: Path, text: str, message: str) -> None:
    file, lines = tmp_path / "w.json", tmp_path / "e.ndjson"
    file.write_text(a_workflow())
    lines.write_text(text)
    result = runner.invoke(args=["workflow", "try", str(file), str(lines)])
    assert result.exit_code == 1
    assert message in result.output


def test_unreadable_answers_are_explained(runner: FlaskCliRunner, tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_text(a_workflow())
    result = runner.invoke(args=["workflow", "try", str(file), str(file), "--answers", str(file)])
    assert result.exit_code == 2
    assert "expected an object with status" in result.output


@pytest.mark.parametrize("key", list(workflow_templates()))
def test_a_template_has_no_mistakes_and_runs_on_its_sample(context: AppContext, key: str) -> None:
    template = workflow_templates()[key]
    assert find_mistakes(template.source.encode()) == []
    trial = workflow_trial.try_file(context, template.source, read_events(template.sample, context.clock()), {})
    run = _run(trial)
    assert (trial.workflow, run.status, run.error) == (key, "done", None)
    assert [step.error for step in run.steps if step.error] == []


def test_the_templates_are_those_that_are_promised() -> None:
    keys = ["abandoned-cart", "cod-confirmation", "delivery-delay", "lead-score", "survey", "win-back"]
    assert list(workflow_templates()) == keys
    assert all(one.description.endswith(".") and "\n" not in one.description for one in workflow_templates().values())


def test_each_integration_names_the_steps_that_send_with_it(context: AppContext, acme: Sender) -> None:
    mail = {"to": "a@example.com", "from": "b@example.com", "subject": "x", "text": "x"}
    fields: dict[str, Any] = {
        "http": {"url": "https://example.com"},
        "whatsapp": {"to": "+915673412780", "template": "x", "language": "en"},
        "sms": {"to": "+915673412780", "text": "x"},
        "call": {"to": "+915673412780", "say": "x"},
        "email": mail,
        "sendgrid": mail,
        "message": {"text": "x"},
        "log": "x",
    }
    assert fields.keys() == ACTIONS.keys()
    for verb, value in fields.items():
        source = a_workflow(on="a", steps=[{verb: value}])
        missing = workflow_trial.try_own(context, acme.account_id, source, _events(context, {})).missing
        assert missing == [f"the {kind.name} integration" for kind in KINDS.values() if verb in kind.verbs], verb
