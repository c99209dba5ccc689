"""The pages of runs and failures: filters, the time of a run, groups of failures, and plans before many runs are changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

import pytest

from app.console import runs as run_pages
from app.console.timing import LENGTH, time_run
from app.db.accounts import AccountDetails
from app.db.audit import EntryFilter
from app.db.inspection import AttemptDetails, RunTotals
from app.services import accounts, audit, inspection, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run, the_run

HOSTILE = '<script>alert("नमस्ते مرحبا 🛒")</script>' + "x" * 150


def _fail(context: AppContext, sender: Sender, name: str = "watch", *, subject: str = "1", path: str = "/a") -> str:
    """A run that calls a target that is out of order."""
    with an_http_target(Answer(500, HOSTILE.encode())) as target:
        step = {"http": {"url": target.url + path}, "retry": {"attempts": 1}}
        workflows.apply_workflow(context, sender.account_id, a_workflow(name=name, on=name, steps=[step]))
        run: str = sender.post(an_event(event=name, distinct_id=subject)).get_json()["runs"][0]
        execute_run(context, sender.account_id, run)
    return run


def _wait(context: AppContext, sender: Sender) -> str:
    """A run that waits."""
    document = a_workflow(name="wait", on="wait", steps=[{"wait": "1h"}])
    workflows.apply_workflow(context, sender.account_id, document)
    run: str = sender.post(an_event(event="wait")).get_json()["runs"][0]
    execute_run(context, sender.account_id, run)
    return run


def _status(context: AppContext, sender: Sender, run: str) -> str:
    return str(the_run(context, sender.account_id, run)["status"])


def _target_of(context: AppContext, sender: Sender, run: str) -> str:
    return str(the_run(context, sender.account_id, run)["error_target"])


def test_runs_are_filtered_by_state_target_error_and_time(context: AppContext, viewer: Browser, acme: Sender) -> None:
    failed, waiting = _fail(context, acme), _wait(context, acme)
    for filters, shown in (
        ({"status": "failed"}, {failed}),
        ({"status": "running"}, {waiting}),
        ({"status": "failed", "target": _target_of(context, acme, failed), "error_class": "http_5xx"}, {failed}),
        ({"target": "POST https://other.example/"}, set()),
        ({"workflow": "wait", "until": "2999-01-01T00:00"}, {waiting}),
        ({"since": "2999-01-01T00:00"}, set()),
        ({"status": "unheard of"}, set()),
    ):
        page = viewer.get(f"/{acme.slug}/runs?{urlencode(filters)}").text
        assert {run for run in (failed, waiting) if run in page} == shown, filters


def test_times_of_filters_are_in_the_zone_of_the_account(context: AppContext, viewer: Browser, acme: Sender) -> None:
    run = _wait(context, acme)
    accounts.update_account_details(context, acme.account_id, AccountDetails(time_zone="Asia/Kolkata"))
    local = datetime.now(UTC) + timedelta(hours=5, minutes=30)
    for at, is_shown in ((local - timedelta(minutes=10), True), (local + timedelta(minutes=10), False)):
        page = viewer.get(f"/{acme.slug}/runs?since={at:%Y-%m-%dT%H:%M}").text
        assert (run in page) == is_shown
    assert "From (Asia/Kolkata)" in page


def test_working_and_waiting_time_are_told_apart(context: AppContext, viewer: Browser, acme: Sender) -> None:
    run = _fail(context, acme)
    page = viewer.get(f"/{acme.slug}/runs/{run}").text
    assert 'aria-label="Worked for ' in page
    assert f"/{acme.slug}/workflow?name=" in page
    assert '<rect class="fails"' in page
    assert "in 1 attempt," in page
    details = inspection.find_run_details(context, acme.account_id, UUID(run))
    assert details is not None
    begin = details.run.created_at
    attempts = [_attempt(begin + timedelta(hours=hours), timedelta(minutes=6)) for hours in (1, 9)]
    worked = timedelta(minutes=20)
    running = time_run(replace(details.run, finished_at=None), attempts, worked, begin + timedelta(hours=10))
    assert (running.working, running.waiting) == (worked, timedelta(hours=9, minutes=40))
    assert [(piece.begin, piece.length) for piece in running.pieces] == [(LENGTH / 10, 10.0), (LENGTH * 0.9, 10.0)]


def test_of_a_long_run_the_latest_steps_are_read_and_all_are_counted(
    context: AppContext, viewer: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_pages, "_MAX_STEPS", 2)
    monkeypatch.setattr(run_pages, "_MAX_ATTEMPTS", 2)
    steps: list[dict[str, object]] = [{"id": f"step_{letter}", "log": "x"} for letter in "abcd"]
    document = a_workflow(name="long", on="long", steps=[*steps, {"par": [[{"log": "y"}], [{"log": "z"}]]}])
    workflows.apply_workflow(context, acme.account_id, document)
    run: str = acme.post(an_event(event="long")).get_json()["runs"][0]
    execute_run(context, acme.account_id, run)
    with context.database.transaction() as connection:
        statement = "UPDATE attempts SET started_at = finished_at - interval '25 hours' WHERE account_id = %s"
        connection.exec_driver_sql(statement, (acme.account_id,))
    found = inspection.find_latest_of_run(context, acme.account_id, UUID(run), 2, 3)
    assert found is not None
    assert (len(found.details.steps), len(found.details.attempts), len(found.blocks)) == (2, 3, 2)
    assert found.totals == RunTotals(5, 4, timedelta(hours=100))
    page = viewer.get(f"/{acme.slug}/runs/{run}").text
    assert "The latest 2 of 5 steps, without attempts before the latest 2 of 4." in page
    assert 'start="4"' in page
    assert ("step_c" in page, "step_d" in page) == (False, True)
    assert "in 4 attempts," in page
    assert f"/{acme.slug}/runs/{found.blocks[0].id}" in page


def _attempt(begin: datetime, length: timedelta) -> AttemptDetails:
    return AttemptDetails(0, 1, "done", None, None, None, None, begin, begin + length)


def test_failures_lead_to_their_runs_and_to_a_plan(
    context: AppContext, viewer: Browser, editor: Browser, acme: Sender
) -> None:
    assert "No run has failed within" in viewer.get(f"/{acme.slug}/failures").text
    first, second = _fail(context, acme, "a"), _fail(context, acme, "b", path="/<i>{{ distinct_id }}")
    page = viewer.get(f"/{acme.slug}/failures").text
    assert "/a</span>" in page
    assert "/&lt;i&gt;*</span>" in page
    assert page.count("<strong>1 run</strong> of 1 subject") == 2
    assert "Retry all" not in page
    for run, other in ((first, second), (second, first)):
        target = _target_of(context, acme, run)
        links = [
            unescape(part.split('"')[0])
            for part in editor.get(f"/{acme.slug}/failures").text.split('href="/console')[1:]
        ]
        found = [link for link in links if parse_qs(urlsplit(link).query).get("target") == [target]]
        assert [link.partition("?")[0] for link in found] == [f"/{acme.slug}/runs", f"/{acme.slug}/runs/retry"]
        for link in found:
            text = editor.get(link).text
            assert run in text
            assert other not in text


def test_failures_are_filtered_by_workflow_and_period(context: AppContext, viewer: Browser, acme: Sender) -> None:
    _fail(context, acme, "a")
    assert "1 run" in viewer.get(f"/{acme.slug}/failures?workflow=a&period=1h").text
    assert "No run passes these filters." in viewer.get(f"/{acme.slug}/failures?workflow=b").text
    assert "1 run" in viewer.get(f"/{acme.slug}/failures?period=nonsense").text
    with context.database.transaction() as connection:
        statement = "UPDATE runs SET finished_at = finished_at - interval '2 hours' WHERE account_id = %s"
        connection.exec_driver_sql(statement, (acme.account_id,))
    assert "No run passes these filters." in viewer.get(f"/{acme.slug}/failures?period=1h").text
    assert "1 run" in viewer.get(f"/{acme.slug}/failures?period=1d").text


def test_a_plan_names_the_runs_and_only_they_are_retried(context: AppContext, editor: Browser, acme: Sender) -> None:
    chosen, other = _fail(context, acme, "a"), _fail(context, acme, "b")
    plan = editor.get(f"/{acme.slug}/runs/retry?workflow=a").text
    assert "<strong>1 run</strong> will continue at the step that failed" in plan
    assert chosen in plan
    assert other not in plan
    assert _status(context, acme, chosen) == "failed"
    path = f"/{acme.slug}/runs/retry?workflow=a"
    assert editor.post(path, path, run=[chosen]).status_code == 302
    assert "1 run scheduled again at the failed step." in editor.get(f"/{acme.slug}/runs").text
    assert (_status(context, acme, chosen), _status(context, acme, other)) == ("running", "failed")
    (entry,) = audit.list_entries(context, EntryFilter(acme.account_id, action="run.retry"), 10)
    assert (entry.actor, entry.after) == (editor.email, {"count": 1, "chosen_by": {"workflow": "a"}})


def test_chosen_runs_are_cancelled_after_a_plan(context: AppContext, editor: Browser, acme: Sender) -> None:
    waiting, other, failed = _wait(context, acme), _wait(context, acme), _fail(context, acme)
    query = urlencode([("chosen", "1"), ("run", waiting), ("run", failed)])
    plan = editor.get(f"/{acme.slug}/runs/cancel?{query}").text
    assert "<strong>1 run</strong> will end now" in plan
    assert 'name="run" value="' + waiting in plan
    path = f"/{acme.slug}/runs/cancel"
    assert editor.post(path, f"{path}?{query}", run=[waiting]).status_code == 302
    assert "1 run cancelled." in editor.get(f"/{acme.slug}/runs").text
    assert (_status(context, acme, waiting), _status(context, acme, other)) == ("cancelled", "running")
    editor.post(path, f"{path}?status=running", run=[waiting])
    assert "0 runs cancelled. 1 run changed in the meantime" in editor.get(f"/{acme.slug}/runs").text


@pytest.mark.parametrize("action", ["retry", "cancel"])
def test_a_plan_without_a_chosen_run_has_nothing_to_do(
    context: AppContext, editor: Browser, acme: Sender, action: str
) -> None:
    failed, waiting = _fail(context, acme), _wait(context, acme)
    plan = editor.get(f"/{acme.slug}/runs/{action}?chosen=1").text
    assert "nothing to" in plan
    assert failed not in plan
    assert waiting not in plan
    assert editor.get(f"/{acme.slug}/runs/{action}?chosen=1&run=x").status_code == 400


@pytest.mark.parametrize("action", ["retry", "cancel"])
def test_runs_of_another_account_are_neither_planned_nor_changed(
    context: AppContext, editor: Browser, acme: Sender, globex: Sender, action: str
) -> None:
    run = _fail(context, globex) if action == "retry" else _wait(context, globex)
    before = _status(context, globex, run)
    path = f"/{acme.slug}/runs/{action}"
    assert run not in editor.get(f"{path}?chosen=1&run={run}").text
    assert run not in editor.get(path).text
    editor.post(path, "/profile", run=[run])
    assert _status(context, globex, run) == before
    assert run not in editor.get(f"/{acme.slug}/failures").text


def test_hostile_text_stays_text_in_failures_and_plans(context: AppContext, editor: Browser, acme: Sender) -> None:
    run = _fail(context, acme, subject=HOSTILE, path="/" + HOSTILE[:60].replace(" ", ""))
    for path in ("failures", "runs", "runs/retry", f"runs/{run}"):
        text = editor.get(f"/{acme.slug}/{path}").text
        assert "<script>alert" not in text, path
        assert "नमस्ते" in text, path
