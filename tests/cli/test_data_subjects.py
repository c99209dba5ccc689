"""`signalbox subject …`: the data of one person are shown and erased."""

from __future__ import annotations

import base64
import json

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def _busy(context: AppContext, sender: Sender) -> None:
    workflows.apply_workflow(context, sender.account_id, a_workflow())
    workflows.apply_workflow(
        context, sender.account_id, a_workflow(name="thrice", on={"times": 3, "of": "product_view", "within": "1h"})
    )
    for _ in range(2):
        sender.post(an_event())


def _rows(context: AppContext, table: str, account_id: int) -> int:
    with context.database.transaction() as connection:
        count = connection.exec_driver_sql(
            f"SELECT count(*) FROM {table} WHERE account_id = %(account)s", {"account": account_id}
        )
        return int(count.scalar_one())


def test_a_subject_is_shown_with_progress_runs_and_events(
    runner: FlaskCliRunner, context: AppContext, acme: Sender
) -> None:
    _busy(context, acme)
    shown = runner.invoke(args=["subject", "show", acme.slug, "915673412780"]).output
    assert "thrice: 2 of 3" in shown
    assert shown.count("watch  running at steps[0]") == 2
    assert shown.count("product_view") >= 2


def test_a_subject_is_shown_as_json(runner: FlaskCliRunner, context: AppContext, acme: Sender) -> None:
    _busy(context, acme)
    shown = json.loads(runner.invoke(args=["subject", "show", acme.slug, "915673412780", "--json"]).output)
    assert [row["workflow"] for row in shown["progress"]] == ["thrice"]
    assert [run["workflow"] for run in shown["runs"]] == ["watch", "watch"]
    assert [event["event"] for event in shown["events"]] == ["product_view", "product_view"]


def test_nothing_of_another_account_is_shown(
    runner: FlaskCliRunner, context: AppContext, acme: Sender, globex: Sender
) -> None:
    _busy(context, acme)
    shown = runner.invoke(args=["subject", "show", globex.slug, "915673412780"]).output
    assert "progress: none\nruns: none\nevents: none" in shown


def test_erasing_a_subject_leaves_nothing_of_it(
    runner: FlaskCliRunner, context: AppContext, acme: Sender, globex: Sender
) -> None:
    for sender in (acme, globex):
        _busy(context, sender)
    acme.post(an_event(distinct_id="somebody else"))
    output = runner.invoke(args=["subject", "erase", acme.slug, "915673412780", "--yes"]).output
    assert output == "deleted: 2 events, 2 runs, 1 rows of progress, 0 refused requests, 0 deliveries\n"
    assert [_rows(context, table, acme.account_id) for table in ("events", "runs", "progress")] == [1, 1, 1]
    assert [_rows(context, table, globex.account_id) for table in ("events", "runs", "progress")] == [2, 2, 1]


def test_deleting_a_workflow_takes_its_progress_along(
    runner: FlaskCliRunner, context: AppContext, acme: Sender
) -> None:
    _busy(context, acme)
    runner.invoke(args=["workflow", "delete", "thrice", "--account", acme.slug, "--yes"])
    assert _rows(context, "progress", acme.account_id) == 0
    assert _rows(context, "runs", acme.account_id) == 2
    answer = acme.post(an_event())
    assert answer.status_code == 200
    assert len(answer.get_json()["runs"]) == 1


def test_what_is_missing_is_reported_before_a_confirmation(runner: FlaskCliRunner, acme: Sender) -> None:
    result = runner.invoke(args=["workflow", "delete", "nix", "--account", acme.slug])
    assert (result.exit_code, result.output) == (
        1,
        f"Error: there is no workflow 'nix'; `signalbox workflow list --account {acme.slug}` shows all\n",
    )


def _tables_that_hold(context: AppContext, text: str) -> list[str]:
    """Every table, of ours or of the queue, in which a row has `text` anywhere: as it is, or within bytes or base64."""
    encoded = base64.urlsafe_b64encode(text.encode()).decode()
    with context.database.transaction() as connection:
        tables = connection.exec_driver_sql(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).scalars()
        return [
            table
            for table in tables
            if connection.exec_driver_sql(
                f"SELECT count(*) FROM {table} AS one WHERE to_jsonb(one)::text LIKE ANY (%(forms)s)",
                {"forms": [f"%{form}%" for form in (text, encoded, text.encode().hex(), encoded.encode().hex())]},
            ).scalar_one()
        ]


def test_no_table_holds_anything_of_a_person_who_was_erased(
    runner: FlaskCliRunner, context: AppContext, acme: Sender
) -> None:
    person, phone, order = "person-4711-of-acme", "+4915112345678", "order-of-4711"
    with an_http_target(Answer(410), Answer(200, b'{"whom": "person-4711-of-acme"}')) as gone:
        url = gone.url
        steps: list[dict[str, object]] = [
            {"id": "tell", "http": {"url": url, "json": {"text": "{{ phone }} {{ data.order }}"}}},
            {"log": "{{ distinct_id }} {{ steps.tell.body.whom }}"},
        ]
        target = [{"http": {"url": url + "/of/{{ distinct_id }}"}}]
        quiet = {"seq": ["looked", {"none": "order_placed", "for": "30m"}]}
        workflows.apply_workflow(context, acme.account_id, a_workflow(on="looked", name="target", steps=target))
        workflows.apply_workflow(context, acme.account_id, a_workflow(on="looked", name="tell", steps=steps))
        for key in ("distinct_id", "phone", "data.order"):
            name = f"by-{key.replace('.', '-')}"
            workflows.apply_workflow(context, acme.account_id, a_workflow(on=quiet, name=name, key=key))
        event = an_event(event="looked", distinct_id=person, phone=phone, data={"order": order})
        answer = acme.post(event, Idempotency_Key=f"key of {person}").get_json()
        for run in answer["runs"]:
            execute_run(context, acme.account_id, run)
    for text in (person, phone, order):
        assert {"jobs", "progress"} <= set(_tables_that_hold(context, text)), text
    held = _tables_that_hold(context, person)
    assert {"attempts", "disabled_targets", "idempotency_keys", "runs", "steps"} <= set(held)
    runner.invoke(args=["subject", "erase", acme.slug, person, "--yes"])
    for text in (person, phone, order):
        assert _tables_that_hold(context, text) == []


def test_erasing_leaves_the_progress_of_others_alone(runner: FlaskCliRunner, context: AppContext, acme: Sender) -> None:
    quiet = {"seq": ["looked", {"none": "order_placed", "for": "30m"}]}
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=quiet, key="phone"))
    for person, phone in (("a", "+4915112345601"), ("b", "+4915112345602")):
        acme.post(an_event(event="looked", distinct_id=person, phone=phone))
    output = runner.invoke(args=["subject", "erase", acme.slug, "a", "--yes"]).output
    assert output == "deleted: 1 events, 0 runs, 1 rows of progress, 0 refused requests, 0 deliveries\n"
    assert _rows(context, "progress", acme.account_id) == 1
    assert "jobs" in _tables_that_hold(context, "+4915112345602")
