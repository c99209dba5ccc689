"""The page of what comes next: runs that wait and workflows that are about to start, by day, a page at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from app.console import upcoming
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser
from tests.support.run_execution import execute_run


def _fill(context: AppContext, sender: Sender) -> str:
    """A run that waits for a day, and a workflow that starts in two hours unless an event comes before; the run."""
    never = {"seq": ["product_view", {"none": "order_placed", "for": "2h"}]}
    for document in (a_workflow(steps=[{"wait": "1d"}]), a_workflow(name="abandoned", on=never)):
        workflows.apply_workflow(context, sender.account_id, document)
    run: str = sender.post(an_event()).get_json()["runs"][0]
    execute_run(context, sender.account_id, run)
    return run


def _rows(page: str) -> list[str]:
    return page.partition("<tbody>")[2].partition("</tbody>")[0].split("</tr>")[:-1]


def test_what_comes_next_is_listed_and_leads_to_its_run_workflow_and_person(
    context: AppContext, viewer: Browser, acme: Sender
) -> None:
    path = f"/{acme.slug}/upcoming"
    assert "No run waits" in viewer.get(path).text
    run = _fill(context, acme)
    starts, goes_on = _rows(viewer.get(path).text)
    assert "starts" in starts
    assert "name=abandoned" in starts
    assert "subject=915673412780" in starts
    assert f"/{acme.slug}/runs/{run}" in goes_on
    assert f'href="/console{path}"' in viewer.get(f"/{acme.slug}/runs").text
    at = datetime.now(UTC) + timedelta(hours=5)
    assert len(_rows(viewer.get(f"{path}?until={at:%Y-%m-%dT%H:%M}").text)) == 1
    assert run in viewer.get(f"{path}?since={at:%Y-%m-%dT%H:%M}").text
    assert "No run continues and no workflow starts in this time." in viewer.get(f"{path}?since=2100-01-01T00:00").text


def test_tomorrow_is_that_of_the_account(viewer: Browser, acme: Sender) -> None:
    day = datetime.now(UTC).date() + timedelta(days=1)
    link = f"upcoming?since={day}T00:00&until={day + timedelta(days=1)}T00:00"
    assert link in unescape(viewer.get(f"/{acme.slug}/upcoming").text).replace("%3A", ":")


def test_a_long_list_has_pages(
    context: AppContext, viewer: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upcoming, "PAGE", 1)
    run, path = _fill(context, acme), f"/{acme.slug}/upcoming"
    first = viewer.get(path).text
    assert run not in first
    link = next(unescape(part.split('"')[0]) for part in first.split('href="/console') if "?after=" in part)
    second = viewer.get(link).text
    assert run in second
    assert "?after=" not in second
    assert viewer.get(f"{path}?after=soon").status_code == 404
    assert viewer.get(f"{path}?after=2026-01-01,a,b,c").status_code == 404


def test_another_account_sees_nothing(context: AppContext, viewer: Browser, globex: Sender, acme: Sender) -> None:
    _fill(context, globex)
    assert "No run waits" in viewer.get(f"/{acme.slug}/upcoming").text
