"""The way out: a run is carried from step to step, and what happened is written down."""

from __future__ import annotations

import json
from datetime import timedelta

from standardwebhooks import Webhook

from app import manage
from app.journey import Journey
from tests.builders import Sender, a_workflow, an_event
from tests.carrying import carry, jobs_of, rows_of, the_run
from tests.destination import Answer, a_destination


def _started(house: Journey, sender: Sender, *steps: object) -> str:
    manage.apply_workflow(house, sender.account_id, a_workflow(steps=list(steps)))
    run: str = sender.post(an_event(data={"price": 1999, "exact": 0.5})).get_json()["runs"][0]
    return run


def test_a_run_ends_done_when_its_last_step_is_done(house: Journey, acme: Sender) -> None:
    run = _started(house, acme, {"log": "one"}, {"log": "two"})
    after = carry(house, acme.account_id, run)
    assert (after["status"], after["at"], after["ordinal"]) == ("done", None, 2)
    assert [(step["path"], step["status"]) for step in rows_of(house, "steps", acme.account_id, run)] == [
        ("steps[0]", "done"),
        ("steps[1]", "done"),
    ]


def test_an_http_step_posts_the_event_signed_and_with_an_idempotency_key(house: Journey, acme: Sender) -> None:
    with a_destination() as destination:
        run = _started(house, acme, {"http": {"url": destination.url + "/hook"}})
        carry(house, acme.account_id, run)
    (call,) = destination.calls
    assert (call.method, call.path) == ("POST", "/hook")
    assert call.json["data"] == {"price": 1999, "exact": 0.5}
    assert call.headers["Idempotency-Key"] == f"{run}-0"
    Webhook(manage.signing_secret(house, acme.account_id)).verify(call.body, dict(call.headers))


def test_every_digit_of_data_arrives(house: Journey, acme: Sender) -> None:
    exact = '{"big":12345678901234567890123,"long":0.1234567890123456789}'
    with a_destination() as destination:
        manage.apply_workflow(house, acme.account_id, a_workflow(steps=[{"http": {"url": destination.url}}]))
        body = '{"event": "product_view", "distinct_id": "1", "data": ' + exact + "}"
        run = acme.post(body).get_json()["runs"][0]
        carry(house, acme.account_id, run)
    arrived = destination.calls[0].body.decode()
    assert "12345678901234567890123" in arrived
    assert "0.1234567890123456789" in arrived


def test_later_steps_see_what_earlier_ones_got(house: Journey, acme: Sender) -> None:
    with a_destination(Answer(body=b'{"ticket": "T-17"}')) as destination:
        run = _started(
            house,
            acme,
            {"id": "open", "http": {"url": destination.url}},
            {"id": "say", "log": "{{ steps.open.body.ticket }}"},
        )
        carry(house, acme.account_id, run)
    assert rows_of(house, "steps", acme.account_id, run)[1]["output"] == {"text": "T-17"}


def test_a_wait_is_entered_once_and_over_with_its_job(house: Journey, acme: Sender) -> None:
    run = _started(house, acme, {"wait": "1h"}, {"log": "after"})
    waiting = carry(house, acme.account_id, run)
    assert (waiting["status"], waiting["at"], waiting["job"]) == ("running", "steps[0]", 2)
    assert timedelta(minutes=59) < waiting["wake_at"] - waiting["created_at"] < timedelta(minutes=61)
    assert jobs_of(house, run)[-1] == f"{acme.account_id}:{run}:2"
    assert carry(house, acme.account_id, run, job=2)["status"] == "done"


def test_a_job_that_was_overtaken_moves_nothing(house: Journey, acme: Sender) -> None:
    run = _started(house, acme, {"wait": "1h"}, {"log": "after"})
    carry(house, acme.account_id, run)
    before = the_run(house, acme.account_id, run)
    assert carry(house, acme.account_id, run, job=1) == before


