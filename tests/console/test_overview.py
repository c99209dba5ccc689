"""The first page of an account: the numbers of the last hour, each with a link to its list."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from app.actions.circuit_breaker import CircuitChange
from app.db import job_queue, overview
from app.db.accounts import AccountDetails
from app.db.job_queue import Worker
from app.services import accounts, targets, workflows
from app.services.context import AppContext
from app.services.overview import MINUTES, find_overview
from tests.console.test_pages import HOSTILE
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run


def _fill(app: Flask, context: AppContext, acme: Sender) -> None:
    """Two events, of which one starts a run that fails at its target, and a refused request."""
    with an_http_target(Answer(500, HOSTILE.encode())) as target:
        step = {"http": {"url": f"{target.url}/orders"}, "retry": {"attempts": 1}}
        workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[step]))
        for run in acme.post(an_event()).get_json()["runs"]:
            execute_run(context, acme.account_id, run)
    acme.post(an_event(event=HOSTILE, distinct_id=HOSTILE))
    answer = acme.post("{")
    assert answer.status_code == 400
    answer.close()
    app.extensions["refusals"].flush()


def _links(page: str) -> dict[str, tuple[str, str]]:
    """The numbers of the page by their labels: text and link."""
    found = re.findall(r'href="([^"]+)"><span class="fs-4 d-block">([^<]+)</span><span class="small">([^<]+)<', page)
    return {label: (text, url.replace("&amp;", "&")) for url, text, label in found}


def test_the_overview_counts_and_each_number_leads_to_its_list(
    app: Flask, context: AppContext, viewer: Browser, acme: Sender
) -> None:
    _fill(app, context, acme)
    page = viewer.get(f"/{acme.slug}/").text
    links = _links(page)
    assert {label: text for label, (text, _) in links.items()} == {
        "events accepted": "2",
        "request refused": "1",
        "requests over the limit of the plan": "0",
        "run started": "1",
        "run failed": "1",
    }
    rows = {
        label: viewer.client.get(url).text.partition("<tbody>")[2].count("<tr>") for label, (_, url) in links.items()
    }
    assert rows == {
        "events accepted": 2,
        "request refused": 1,
        "requests over the limit of the plan": 0,
        "run started": 1,
        "run failed": 1,
    }
    assert "POST http://127.0.0.1" in page
    assert "From the start of a run to its first step" in page
    assert "<img src=x" not in page


def test_the_chart_has_a_bar_and_a_row_for_each_minute(
    app: Flask, context: AppContext, viewer: Browser, acme: Sender
) -> None:
    _fill(app, context, acme)
    page = viewer.get(f"/{acme.slug}/now").text
    assert page.count('class="chart-bar"') == MINUTES
    table = page.partition("<caption>Events per minute</caption>")[2].partition("</table>")[0]
    assert table.count("<tr>") == MINUTES + 1
    assert sum(int(number) for number in re.findall(r"<td>(\d+)</td></tr>", table)) == 2
    assert "style=" not in page
    assert "<html" not in page


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_a_bar_leads_to_the_events_of_its_minute(context: AppContext, viewer: Browser, acme: Sender, zone: str) -> None:
    accounts.update_account_details(context, acme.account_id, AccountDetails(time_zone=zone))
    sent = acme.post(an_event()).get_json()["id"]
    page = viewer.get(f"/{acme.slug}/").text
    bars = re.findall(r'<a tabindex="-1" href="([^"]+)"><title>\d\d:\d\d UTC: 1 event<', page)
    assert len(bars) == 1
    assert sent in viewer.client.get(bars[0].replace("&amp;", "&")).text


def test_an_empty_account_shows_what_to_do_first(editor: Browser, viewer: Browser, acme: Sender) -> None:
    assert "send a test event" in editor.get(f"/{acme.slug}/").text
    page = viewer.get(f"/{acme.slug}/").text
    assert "Generate an API key" in page
    assert "send a test event" not in page


def test_only_operators_see_the_hosts_of_workers(
    context: AppContext, viewer: Browser, operator: Browser, acme: Sender
) -> None:
    worker, host = Worker(["run"], lease=15.0), f"host-of-{acme.slug}"
    context.database.execute(
        "INSERT INTO workers (id, host, pid, version, started_at, seen_at) VALUES (%s, %s, 4711, '0', now(), now())",
        (str(worker.id), host),
    )
    with context.database.autocommit_connection() as connection:
        job_queue.announce_worker(connection, worker)
        assert f"{host}, process 4711, version 0: running" in operator.get(f"/{acme.slug}/").text
        page = viewer.get(f"/{acme.slug}/").text
        connection.close()
    assert host not in page
    assert "running." in page


def test_more_events_than_are_counted_are_estimated_by_their_pace(
    monkeypatch: pytest.MonkeyPatch, context: AppContext, viewer: Browser, acme: Sender
) -> None:
    monkeypatch.setattr(overview, "MAX_PER_MINUTE", 2)
    monkeypatch.setattr("app.services.overview.MAX_PER_MINUTE", 2)
    for _ in range(5):
        acme.post(an_event())
    found = find_overview(context, acme.account_id)
    assert found.is_estimate
    assert found.events >= 2
    page = viewer.get(f"/{acme.slug}/").text
    assert page.count(">about ") >= 2
    assert "Beyond that, their number is estimated." in page
    assert "at most about " in page


def test_a_target_that_keeps_failing_is_shown_with_the_runs_that_wait(
    context: AppContext, viewer: Browser, acme: Sender
) -> None:
    targets.save_circuits(context, [CircuitChange(acme.account_id, f"POST https://{HOSTILE}", 5, 60.0, 60.0)])
    page = viewer.get(f"/{acme.slug}/").text
    assert "failing since" in page
    assert "0 runs wait" in page
    assert f'href="/console/{acme.slug}/targets">POST https://' in page
    assert "<img src=x" not in page


def test_the_queue_of_the_account_is_counted_apart(context: AppContext, acme: Sender, globex: Sender) -> None:
    workflows.apply_workflow(context, globex.account_id, a_workflow())
    globex.post(an_event())
    found = find_overview(context, globex.account_id).queue
    assert found.own == 1
    assert found.all >= 1
    assert find_overview(context, acme.account_id).queue.own == 0
