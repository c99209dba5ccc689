"""`signalbox account retention`, and what a retention means for replays."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from app.core.ids import uuid7
from app.services import retention, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def _kept(runner: FlaskCliRunner, sender: Sender, *options: str) -> dict[str, tuple[str, str]]:
    result = runner.invoke(args=["account", "retention", sender.slug, *options, "--json"])
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {one["kind"]: (one["keep"], one["set_by"]) for one in found}


def test_a_retention_is_set_shown_and_reset(runner: FlaskCliRunner, acme: Sender, globex: Sender) -> None:
    assert _kept(runner, acme)["events"] == ("forever", "default")
    assert _kept(runner, acme)["idempotency-keys"] == ("30d", "fixed")
    kept = _kept(runner, acme, "--events", "90d", "--runs", "30d", "--yes")
    assert (kept["events"], kept["runs"], kept["attempts"]) == (
        ("90d", "account"),
        ("30d", "account"),
        ("forever", "default"),
    )
    assert _kept(runner, globex)["events"] == ("forever", "default")
    assert _kept(runner, acme, "--events", "forever", "--runs", "default")["events"] == ("forever", "account")
    assert _kept(runner, acme)["runs"] == ("forever", "default")


def test_a_shorter_retention_is_confirmed_and_a_longer_one_is_not(runner: FlaskCliRunner, acme: Sender) -> None:
    question = f"Delete what {acme.slug} has, now and from now on: events older than 90d?"
    refused = runner.invoke(args=["account", "retention", acme.slug, "--events", "90d"], input="n\n")
    assert (refused.exit_code, question in refused.output) == (1, True)
    assert _kept(runner, acme)["events"] == ("forever", "default")
    assert runner.invoke(args=["account", "retention", acme.slug, "--events", "90d"], input="y\n").exit_code == 0
    assert _kept(runner, acme, "--events", "365d")["events"] == ("365d", "account")


@pytest.mark.parametrize(
    ("duration", "message"), [("soon", "'soon' is not a duration"), ("1h", "events: 1h is too short"), ("-5d", "'-5d'")]
)
def test_an_invalid_duration_is_refused(runner: FlaskCliRunner, acme: Sender, duration: str, message: str) -> None:
    result = runner.invoke(args=["account", "retention", acme.slug, "--events", duration, "--yes"])
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert _kept(runner, acme)["events"] == ("forever", "default")


def _past_event(context: AppContext, sender: Sender, at: datetime) -> str:
    event = str(uuid7(at))
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO events (account_id, id, event, distinct_id, data, received_at) "
            "VALUES (%s, %s, 'product_view', 'ann', '{}', %s)",
            (sender.account_id, event, at),
        )
    return event


def test_an_event_older_than_runs_are_kept_is_not_replayed(
    runner: FlaskCliRunner, context: AppContext, acme: Sender
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    retention.change_retention(
        context, acme.account_id, acme.slug, {"runs": timedelta(days=30), "events": timedelta(days=90)}
    )
    old, young = (_past_event(context, acme, context.clock() - timedelta(days=days)) for days in (31, 29))
    refused = runner.invoke(args=["event", "replay", old, "--account", acme.slug])
    assert refused.exit_code == 1
    assert "older than 30d, for which the account keeps its runs and events" in refused.output
    assert runner.invoke(args=["event", "replay", old, "--account", acme.slug, "--dry-run"]).exit_code == 0
    assert runner.invoke(args=["event", "replay", young, "--account", acme.slug]).exit_code == 0
    with context.database.transaction() as connection:
        runs = connection.exec_driver_sql(
            "SELECT event_id FROM runs WHERE account_id = %s", (acme.account_id,)
        ).scalars()
        assert [str(event) for event in runs] == [young]
