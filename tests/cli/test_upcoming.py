"""`signalbox run upcoming` lists what will start and go on by itself."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.services import workflows
from app.services.context import AppContext
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.run_execution import execute_run


@pytest.fixture
def run(context: AppContext, acme: Sender) -> str:
    """A run that waits for a day; a workflow starts in two hours unless an event comes before."""
    never = {"seq": ["product_view", {"none": "order_placed", "for": "2h"}]}
    for document in (a_workflow(steps=[{"wait": "1d"}]), a_workflow(name="abandoned", on=never)):
        workflows.apply_workflow(context, acme.account_id, document)
    (started,) = acme.post(an_event()).get_json()["runs"]
    execute_run(context, acme.account_id, started)
    return str(started)


def _listed(signalbox: CommandLine, acme: Sender, *options: str) -> list[dict[str, Any]]:
    result = signalbox("run", "upcoming", "--account", acme.slug, "--json", *options)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_first_to_come_is_the_first(run: str, signalbox: CommandLine, acme: Sender) -> None:
    starts, goes_on = _listed(signalbox, acme)
    assert (starts["what"], starts["workflow"], starts["run_id"]) == ("starts", "abandoned", None)
    assert (goes_on["what"], goes_on["workflow"], goes_on["run_id"]) == ("goes on", "watch", run)
    assert starts["subject"] == goes_on["subject"] == "915673412780"
    assert datetime.fromisoformat(goes_on["at"]) - datetime.fromisoformat(starts["at"]) > timedelta(hours=21)


def test_a_period_bounds_the_list(run: str, signalbox: CommandLine, acme: Sender) -> None:
    assert [one["workflow"] for one in _listed(signalbox, acme, "--until", "3h")] == ["abandoned"]
    assert [one["workflow"] for one in _listed(signalbox, acme, "--from", "3h", "--until", "2d")] == ["watch"]
    assert _listed(signalbox, acme, "--from", "2d") == []


def test_what_is_over_or_disabled_is_left_out(
    run: str, signalbox: CommandLine, acme: Sender, context: AppContext
) -> None:
    workflows.disable_workflow(context, acme.account_id, "abandoned")
    assert signalbox("run", "cancel", run).exit_code == 0
    assert _listed(signalbox, acme) == []


def test_another_account_sees_nothing(run: str, signalbox: CommandLine, globex: Sender) -> None:
    assert _listed(signalbox, globex) == []


def test_a_time_that_is_none_is_refused(signalbox: CommandLine, acme: Sender) -> None:
    result = signalbox("run", "upcoming", "--account", acme.slug, "--until", "soon")
    assert (result.exit_code, "'soon' is neither a duration from now on" in result.stderr) == (2, True)


def test_the_list_goes_on_after_a_cursor(run: str, signalbox: CommandLine, acme: Sender) -> None:
    first = signalbox("run", "upcoming", "--account", acme.slug, "--limit", "1", "--json")
    cursor = first.stderr.removeprefix("There are more; continue with --after ").strip()
    (goes_on,) = _listed(signalbox, acme, "--after", cursor)
    assert goes_on["run_id"] == run
