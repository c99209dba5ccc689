"""The page of a person: timeline, why each workflow started or not, and erasure."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask

from app.console import subjects
from app.console.lists import PAGE
from app.db.inspection import EventFilter
from app.services import inspection, workflows
from app.services.context import AppContext
from app.services.subject_erasure import hash_subject
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser
from tests.support.console_pages import fill_account
from tests.support.run_execution import erase_requested, execute_run

HOSTILE = "<script>alert(1)</script> \"'& नमस्ते مرحبا 🛒 " + "x" * 150


def _path(sender: Sender, name: str = "subject", **filters: str) -> str:
    return f"/{sender.slug}/{name}?{urlencode({'subject': HOSTILE, **filters})}"


def _fill(context: AppContext, acme: Sender) -> str:
    """A person with a run that has sent a message, an event that started nothing, and progress; the run."""
    message = {"message": {"text": "Hello {{ distinct_id }}"}}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="hello", steps=[message]))
    pattern = {"seq": ["cart", {"none": "order", "for": "1h"}]}
    workflows.apply_workflow(context, acme.account_id, a_workflow(name="rescue", on=pattern))
    choosy = a_workflow(name="choosy", on={"event": "cart", "where": "data.name == '<script>'"})
    workflows.apply_workflow(context, acme.account_id, choosy)
    run: str = acme.post(an_event(distinct_id=HOSTILE)).get_json()["runs"][0]
    execute_run(context, acme.account_id, run)
    assert acme.post(an_event(event="cart", distinct_id=HOSTILE, data={"name": 1})).status_code == 200
    return run


def test_the_timeline_has_events_decisions_progress_runs_and_messages(
    context: AppContext, viewer: Browser, acme: Sender
) -> None:
    run = _fill(context, acme)
    page = viewer.get(_path(acme)).text
    assert run in page
    assert "message: done: Hello &lt;script&gt;" in page
    assert "choosy did not start: the filter is false" in page
    assert re.search(r"<strong>rescue</strong>: will start at <time datetime=", page)
    assert "<script>alert" not in page
    assert "Erase" not in page


def test_a_long_timeline_has_pages(viewer: Browser, acme: Sender) -> None:
    ids = [acme.post(an_event(distinct_id=HOSTILE)).get_json()["id"] for _ in range(PAGE + 1)]
    first = viewer.get(_path(acme)).text
    assert [event in first for event in ids] == [False, *[True] * PAGE]
    older = first.partition('">Older</a>')[0].rpartition('href="')[2]
    assert [event in viewer.client.get(unescape(older)).text for event in ids] == [True, *[False] * PAGE]


def test_why_answers_for_all_workflows_or_one(context: AppContext, viewer: Browser, acme: Sender) -> None:
    run = _fill(context, acme)
    page = viewer.get(_path(acme, "subject/why")).text
    assert re.search(r"It started at <time datetime=[^>]+>[^<]+</time>, and the run ended at <time", page)
    assert f'/runs/{run}"' in page
    assert "came, but the filter data.name == &#39;&lt;script&gt;&#39; was false." in page
    assert "It has not started yet: will start at <time" in page
    one = viewer.get(_path(acme, "subject/why", workflow="rescue")).text
    assert one.count("<dt") == 1
    assert "<option selected>rescue</option>" in one
    assert viewer.get(_path(acme, "subject/why", workflow="missing")).status_code == 404
    assert viewer.get(f"/{acme.slug}/subject/why").status_code == 404


def test_an_account_without_workflows_says_so(viewer: Browser, acme: Sender) -> None:
    assert "no workflow yet" in viewer.get(_path(acme, "subject/why")).text


def _events(context: AppContext, sender: Sender) -> list[Any]:
    return inspection.find_latest_events(context, sender.account_id, EventFilter(), 10)


def test_counts_that_stop_are_at_least_so_many(
    context: AppContext, owner: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(context, acme)
    monkeypatch.setattr(subjects, "MAX_COUNTED", 2)
    page = owner.get(_path(acme, "subject/erase")).text
    assert "<li>at least 2 events" in page
    assert "<li>1 run," in page


def test_erasing_needs_the_id_and_shows_a_receipt(context: AppContext, owner: Browser, acme: Sender) -> None:
    _fill(context, acme)
    path = _path(acme, "subject/erase")
    page = owner.get(path).text
    assert "<li>2 events" in page
    assert "<li>1 run," in page
    assert "progress in 1 pattern," in page
    post = f"/{acme.slug}/subject/erase"
    refused = owner.post(post, path, subject=HOSTILE, confirmation="somebody")
    assert refused.status_code == 422
    assert "This is not the id." in refused.text
    assert len(_events(context, acme)) == 2
    answer = owner.post(post, path, subject=HOSTILE, confirmation=HOSTILE)
    assert answer.status_code == 302
    waiting = owner.client.get(answer.location).text
    assert f"by {owner.email}: waits for a worker" in waiting
    assert "Nobody was erased yet." not in waiting
    assert len(_events(context, acme)) == 2
    again = owner.post(post, path, subject=HOSTILE, confirmation=HOSTILE)
    assert "The person is being erased already." in owner.client.get(again.location).text
    erase_requested(context, acme.account_id)
    receipt = owner.get(f"/{acme.slug}/receipts").text
    assert "waits for a worker" not in receipt
    assert "events 2, progress 1" in receipt
    assert owner.email in receipt
    assert _events(context, acme) == []
    hashed = hash_subject(context, acme.account_id, HOSTILE).hex()
    assert hashed[:16] in receipt
    assert "Nothing is stored" in owner.get(_path(acme)).text


def test_receipts_of_nobody(viewer: Browser, acme: Sender) -> None:
    assert "Nobody was erased yet." in viewer.get(f"/{acme.slug}/receipts").text


def test_a_phone_number_in_another_spelling_leads_to_its_digits(viewer: Browser, acme: Sender) -> None:
    acme.post(an_event(distinct_id="915673412780"))
    page = viewer.get(f"/{acme.slug}/subject?{urlencode({'subject': '+91 56734-12780'})}").text
    assert "Nothing is stored about this id." in page
    assert f'href="/console/{acme.slug}/subject?subject=915673412780">915673412780</a>' in page
    assert "Senders often" not in viewer.get(f"/{acme.slug}/subject?subject=nobody").text


def test_the_id_of_a_row_leads_to_its_page(app: Flask, viewer: Browser, acme: Sender, globex: Sender) -> None:
    filled = fill_account(app, acme, "a")
    for name, row in (
        ("events", filled.event),
        ("runs", filled.failed),
        ("deliveries", filled.mapped),
        ("refusals", filled.refusal),
    ):
        assert viewer.get(f"/{acme.slug}/subjects?subject={row}").location == f"/console/{acme.slug}/{name}/{row}"
    theirs = globex.post(an_event()).get_json()["id"]
    assert "/subject?subject=" in viewer.get(f"/{acme.slug}/subjects?subject={theirs}").location
