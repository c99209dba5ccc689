"""The pages that try a workflow, and the templates to begin from."""

from __future__ import annotations

import html
import re
from typing import Any
from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from app.services import secrets, workflows
from app.services.context import AppContext
from app.workflows.workflow_template_files import workflow_templates
from tests.support.builders import Sender, a_workflow, an_event
from tests.support.console import Browser, csrf_token

SAYS = 'name: says\non: {event: product_view, where: data.n > 1}\nsteps:\n  - log: "n is {{ data.n }}"\n'
HOSTILE = "<script>alert(1)</script> नमस्ते שלום 🛒 " + "x" * 300


def _try(browser: Browser, account: Sender, source: str = SAYS, **fields: Any) -> TestResponse:
    token = csrf_token(browser.get(f"/{account.slug}/workflows/edit"))
    data = {"csrf_token": token, "source": source, **fields}
    return browser.client.post(f"/console/{account.slug}/workflows/try", data=data)


def test_an_own_event_shows_each_step_with_its_text(editor: Browser, acme: Sender) -> None:
    page = _try(editor, acme, on="own", own='{"event": "product_view", "distinct_id": "1", "data": {"n": 2.50}}')
    assert page.status_code == 200
    assert "starts a run" in page.text
    assert "n is 2.50" in page.text
    assert "The run is done." in page.text


def test_an_event_that_starts_nothing_says_why(editor: Browser, acme: Sender) -> None:
    page = _try(editor, acme, on="own", own='{"event": "product_view", "distinct_id": "1", "data": {"n": 1}}')
    assert "starts nothing</span> the filter is false" in page.text


@pytest.mark.parametrize("on", ["latest", "stored"])
def test_a_stored_event_is_chosen_by_name_or_id(editor: Browser, acme: Sender, on: str) -> None:
    event = acme.post(an_event(data={"n": 7})).get_json()["id"]
    page = _try(editor, acme, on=on, latest="product_view", event=event)
    assert "n is 7" in page.text


def test_a_saved_workflow_is_tried_by_a_link(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, SAYS)
    event = acme.post(an_event(data={"n": 7})).get_json()["id"]
    assert "n is 7" not in editor.get(f"/{acme.slug}/workflows/try?name=says").text
    assert "n is 7" in editor.get(f"/{acme.slug}/workflows/try?name=says&event={event}").text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"on": "own", "own": "{"}, "not JSON"),
        ({"on": "latest", "latest": "never sent"}, "is stored"),
        ({"on": "stored", "event": "x"}, "The id of an event is expected"),
        ({"on": "stored", "event": str(uuid4())}, "there is no event"),
        ({"on": "own", "own": '{"event": "a"}', "source": "name: x"}, "The workflow has mistakes"),
    ],
    ids=["json", "name", "id", "unknown", "mistakes"],
)
def test_what_cannot_be_tried_is_explained(editor: Browser, acme: Sender, fields: dict[str, str], message: str) -> None:
    page = _try(editor, acme, **fields)
    assert page.status_code in (404, 422)
    assert message in page.text


def test_the_event_of_another_account_is_not_found(editor: Browser, acme: Sender, globex: Sender) -> None:
    event = globex.post(an_event(data={"n": 7})).get_json()["id"]
    page = _try(editor, acme, on="stored", event=event)
    assert page.status_code == 404
    assert "n is 7" not in page.text


def test_secrets_are_masked_and_missing_ones_are_said(context: AppContext, editor: Browser, acme: Sender) -> None:
    step = {
        "http": {"url": "https://example.com", "headers": {"X-Shop": "{{ secrets.SHOP }}"}, "body": "{{ secrets.B }}"}
    }
    source, own = a_workflow(on="a", steps=[step]), '{"event": "a", "distinct_id": "1"}'
    secrets.set_secret(context, acme.account_id, "SHOP", "secret-of-the-shop")
    page = _try(editor, acme, source=source, on="own", own=own)
    assert "X-Shop: ***" in page.text
    assert "secret-of-the-shop" not in page.text
    assert "The account lacks the secret B." in page.text


def test_from_the_editor_the_form_comes_with_the_text_and_an_event(editor: Browser, acme: Sender) -> None:
    page = _try(editor, acme)
    assert "n is {{ data.n }}" in html.unescape(page.text)
    assert '{"event": "product_view"' in html.unescape(page.text)
    assert "What would happen" not in page.text


def test_hostile_text_stays_text(editor: Browser, acme: Sender) -> None:
    source = a_workflow(on="*", steps=[{"log": "{{ data.text }}"}, {"http": {"url": "{{ data.text }}"}, "else": []}])
    own = html.unescape(f'{{"event": "a", "distinct_id": "{HOSTILE[:255]}", "data": {{"text": "{HOSTILE}"}}}}')
    page = _try(editor, acme, source=source, on="own", own=own)
    assert "The run is done." in page.text
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


def test_a_viewer_cannot_try(viewer: Browser, acme: Sender) -> None:
    assert viewer.get(f"/{acme.slug}/workflows/try?name=x").status_code == 403


def test_the_list_of_templates_leads_to_the_editor(editor: Browser, acme: Sender) -> None:
    page = editor.get(f"/{acme.slug}/workflows/templates").text
    for key, template in workflow_templates().items():
        assert template.description in html.unescape(page)
        assert f'href="/console/{acme.slug}/workflows/edit?template={key}"' in page
    assert editor.get(f"/{acme.slug}/workflows/edit?template=none").status_code == 404


@pytest.mark.parametrize("key", list(workflow_templates()))
def test_a_template_is_opened_tried_and_saved(context: AppContext, editor: Browser, acme: Sender, key: str) -> None:
    page = editor.get(f"/{acme.slug}/workflows/edit?template={key}")
    assert "No mistakes." in page.text
    found = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page.text, re.DOTALL)
    assert found is not None
    source = html.unescape(found[1])
    form = _try(editor, acme, source=source).text
    sample = re.search(r'<textarea id="own"[^>]*>\n(.*?)</textarea>', form, re.DOTALL)
    assert sample is not None
    assert "The run is done." in _try(editor, acme, source=source, on="own", own=html.unescape(sample[1])).text
    fields = {"csrf_token": csrf_token(page), "source": source, "save": "enable"}
    editor.client.post(f"/console/{acme.slug}/workflows/edit", data=fields)
    assert workflows.find_workflow(context, acme.account_id, key).enabled_version == 1
