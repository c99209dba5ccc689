"""What the console does with events: test events, filters without an index, replay."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from flask import Flask

from app.api.rate_limit import RateLimiter
from app.core.models import PLANS
from app.db import event_search
from app.db.audit import EntryFilter
from app.services import accounts, audit, inspection, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser

HOSTILE = "<script>alert('नमस्ते')</script> مرحبا 🛒"


def _send(browser: Browser, sender: Sender, **fields: Any) -> Any:
    path = f"/{sender.slug}/events/new"
    return browser.post(path, path, **{"event": "product_view", "distinct_id": "7", "data": "{}", **fields})


def _ids(browser: Browser, sender: Sender, **filters: str) -> list[str]:
    """The ids of the events in the list, and in the links to older ones, in order."""
    page = browser.get(f"/{sender.slug}/events/rows?{urlencode(filters)}")
    assert page.status_code == 200
    return re.findall(r'/events/([0-9a-f-]{36})"', page.text)


def test_a_test_event_starts_workflows_and_is_audited(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    answer = _send(editor, acme, event="product_view", distinct_id=HOSTILE, data=f'{{"price": 1.10, "x": "{HOSTILE}"}}')
    assert answer.status_code == 302
    page = editor.client.get(answer.location).text
    assert "1.10" in page
    assert "console: a test event" in page
    assert f"/{acme.slug}/workflow?name=" in page
    assert "started <a href=" in page
    assert "<script>alert" not in page
    assert "started <a href=" in editor.client.get(f"{answer.location}/now").text
    [entry] = audit.list_entries(context, EntryFilter(acme.account_id, action="event.test"), 10)
    assert (entry.actor, entry.via) == (editor.email, "console")
    assert answer.location.endswith(str(entry.object_id))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": '{\n "a": ,\n}'}, "it is not JSON: expecting value at line 2, column 7."),
        ({"data": "[1]"}, "it is an array; it must be an object."),
        ({"data": '{"a": "\\u0000"}'}, "contains a NUL character"),
        ({"data": '{"a": 1, "a": 2}'}, "The name a appears twice in its object."),
        ({"event": ""}, "is missing"),
        ({"distinct_id": ""}, "is missing, and so is phone"),
        ({"phone": "12"}, "phone"),
        ({"event": "x" * 300}, "has 300 characters"),
    ],
    ids=["syntax", "array", "nul", "twice", "no name", "nobody", "phone", "long"],
)
def test_a_mistake_is_shown_at_its_field(editor: Browser, acme: Sender, fields: dict[str, str], message: str) -> None:
    answer = _send(editor, acme, **fields)
    assert answer.status_code == 422
    name = next(iter(fields))
    field = answer.text.partition(f'id="{name}-help"')[2].partition("<label")[0]
    assert message in field
    assert 'class="text-danger' in field
    assert _ids(editor, acme) == []


def test_a_test_event_counts_against_the_plan(app: Flask, context: AppContext, editor: Browser, acme: Sender) -> None:
    accounts.change_plan(context, acme.account_id, PLANS["standard"], 1)
    limiter: RateLimiter = app.extensions["rate_limiter"]
    # Opens a window of so many seconds.
    assert limiter.take(acme.account_id, 1, 1_000).allowed
    answer = _send(editor, acme)
    assert answer.status_code == 429
    assert "1 events a second" in answer.text


def test_a_disabled_account_takes_no_test_event(context: AppContext, editor: Browser, acme: Sender) -> None:
    accounts.switch_account(context, acme.account_id, on=False)
    answer = _send(editor, acme)
    assert answer.status_code == 403
    assert 'role="alert"' in answer.text


def test_a_test_event_that_is_too_large_is_refused(context: AppContext, editor: Browser, acme: Sender) -> None:
    text = "x" * context.settings.max_event_bytes
    answer = _send(editor, acme, data=f'{{"a": "{text}"}}')
    assert answer.status_code == 413
    assert 'role="alert"' in answer.text


def test_events_are_found_by_outcome_and_source(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    choosy = a_workflow(name="choosy", on={"event": "order", "where": "data.price > 100"})
    workflows.apply_workflow(context, acme.account_id, choosy)
    workflows.apply_workflow(
        context, acme.account_id, a_workflow(name="two", on={"seq": ["cart", "buy"], "within": "1d"})
    )
    names = {"started": "product_view", "not-started": "order", "contributed": "cart", "no-workflow": "other"}
    sent = {
        outcome: acme.post(an_event(event=name, data={"price": 1})).get_json()["id"] for outcome, name in names.items()
    }
    by_hand = _send(editor, acme, event="other").location.rpartition("/")[2]
    assert _ids(editor, acme, outcome="started") == [sent["started"]]
    assert _ids(editor, acme, outcome="contributed") == [sent["contributed"]]
    assert _ids(editor, acme, outcome="no-workflow") == [by_hand, sent["no-workflow"]]
    assert _ids(editor, acme, outcome="not-started") == [sent["contributed"], sent["not-started"]]
    assert _ids(editor, acme, source="console") == [by_hand]
    assert set(_ids(editor, acme, source="api")) == set(sent.values())
    assert _ids(editor, acme, source="shopify") == []
    assert len(_ids(editor, acme, outcome="unknown")) == 5


@pytest.mark.parametrize(
    ("test", "is_found"),
    [
        ("data.order.id = 5", True),
        ("order.id=5.0", True),
        ("data.order.id = 6", False),
        ('data.order.id = "5"', False),
        ("data.items[1].sku = A-1", True),
        ('data.items[1].sku = "A-1"', True),
        ("data.items[0].sku = A-1", False),
        ("data.text = 7", True),
        ("data.नाम = 🛒", True),
        ("data.paid = true", True),
        ("data.missing = null", False),
    ],
)
def test_events_are_found_by_a_path_in_their_data(viewer: Browser, acme: Sender, test: str, is_found: bool) -> None:
    data = {"order": {"id": 5}, "items": [{}, {"sku": "A-1"}], "text": "7", "नाम": "🛒", "paid": True}
    sent = acme.post(an_event(data=data)).get_json()["id"]
    acme.post(an_event(data={"order": 5, "items": {}}))
    assert _ids(viewer, acme, data=test) == ([sent] if is_found else [])


@pytest.mark.parametrize("test", ["order", "= 5", "a[x] = 5", "a..b = 5", ".".join("a" * 30) + " = 1", "a = 1e999999"])
def test_an_unreadable_test_of_data_is_explained(viewer: Browser, acme: Sender, test: str) -> None:
    page = viewer.get(f"/{acme.slug}/events?{urlencode({'data': test})}")
    assert page.status_code == 200
    assert 'role="alert"' in page.text


def test_a_search_goes_on_where_it_has_stopped(monkeypatch: pytest.MonkeyPatch, viewer: Browser, acme: Sender) -> None:
    monkeypatch.setattr(event_search, "MAX_LOOKED_AT", 2)
    wanted = acme.post(an_event(data={"a": 1})).get_json()["id"]
    for _ in range(3):
        acme.post(an_event(data={"a": 2}))
    found, path = [], f"/{acme.slug}/events?data=a+%3D+1"
    for _ in range(3):
        text = viewer.get(path).text
        found += re.findall(r'/events/([0-9a-f-]{36})"', text)
        path = text.partition('">Older</a>')[0].rpartition('href="/console')[2].replace("&amp;", "&")
    assert found == [wanted]


def test_a_replay_shows_what_would_start_and_starts_one_or_all(
    context: AppContext, editor: Browser, acme: Sender
) -> None:
    sent = acme.post(an_event()).get_json()["id"]
    for name in ("first", "second", "third"):
        workflows.apply_workflow(context, acme.account_id, a_workflow(name=name))
    path = f"/{acme.slug}/events/{sent}"
    page = editor.get(f"{path}/replay").text
    assert "Start 3 runs" in page
    assert editor.post(f"{path}/replay", f"{path}/replay", workflow="second").status_code == 302
    page = editor.get(path).text
    assert "1 run started." in page
    page = editor.get(f"{path}/replay").text
    assert "has had <a href=" in page
    assert "Start 2 runs" in page
    editor.post(f"{path}/replay", f"{path}/replay")
    assert "2 runs started." in editor.get(path).text
    assert "there is nothing to replay" in editor.get(f"{path}/replay").text


def test_a_viewer_sees_no_button_that_changes_something(viewer: Browser, acme: Sender) -> None:
    sent = acme.post(an_event()).get_json()["id"]
    assert "Send a test event" not in viewer.get(f"/{acme.slug}/events").text
    assert "Replay" not in viewer.get(f"/{acme.slug}/events/{sent}").text


def test_an_event_of_another_account_is_not_replayed(
    context: AppContext, owner: Browser, acme: Sender, globex: Sender
) -> None:
    sent = globex.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, globex.account_id, a_workflow())
    path = f"/{acme.slug}/events/{sent}/replay"
    assert owner.get(path).status_code == 404
    assert owner.post(path, "/profile").status_code == 404
    found = inspection.find_event_details(context, globex.account_id, UUID(sent))
    assert found is not None
    assert found.runs == []


def test_a_viewer_neither_sends_nor_replays(context: AppContext, viewer: Browser, acme: Sender) -> None:
    sent = acme.post(an_event()).get_json()["id"]
    workflows.apply_workflow(context, acme.account_id, a_workflow())
    for path in (f"/{acme.slug}/events/{sent}/replay", f"/{acme.slug}/events/new"):
        assert viewer.get(path).status_code == 403
        assert viewer.post(path, "/profile", event="order", distinct_id="1").status_code == 403
    assert _ids(viewer, acme) == [sent]
