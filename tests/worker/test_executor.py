"""A run is executed from step to step, and its steps and attempts are recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from standardwebhooks import Webhook

from app.db import run_updates, runs
from app.services import accounts, transitions, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run, jobs_of, rows_of, the_run, wake


def _started(context: AppContext, sender: Sender, *steps: object) -> str:
    workflows.apply_workflow(context, sender.account_id, a_workflow(steps=list(steps)))
    run: str = sender.post(an_event(data={"price": 1999, "exact": 0.5})).get_json()["runs"][0]
    return run


def test_a_run_ends_done_when_its_last_step_is_done(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "one"}, {"log": "two"})
    after = execute_run(context, acme.account_id, run)
    assert (after["status"], after["at"], after["ordinal"]) == ("done", None, 2)
    assert [(step["path"], step["status"]) for step in rows_of(context, "steps", acme.account_id, run)] == [
        ("steps[0]", "done"),
        ("steps[1]", "done"),
    ]


def test_an_http_step_posts_the_event_signed_and_with_an_idempotency_key(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        run = _started(context, acme, {"http": {"url": server.url + "/hook"}})
        execute_run(context, acme.account_id, run)
    (call,) = server.calls
    assert (call.method, call.path) == ("POST", "/hook")
    assert call.json["data"] == {"price": 1999, "exact": 0.5}
    assert call.headers["Idempotency-Key"] == f"{run}-0"
    Webhook(accounts.show_signing_secret(context, acme.account_id)).verify(call.body, dict(call.headers))


def test_every_digit_of_data_is_sent(context: AppContext, acme: Sender) -> None:
    exact = '{"big":12345678901234567890123,"long":0.1234567890123456789}'
    with an_http_target() as server:
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"http": {"url": server.url}}]))
        body = '{"event": "product_view", "distinct_id": "1", "data": ' + exact + "}"
        run = acme.post(body).get_json()["runs"][0]
        execute_run(context, acme.account_id, run)
    body = server.calls[0].body.decode()
    assert "12345678901234567890123" in body
    assert "0.1234567890123456789" in body


def test_data_are_sent_as_postgres_writes_them(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"http": {"url": server.url}}]))
        data = '{"name":"\\u00fc",  "b":[1 ,2], "amount":1.50e2, "a":0.10}'
        body = '{"event": "product_view", "distinct_id": "1", "data": ' + data + "}"
        run = acme.post(body).get_json()["runs"][0]
        execute_run(context, acme.account_id, run)
    assert '"data":{"a": 0.10, "b": [1, 2], "name": "ü", "amount": 150}' in server.calls[0].body.decode()


def test_later_steps_can_read_earlier_outputs(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(body=b'{"ticket": "T-17"}')) as server:
        run = _started(
            context,
            acme,
            {"id": "open", "http": {"url": server.url}},
            {"id": "say", "log": "{{ steps.open.body.ticket }}"},
        )
        execute_run(context, acme.account_id, run)
    assert rows_of(context, "steps", acme.account_id, run)[1]["output"] == {"text": "T-17"}


def test_a_secret_that_cannot_be_decrypted_is_a_failed_attempt_that_says_so(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"log": "one"})
    other = replace(context.settings, encryption_keys=(Fernet.generate_key().decode(),))
    after = execute_run(AppContext(other), acme.account_id, run)
    (attempt,) = rows_of(context, "attempts", acme.account_id, run)
    assert (after["status"], after["attempt"]) == ("running", 1)
    assert attempt["error"].startswith("ENCRYPTION_KEY cannot decrypt a stored secret")


def test_a_wait_is_entered_once_and_ends_with_its_job(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "after"})
    waiting = execute_run(context, acme.account_id, run)
    assert (waiting["status"], waiting["at"], waiting["job"]) == ("running", "steps[0]", 2)
    assert timedelta(minutes=59) < waiting["wake_at"] - waiting["created_at"] < timedelta(minutes=61)
    assert jobs_of(context, run)[-1] == f"{acme.account_id}:{run}:2"
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"


def test_an_outdated_job_advances_nothing(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    before = the_run(context, acme.account_id, run)
    assert execute_run(context, acme.account_id, run, job=1) == before


def test_a_transient_failure_is_retried_with_the_same_key(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(503), Answer(200)) as server:
        run = _started(context, acme, {"http": {"url": server.url}, "retry": {"attempts": 3, "first": "10s"}})
        first = execute_run(context, acme.account_id, run)
        assert (first["status"], first["attempt"], first["job"]) == ("running", 1, 2)
        assert timedelta(seconds=4) < first["wake_at"] - first["updated_at"] < timedelta(seconds=11)
        assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"
    assert len({call.headers["Idempotency-Key"] for call in server.calls}) == 1
    attempts = rows_of(context, "attempts", acme.account_id, run)
    assert [(row["attempt"], row["outcome"], row["error_class"]) for row in attempts] == [
        (1, "retry", "http_5xx"),
        (2, "done", None),
    ]


def test_the_target_may_say_when_to_retry(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(429, headers=(("Retry-After", "600"),))) as server:
        run = _started(context, acme, {"http": {"url": server.url}})
        after = execute_run(context, acme.account_id, run)
    assert timedelta(seconds=595) < after["wake_at"] - after["updated_at"] < timedelta(seconds=605)


def test_a_run_fails_visibly_when_its_attempts_are_used_up(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(500)) as server:
        run = _started(context, acme, {"http": {"url": server.url}, "retry": {"attempts": 2, "first": "1s"}})
        execute_run(context, acme.account_id, run)
        after = execute_run(context, acme.account_id, run, job=2)
    assert after["status"] == "failed"
    assert after["error"] == "steps[0] (http): answered 500 after 2 attempts"
    assert rows_of(context, "steps", acme.account_id, run)[0]["status"] == "failed"


def test_a_permanent_failure_fails_the_run_at_once(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(404)) as server:
        run = _started(context, acme, {"http": {"url": server.url}})
        after = execute_run(context, acme.account_id, run)
    assert (after["status"], after["error"]) == ("failed", "steps[0] (http): answered 404")
    assert len(server.calls) == 1


def test_a_recorded_step_is_not_repeated(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        run = _started(context, acme, {"http": {"url": server.url}})
        execute_run(context, acme.account_id, run)
        execute_run(context, acme.account_id, run)
    assert len(server.calls) == 1


def test_a_response_that_jsonb_cannot_store_completes_the_step(context: AppContext, acme: Sender) -> None:
    with an_http_target(Answer(body=b'{"a": "\\u0000", "n": 1e999999, "s": "\\ud800"}')) as server:
        run = _started(context, acme, {"id": "odd", "http": {"url": server.url}})
        assert execute_run(context, acme.account_id, run)["status"] == "done"


def test_a_run_keeps_the_version_that_started_it(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"id": "say", "log": "old"})
    execute_run(context, acme.account_id, run)
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"wait": "1h"}, {"id": "say", "log": "new"}]))
    execute_run(context, acme.account_id, run, job=2)
    assert rows_of(context, "steps", acme.account_id, run)[1]["output"] == {"text": "old"}


def test_a_disabled_workflow_starts_nothing_and_its_runs_continue(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait": "1h"}, {"log": "after"})
    execute_run(context, acme.account_id, run)
    workflows.disable_workflow(context, acme.account_id, "watch")
    assert acme.post(an_event()).get_json()["runs"] == []
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"


def test_secrets_in_requests_are_not_stored(context: AppContext, acme: Sender) -> None:
    with an_http_target() as server:
        url = server.url + "/?api_key=hush"
        run = _started(context, acme, {"http": {"url": url, "headers": {"Authorization": "Bearer hush"}}})
        execute_run(context, acme.account_id, run)
    assert "hush" not in json.dumps(rows_of(context, "attempts", acme.account_id, run)[0]["request"])


def test_an_if_takes_the_branch_that_its_condition_says(context: AppContext, acme: Sender) -> None:
    run = _started(
        context,
        acme,
        {"if": "data.price > 1000", "then": [{"id": "rich", "log": "rich"}], "else": [{"log": "poor"}]},
        {"if": "data.price > 5000", "then": [{"log": "very rich"}]},
        {"log": "after"},
    )
    assert execute_run(context, acme.account_id, run)["status"] == "done"
    paths = [step["path"] for step in rows_of(context, "steps", acme.account_id, run)]
    assert paths == ["steps[0]", "steps[0].then[0]", "steps[1]", "steps[2]"]


def test_a_condition_that_cannot_be_evaluated_is_false_and_says_why(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"if": "data.nothing > 1", "then": [{"log": "yes"}]})
    execute_run(context, acme.account_id, run)
    output = rows_of(context, "steps", acme.account_id, run)[0]["output"]
    assert output == {"taken": "else", "why": "data.nothing is missing"}


def test_a_condition_can_read_earlier_outputs(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"id": "say", "log": "x"}, {"if": "steps.say.text == 'x'", "then": [{"log": "yes"}]})
    execute_run(context, acme.account_id, run)
    assert rows_of(context, "steps", acme.account_id, run)[-1]["path"] == "steps[1].then[0]"


WAIT_FOR = {
    "id": "order",
    "wait_for": {"event": "order_placed", "where": "data.total > 10"},
    "timeout": "1h",
    "then": [{"log": "sold {{ steps.order.data.total }}"}],
    "else": [{"log": "not sold"}],
}


def test_an_awaited_event_advances_the_run(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, WAIT_FOR)
    assert execute_run(context, acme.account_id, run)["at"] == "steps[0]"
    for total in (5, 17):
        event = acme.post(an_event(event="order_placed", data={"total": total})).get_json()
        wake(context, acme.account_id, event["id"])
    after = execute_run(context, acme.account_id, run, job=3)
    assert after["status"] == "done"
    assert rows_of(context, "steps", acme.account_id, run)[1]["output"] == {"text": "sold 17"}


@pytest.mark.parametrize(
    ("sent", "printed"), [("2024-03-05T15:30:00+05:30", "2024-03-05T10:00:00.000000Z"), (None, "")]
)
def test_steps_read_when_an_awaited_event_happened(
    context: AppContext, acme: Sender, sent: str | None, printed: str
) -> None:
    steps = {
        "id": "order",
        "wait_for": "order_placed",
        "timeout": "1h",
        "then": [{"log": "{{ steps.order.occurred_at }}"}],
    }
    run = _started(context, acme, steps)
    execute_run(context, acme.account_id, run)
    event = acme.post(an_event(event="order_placed", occurred_at=sent)).get_json()
    wake(context, acme.account_id, event["id"])
    execute_run(context, acme.account_id, run, job=3)
    assert rows_of(context, "steps", acme.account_id, run)[1]["output"] == {"text": printed}


def test_an_awaited_event_enqueues_a_job_and_others_do_not(context: AppContext, acme: Sender) -> None:
    _started(context, acme, WAIT_FOR)
    awaited = acme.post(an_event(event="order_placed", data={"total": 17})).get_json()["id"]
    other = acme.post(an_event(event="chat")).get_json()["id"]
    with context.database.transaction() as connection:
        names = connection.exec_driver_sql("SELECT payload FROM jobs WHERE kind = 'event'")
        jobs = [row[0] for row in names]
    assert f"{acme.account_id}:{awaited}" in jobs
    assert f"{acme.account_id}:{other}" not in jobs


def test_an_event_that_came_before_the_wait_was_written_counts(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, WAIT_FOR)
    acme.post(an_event(event="order_placed", data={"total": 17}))
    execute_run(context, acme.account_id, run)
    assert execute_run(context, acme.account_id, run, job=3)["status"] == "done"
    assert rows_of(context, "steps", acme.account_id, run)[1]["path"] == "steps[0].then[0]"


def test_an_event_is_not_missed_when_a_worker_dies_before_it_looks_for_earlier_events(
    context: AppContext, acme: Sender
) -> None:
    run = _started(context, acme, WAIT_FOR)
    wake(context, acme.account_id, acme.post(an_event(event="order_placed", data={"total": 17})).get_json()["id"])
    claimed = runs.claim_run(context.database, acme.account_id, UUID(run), 1)
    assert claimed is not None
    now = context.clock()
    assert run_updates.update_run(
        context.database, claimed, transitions.begin_wait(claimed, now, now + timedelta(hours=1)), now
    )
    execute_run(context, acme.account_id, run)
    assert execute_run(context, acme.account_id, run, job=3)["status"] == "done"
    assert rows_of(context, "steps", acme.account_id, run)[1]["output"] == {"text": "sold 17"}


def test_an_event_before_the_start_does_not_count(context: AppContext, acme: Sender) -> None:
    acme.post(an_event(event="order_placed", data={"total": 17}))
    run = _started(context, acme, WAIT_FOR)
    assert execute_run(context, acme.account_id, run)["at"] == "steps[0]"


def test_another_person_s_event_does_not_count(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, WAIT_FOR)
    execute_run(context, acme.account_id, run)
    event = acme.post(an_event(event="order_placed", distinct_id="somebody else", data={"total": 17})).get_json()
    wake(context, acme.account_id, event["id"])
    assert the_run(context, acme.account_id, run)["at"] == "steps[0]"


def test_the_run_continues_in_else_when_the_event_does_not_come(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, WAIT_FOR)
    execute_run(context, acme.account_id, run)
    assert execute_run(context, acme.account_id, run, job=2)["status"] == "done"
    assert rows_of(context, "steps", acme.account_id, run)[1]["path"] == "steps[0].else[0]"


def _started_with_exit(context: AppContext, sender: Sender) -> str:
    steps = [{"wait": "1h"}, {"log": "after"}]
    workflows.apply_workflow(context, sender.account_id, a_workflow(exit_on="order_placed", steps=steps))
    run: str = sender.post(an_event()).get_json()["runs"][0]
    return run


def test_exit_on_ends_a_run_at_any_step(context: AppContext, acme: Sender) -> None:
    run = _started_with_exit(context, acme)
    execute_run(context, acme.account_id, run)
    event = acme.post(an_event(event="order_placed")).get_json()
    wake(context, acme.account_id, event["id"])
    after = execute_run(context, acme.account_id, run, job=2)
    assert (after["status"], after["error"]) == ("exited", f"exit_on: order_placed (event {event['id']})")


def test_an_awaited_event_does_not_end_the_run_as_well(context: AppContext, acme: Sender) -> None:
    steps = [{**WAIT_FOR, "then": [{"wait": "1h"}, {"log": "sold"}]}]
    workflows.apply_workflow(context, acme.account_id, a_workflow(exit_on="order_placed", steps=steps))
    run: str = acme.post(an_event()).get_json()["runs"][0]
    execute_run(context, acme.account_id, run)
    event = acme.post(an_event(event="order_placed", data={"total": 17})).get_json()["id"]
    # The second time as after a crash of the worker that has just advanced the run.
    wake(context, acme.account_id, event)
    wake(context, acme.account_id, event)
    execute_run(context, acme.account_id, run, job=3)
    assert the_run(context, acme.account_id, run)["at"] == "steps[0].then[0]"
    another = acme.post(an_event(event="order_placed", data={"total": 18})).get_json()["id"]
    wake(context, acme.account_id, another)
    assert the_run(context, acme.account_id, run)["status"] == "exited"


def test_exit_on_counts_before_the_first_step(context: AppContext, acme: Sender) -> None:
    run = _started_with_exit(context, acme)
    acme.post(an_event(event="order_placed"))
    assert execute_run(context, acme.account_id, run)["status"] == "exited"


def test_an_integer_of_many_digits_does_not_stop_a_run(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    body = '{"event": "product_view", "distinct_id": "1", "data": {"n": ' + "7" * 9_000 + "}}"
    run = acme.post(body).get_json()["runs"][0]
    assert execute_run(context, acme.account_id, run)["status"] == "done"


def test_templates_can_read_all_events_of_the_match(context: AppContext, acme: Sender) -> None:
    workflows.apply_workflow(
        context,
        acme.account_id,
        a_workflow(
            on={"seq": ["a", "b"]}, steps=[{"log": "{{ matched[0].event }} {{ matched.size }} {{ matched[1].event }}"}]
        ),
    )
    acme.post(an_event(event="a"))
    run = acme.post(an_event(event="b")).get_json()["runs"][0]
    execute_run(context, acme.account_id, run)
    assert rows_of(context, "steps", acme.account_id, run)[0]["output"] == {"text": "a 2 b"}


def test_an_event_is_taken_by_one_wait_for_only(context: AppContext, acme: Sender) -> None:
    reply = {"wait_for": "reply", "timeout": "1h", "then": [{"log": "yes"}]}
    run = _started(context, acme, reply, reply)
    execute_run(context, acme.account_id, run)
    wake(context, acme.account_id, acme.post(an_event(event="reply")).get_json()["id"])
    after = execute_run(context, acme.account_id, run, job=3)
    assert (after["status"], after["at"]) == ("running", "steps[1]")


def test_an_awaited_event_is_found_after_a_thousand_others(context: AppContext, acme: Sender) -> None:
    run = _started(context, acme, {"wait_for": {"event": "tick", "where": "data.n == 7"}, "timeout": "1h"})
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) "
            "SELECT account_id, (substr(id::text, 1, 15) || 'f' || substr(id::text, 17, 7) || '-' || "
            "lpad(to_hex(number), 12, '0'))::uuid, 'tick', distinct_id, '{}', received_at "
            "FROM events, generate_series(1, 1100) AS number WHERE account_id = %(account)s",
            {"account": acme.account_id},
        )
    acme.post(an_event(event="tick", data={"n": 7}))
    execute_run(context, acme.account_id, run)
    assert execute_run(context, acme.account_id, run, job=3)["status"] == "done"