def test_a_passing_failure_is_tried_again_with_the_same_key(house: Journey, acme: Sender) -> None:
    with a_destination(Answer(503), Answer(200)) as destination:
        run = _started(house, acme, {"http": {"url": destination.url}, "retry": {"attempts": 3, "first": "10s"}})
        first = carry(house, acme.account_id, run)
        assert (first["status"], first["attempt"], first["job"]) == ("running", 1, 2)
        assert timedelta(seconds=4) < first["wake_at"] - first["updated_at"] < timedelta(seconds=11)
        assert carry(house, acme.account_id, run, job=2)["status"] == "done"
    assert len({call.headers["Idempotency-Key"] for call in destination.calls}) == 1
    attempts = rows_of(house, "attempts", acme.account_id, run)
    assert [(row["attempt"], row["outcome"], row["error_class"]) for row in attempts] == [
        (1, "retry", "http_5xx"),
        (2, "done", None),
    ]


def test_the_destination_may_say_when_to_try_again(house: Journey, acme: Sender) -> None:
    with a_destination(Answer(429, headers=(("Retry-After", "600"),))) as destination:
        run = _started(house, acme, {"http": {"url": destination.url}})
        after = carry(house, acme.account_id, run)
    assert timedelta(seconds=595) < after["wake_at"] - after["updated_at"] < timedelta(seconds=605)


def test_a_run_fails_visibly_when_its_attempts_are_used_up(house: Journey, acme: Sender) -> None:
    with a_destination(Answer(500)) as destination:
        run = _started(house, acme, {"http": {"url": destination.url}, "retry": {"attempts": 2, "first": "1s"}})
        carry(house, acme.account_id, run)
        after = carry(house, acme.account_id, run, job=2)
    assert after["status"] == "failed"
    assert after["error"] == "steps[0] (http): answered 500 after 2 attempts"
    assert rows_of(house, "steps", acme.account_id, run)[0]["status"] == "failed"


def test_an_answer_that_will_not_change_fails_the_run_at_once(house: Journey, acme: Sender) -> None:
    with a_destination(Answer(404)) as destination:
        run = _started(house, acme, {"http": {"url": destination.url}})
        after = carry(house, acme.account_id, run)
    assert (after["status"], after["error"]) == ("failed", "steps[0] (http): answered 404")
    assert len(destination.calls) == 1


def test_what_was_settled_is_not_acted_again(house: Journey, acme: Sender) -> None:
    with a_destination() as destination:
        run = _started(house, acme, {"http": {"url": destination.url}})
        carry(house, acme.account_id, run)
        carry(house, acme.account_id, run)
    assert len(destination.calls) == 1


def test_an_answer_that_jsonb_cannot_hold_settles_the_step(house: Journey, acme: Sender) -> None:
    with a_destination(Answer(body=b'{"a": "\\u0000", "n": 1e999999, "s": "\\ud800"}')) as destination:
        run = _started(house, acme, {"id": "odd", "http": {"url": destination.url}})
        assert carry(house, acme.account_id, run)["status"] == "done"


def test_a_run_stays_on_the_version_that_started_it(house: Journey, acme: Sender) -> None:
    run = _started(house, acme, {"wait": "1h"}, {"id": "say", "log": "old"})
    carry(house, acme.account_id, run)
    manage.apply_workflow(house, acme.account_id, a_workflow(steps=[{"wait": "1h"}, {"id": "say", "log": "new"}]))
    carry(house, acme.account_id, run, job=2)
    assert rows_of(house, "steps", acme.account_id, run)[1]["output"] == {"text": "old"}


def test_a_disabled_workflow_starts_nothing_and_its_runs_go_on(house: Journey, acme: Sender) -> None:
    run = _started(house, acme, {"wait": "1h"}, {"log": "after"})
    carry(house, acme.account_id, run)
    manage.disable_workflow(house, acme.account_id, "watch")
    assert acme.post(an_event()).get_json()["runs"] == []
    assert carry(house, acme.account_id, run, job=2)["status"] == "done"


def test_nothing_is_kept_of_secrets_in_requests(house: Journey, acme: Sender) -> None:
    with a_destination() as destination:
        url = destination.url + "/?api_key=hush"
        run = _started(house, acme, {"http": {"url": url, "headers": {"Authorization": "Bearer hush"}}})
        carry(house, acme.account_id, run)
    assert "hush" not in json.dumps(rows_of(house, "attempts", acme.account_id, run)[0]["request"])
