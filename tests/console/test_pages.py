"""The pages of events, runs and people on a filled account: what they show, their filters, their cursors, and hostile text."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

import pytest

from app.console.lists import PAGE
from app.core import pacing
from app.core.work_shares import WorkShares
from app.services import workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.clocks import Clock
from tests.support.console import Browser
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run

HOSTILE = "<img src=x onerror=alert(1)>\"&'"


def _run(context: AppContext, sender: Sender, status: int) -> dict[str, Any]:
    """An event whose run calls a target that answers with this status, once; the answer to the event."""
    with an_http_target(Answer(status, b"out of order")) as target:
        step = {"http": {"url": target.url}, "retry": {"attempts": 1}}
        workflows.apply_workflow(context, sender.account_id, a_workflow(steps=[step]))
        answer: dict[str, Any] = sender.post(an_event()).get_json()
        for run in answer["runs"]:
            execute_run(context, sender.account_id, run)
    return answer


def test_what_a_page_takes_comes_out_of_the_share_of_its_account(
    context: AppContext, viewer: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = WorkShares(Clock())
    monkeypatch.setattr(context.limits.console_pages, "_shares", shares)
    monkeypatch.setattr(pacing, "_end_piece", lambda: 0.001)
    assert viewer.get(f"/{acme.slug}/events").status_code == 200
    assert list(shares._left) == [acme.account_id]


def test_the_list_of_events_leads_to_each_event(viewer: Browser, acme: Sender) -> None:
    sent = acme.post(an_event()).get_json()
    page = viewer.get(f"/{acme.slug}/events").text
    assert f'href="/console/{acme.slug}/events/{sent["id"]}"' in page
    assert viewer.get(f"/{acme.slug}/events/{sent['id']}").status_code == 200


@pytest.mark.parametrize(
    ("filters", "is_shown"),
    [
        ({"event": "product_view"}, True),
        ({"event": "other"}, False),
        ({"subject": "915673412780"}, True),
        ({"subject": "1"}, False),
        ({"since": "2020-01-01T00:00"}, True),
        ({"until": "2020-01-01T00:00"}, False),
        ({"since": "yesterday"}, True),
    ],
    ids=str,
)
def test_filters_are_in_the_url(viewer: Browser, acme: Sender, filters: dict[str, str], is_shown: bool) -> None:
    sent = acme.post(an_event()).get_json()
    for path in ("events", "events/rows"):
        page = viewer.get(f"/{acme.slug}/{path}?{urlencode(filters)}").text
        assert (str(sent["id"]) in page) == is_shown
        assert ("No event passes these filters." in page) != is_shown


def test_a_list_has_pages(viewer: Browser, acme: Sender) -> None:
    ids = [acme.post(an_event(event=f"event {number}")).get_json()["id"] for number in range(PAGE + 1)]
    first = viewer.get(f"/{acme.slug}/events").text
    assert [event_id in first for event_id in ids] == [False, *[True] * PAGE]
    older = first.partition('">Older</a>')[0].rpartition('href="')[2]
    second = viewer.client.get(older).text
    assert [event_id in second for event_id in ids] == [True, *[False] * PAGE]
    assert "data-refresh" not in second
    assert "Older" not in second
    assert viewer.get(f"/{acme.slug}/events?after=x").status_code == 404


def test_an_event_is_shown_with_its_decisions_and_exact_numbers(
    context: AppContext, viewer: Browser, acme: Sender
) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="wanted"))
    not_matching = a_workflow(name="choosy", on={"event": "product_view", "where": "data.price < 1.0"})
    workflows.apply_workflow(context, acme.account_id, not_matching)
    body = '{"event": "product_view", "distinct_id": "1", "data": {"price": 12345678901234567890.10}, "more": 1e2}'
    sent = acme.post(body).get_json()
    page = viewer.get(f"/{acme.slug}/events/{sent['id']}").text
    assert "12345678901234567890.10" in page
    assert "Further fields" in page
    assert f'<a href="/console/{acme.slug}/runs/{sent["runs"][0]}">a run</a>' in page
    assert ": matched" in page
    assert "did not start: the filter is false" in page
    raw = viewer.get(f"/{acme.slug}/events/{sent['id']}/data")
    assert raw.text == '{"price": 12345678901234567890.10}'
    assert raw.content_type == "text/plain; charset=utf-8"


def test_hostile_text_stays_text(context: AppContext, viewer: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(on=HOSTILE))
    sent = acme.post(an_event(event=HOSTILE, distinct_id=HOSTILE, data={HOSTILE: HOSTILE})).get_json()
    pages = (
        "",
        "events",
        f"events/{sent['id']}",
        "runs",
        f"runs/{sent['runs'][0]}",
        f"subject?{urlencode({'subject': HOSTILE})}",
    )
    for path in pages:
        text = viewer.get(f"/{acme.slug}/{path}").text
        assert "<img src=x" not in text, path
        assert "&lt;img src=x" in text, path


def test_a_failed_run_is_explained_and_an_editor_retries_it(
    context: AppContext, viewer: Browser, editor: Browser, acme: Sender
) -> None:
    run = _run(context, acme, 500)["runs"][0]
    assert run in viewer.get(f"/{acme.slug}/runs?failed=1").text
    page = viewer.get(f"/{acme.slug}/runs/{run}").text
    assert "out of order" in page
    assert "Attempt 1" in page
    assert "Retry" not in page
    path = f"/{acme.slug}/runs/{run}"
    assert editor.post(f"{path}/retry", path).status_code == 302
    assert "The run continues at the failed step." in editor.get(path).text
    assert run not in viewer.get(f"/{acme.slug}/runs?failed=1").text


def test_an_editor_cancels_a_run(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow(steps=[{"wait": "1h"}]))
    run = acme.post(an_event()).get_json()["runs"][0]
    path = f"/{acme.slug}/runs/{run}"
    assert editor.post(f"{path}/cancel", path).status_code == 302
    assert "The run is cancelled." in editor.get(path).text
    assert editor.post(f"{path}/cancel", path).status_code == 302
    assert "does not run any more" in editor.get(path).text


def test_a_person_is_one_timeline(context: AppContext, viewer: Browser, acme: Sender) -> None:
    workflows.apply_workflow(
        context, acme.account_id, a_workflow(name="cart", on={"seq": ["cart", "order"], "within": "1d"})
    )
    acme.post(an_event(event="cart", distinct_id="anna/1"))
    answer = viewer.get(f"/{acme.slug}/subjects?subject=anna/1")
    assert answer.status_code == 302
    page = viewer.client.get(answer.location).text
    assert "Progress in patterns" in page
    assert "<strong>cart</strong>" in page
    assert "Nothing is stored" in viewer.get(f"/{acme.slug}/subject?subject=nobody").text


@pytest.mark.parametrize("path", ["events", "runs"])
def test_what_another_account_has_does_not_exist(
    context: AppContext, owner: Browser, acme: Sender, globex: Sender, path: str
) -> None:
    workflows.apply_workflow(context, globex.account_id, a_workflow())
    sent = globex.post(an_event()).get_json()
    wanted = sent["id"] if path == "events" else sent["runs"][0]
    assert owner.get(f"/{acme.slug}/{path}/{wanted}").status_code == 404
    assert wanted not in owner.get(f"/{acme.slug}/{path}").text


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("events", "Events"),
        ("workflows/templates", "Workflows"),
        ("workflows/edit", "Workflows"),
        ("deliveries", "Sources"),
        ("secrets", "Settings"),
        ("integrations", "Settings"),
    ],
    ids=lambda value: value,
)
def test_the_navigation_shows_where_a_page_belongs(owner: Browser, acme: Sender, path: str, entry: str) -> None:
    page = owner.get(f"/{acme.slug}/{path}").text
    assert re.findall(r'aria-current="page"[^>]*>([^<]+)<', page) == [entry]
