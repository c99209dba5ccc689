"""Accounts: the plan of a new one, plans that end, and what becomes of an unusable phone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from structlog.testing import CapturingLogger

from app.core.ids import utc_text, uuid7
from app.services import accounts
from app.services.context import AppContext
from app.worker import ending_plans
from app.worker.housekeeping import sweep
from tests.cli.conftest import CommandLine
from tests.support.builders import Sender, a_sender, an_event


def a_slug() -> str:
    return f"shop-{uuid7().hex[-12:]}"


def ends_in(context: AppContext, sender: Sender, left: timedelta) -> str:
    """Let the account's plan end so long from now; the end as text."""
    at = context.clock() + left
    with context.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE accounts SET plan_ends_at = %s WHERE id = %s", (at, sender.account_id))
    return utc_text(at)


def line_of(signalbox: CommandLine, sender: Sender) -> str:
    after = str(sender.account_id - 1)
    return signalbox("account", "list", "--after", after, "--limit", "1").stdout.strip()


def test_a_new_account_is_on_the_plan_standard_without_an_end(signalbox: CommandLine, context: AppContext) -> None:
    slug = a_slug()
    assert "plan=standard\n" in signalbox("account", "create", slug).stdout
    found = accounts.find_account(context, slug)
    assert found is not None
    assert (found.plan, found.plan_ends_at) == ("standard", None)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=8), ""),
        (timedelta(days=6, hours=23, minutes=30), " (ends in 6d23h)"),
        (timedelta(hours=1, minutes=1, seconds=30), " (ends in 1h1m)"),
        (timedelta(days=-3, minutes=-30, seconds=-30), " (ended 3d30m ago)"),
    ],
)
def test_the_list_says_that_a_plan_ends_or_has_ended(
    signalbox: CommandLine, context: AppContext, acme: Sender, left: timedelta, words: str
) -> None:
    at = ends_in(context, acme, left)
    assert line_of(signalbox, acme).split("\t")[2:] == [f"unlimited, until {at}{words}", "enabled"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """What the worker logs about plans; nothing was logged today."""
    found = CapturingLogger()
    monkeypatch.setattr(ending_plans, "_log", found)
    ending_plans._logged.clear()
    return found


def logged(context: AppContext, log: CapturingLogger, sender: Sender) -> list[tuple[str, str]]:
    """The entries about the account during two sweeps."""
    log.calls.clear()
    sweep(context)
    sweep(context)
    return [
        (call.method_name, call.args[0])
        for call in log.calls
        if sender.slug in [name.split()[0] for name in call.kwargs["accounts"]]
    ]


@pytest.mark.parametrize(
    ("days", "message"), [(6, "plans end soon"), (-1, "plans have ended; these accounts take no events")]
)
def test_the_worker_logs_a_plan_that_ends_or_has_ended_once_a_day(
    context: AppContext, log: CapturingLogger, acme: Sender, days: int, message: str
) -> None:
    ends_in(context, acme, timedelta(days=days))
    assert logged(context, log, acme) == [("warning", message)]
    assert logged(context, log, acme) == []
    ending_plans._logged.clear()
    assert logged(context, log, acme) == [("warning", message)]


def test_nothing_is_logged_about_other_plans_and_disabled_accounts(
    context: AppContext, log: CapturingLogger, acme: Sender
) -> None:
    ends_in(context, acme, timedelta(days=8))
    assert logged(context, log, acme) == []
    ends_in(context, acme, timedelta(days=-1))
    accounts.switch_account(context, acme.account_id, on=False)
    assert logged(context, log, acme) == []


def test_the_metrics_count_plans_that_end_or_have_ended(context: AppContext, client: FlaskClient) -> None:
    def counts() -> list[float]:
        client.application.extensions["monitor"].refresh(slow_interval=0)
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
        return [float(lines[name]) for name in ("signalbox_plans_ending", "signalbox_plans_ended")]

    before = counts()
    for days in (6, -1, 8):
        ends_in(context, a_sender(context, client), timedelta(days=days))
    assert counts() == [number + 1 for number in before]


def test_an_account_is_made_and_changed_to_keep_events_with_an_unusable_phone(
    signalbox: CommandLine, context: AppContext, acme: Sender
) -> None:
    slug = a_slug()
    signalbox("account", "create", slug, "--unusable-phone", "store")
    found = accounts.find_account(context, slug)
    assert found is not None
    assert found.unusable_phone == "store"
    assert acme.post(an_event(phone="12")).status_code == 422
    assert "unusable-phone=store\n" in signalbox("account", "change", acme.slug, "--unusable-phone", "store").stdout
    assert "unusable-phone=refuse\n" in signalbox("account", "change", acme.slug, "--unusable-phone", "refuse").stdout


@pytest.mark.parametrize(("choice", "stored"), [("store", 1), ("refuse", 0)])
def test_an_import_follows_the_account_s_choice(
    signalbox: CommandLine, context: AppContext, acme: Sender, tmp_path: Path, choice: str, stored: int
) -> None:
    signalbox("account", "change", acme.slug, "--unusable-phone", choice)
    file = tmp_path / "events.ndjson"
    file.write_text(json.dumps({**an_event(phone=5673412780), "received_at": "2026-01-05T10:00:00Z"}) + "\n")
    output = signalbox("event", "import", file, "--account", acme.slug).output
    assert f"{stored} stored, 0 stored before, {1 - stored} rejected" in output
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT phone, extra, warnings FROM events WHERE account_id = %s", (acme.account_id,)
        ).all()
    assert [(row[0], row[1]) for row in rows] == [(None, {"phone": 5673412780})] * stored
