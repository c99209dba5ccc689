"""One person: what is known of them, and how they are forgotten."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskCliRunner

from app import manage
from app.journey import Journey
from tests.builders import Sender, a_workflow, an_event


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def _busy(house: Journey, sender: Sender) -> None:
    manage.apply_workflow(house, sender.account_id, a_workflow())
    manage.apply_workflow(
        house, sender.account_id, a_workflow(name="thrice", on={"times": 3, "of": "product_view", "within": "1h"})
    )
    for _ in range(2):
        sender.post(an_event())


def _rows(house: Journey, table: str, account_id: int) -> int:
    with house.database.transaction() as connection:
        count = connection.exec_driver_sql(
            f"SELECT count(*) FROM {table} WHERE account_id = %(account)s", {"account": account_id}
        )
        return int(count.scalar_one())


def test_a_subject_is_shown_with_progress_runs_and_events(runner: FlaskCliRunner, house: Journey, acme: Sender) -> None:
    _busy(house, acme)
    shown = runner.invoke(args=["subject", "show", acme.slug, "915673412780"]).output
    assert "thrice: 2 of 3" in shown
    assert shown.count("watch  running at steps[0]") == 2
    assert shown.count("product_view") >= 2


def test_nothing_of_another_account_is_shown(
    runner: FlaskCliRunner, house: Journey, acme: Sender, globex: Sender
) -> None:
    _busy(house, acme)
    shown = runner.invoke(args=["subject", "show", globex.slug, "915673412780"]).output
    assert "progress: none\nruns: none\nevents: none" in shown


def test_erasing_a_subject_leaves_nothing_of_it(
    runner: FlaskCliRunner, house: Journey, acme: Sender, globex: Sender
) -> None:
    for sender in (acme, globex):
        _busy(house, sender)
    acme.post(an_event(distinct_id="somebody else"))
    told = runner.invoke(args=["subject", "erase", acme.slug, "915673412780", "--yes"]).output
    assert told == "deleted: 2 events, 2 runs, 1 rows of progress\n"
    assert [_rows(house, table, acme.account_id) for table in ("events", "runs", "progress")] == [1, 1, 1]
    assert [_rows(house, table, globex.account_id) for table in ("events", "runs", "progress")] == [2, 2, 1]


def test_deleting_a_workflow_takes_its_progress_along(runner: FlaskCliRunner, house: Journey, acme: Sender) -> None:
    _busy(house, acme)
    runner.invoke(args=["workflow", "delete", "thrice", "--account", acme.slug, "--yes"])
    assert _rows(house, "progress", acme.account_id) == 0
    assert _rows(house, "runs", acme.account_id) == 2
    answer = acme.post(an_event())
    assert answer.status_code == 200
    assert len(answer.get_json()["runs"]) == 1


def test_what_is_not_there_is_told_before_anything_is_asked(runner: FlaskCliRunner, acme: Sender) -> None:
    result = runner.invoke(args=["workflow", "delete", "nix", "--account", acme.slug])
    assert (result.exit_code, result.output) == (
        1,
        "Error: there is no workflow 'nix'; `flask workflow list` shows all\n",
    )
