"""The editor of workflows: mistakes at their lines, new versions, and texts that are never lost."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.services import secrets, workflows
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.console import Browser, csrf_token

GOOD = 'name: cart\non: cart_updated\nsteps:\n  - log: "hello"\n'
BAD = "name: cart\non: {event: cart_updated, where: data.x >}\nsteps: []\n"
HOSTILE = "</textarea><script>alert(1)</script> नमस्ते שלום 🛒 " + "x" * 500


def _send(browser: Browser, account: Sender, to: str = "edit", name: str = "", **fields: Any) -> TestResponse:
    """Open the editor of a workflow (a new one without a name), and send its form with another text."""
    page = browser.get(f"/{account.slug}/workflows/edit?name={name}")
    form = {field: _value(page, field) for field in ("loaded", "version")}
    data = {"csrf_token": csrf_token(page), **form, **fields}
    return browser.client.post(f"/console/{account.slug}/workflows/{to}", data=data)


def _value(page: TestResponse, field: str) -> str:
    found = re.search(f'name="{field}" value="([^"]*)"', page.text)
    return html.unescape(found[1]) if found else ""


def _text(page: TestResponse) -> str:
    """The text in the text area, as a browser reads it."""
    inside = page.text.partition("<textarea")[2].partition(">")[2].partition("</textarea>")[0]
    return html.unescape(inside).removeprefix("\n")


def test_a_new_workflow_begins_with_a_text_without_mistakes(editor: Browser, acme: Sender) -> None:
    page = editor.get(f"/{acme.slug}/workflows/edit")
    assert page.status_code == 200
    assert "No mistakes." in page.text


def test_a_viewer_cannot_edit(viewer: Browser, acme: Sender) -> None:
    assert viewer.get(f"/{acme.slug}/workflows/edit").status_code == 403


def test_an_unknown_workflow_does_not_exist(context: AppContext, editor: Browser, acme: Sender, globex: Sender) -> None:
    workflows.apply_workflow(context, globex.account_id, GOOD)
    assert editor.get(f"/{acme.slug}/workflows/edit?name=cart").status_code == 404


def test_a_saved_workflow_is_a_version_that_is_not_enabled(context: AppContext, editor: Browser, acme: Sender) -> None:
    answer = _send(editor, acme, source=GOOD, save="plain")
    assert answer.location == f"/console/{acme.slug}/workflow?name=cart&version=1"
    assert "Version 1 is saved; the workflow is disabled." in editor.client.get(answer.location).text
    found = workflows.find_workflow(context, acme.account_id, "cart")
    assert (found.source, found.latest_version, found.enabled_version) == (GOOD, 1, None)


def test_a_choice_enables_the_version_at_once(context: AppContext, editor: Browser, acme: Sender) -> None:
    _send(editor, acme, source=GOOD, save="plain")
    _send(editor, acme, name="cart", source=GOOD.replace("hello", "bye"), save="enable")
    found = workflows.find_workflow(context, acme.account_id, "cart")
    assert (found.latest_version, found.enabled_version) == (2, 2)


def test_saving_leaves_the_enabled_version_enabled(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, GOOD)
    _send(editor, acme, name="cart", source=GOOD.replace("hello", "bye"), save="plain")
    found = workflows.find_workflow(context, acme.account_id, "cart")
    assert (found.latest_version, found.enabled_version) == (2, 1)


def test_a_comment_is_a_change(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, GOOD)
    _send(editor, acme, name="cart", source="# why\n" + GOOD, save="plain")
    assert workflows.find_workflow(context, acme.account_id, "cart").source == "# why\n" + GOOD


def test_the_same_text_makes_no_version(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, GOOD)
    _send(editor, acme, name="cart", source=GOOD, save="plain")
    assert workflows.find_workflow(context, acme.account_id, "cart").latest_version == 1


def test_line_breaks_of_browsers_become_lf(context: AppContext, editor: Browser, acme: Sender) -> None:
    _send(editor, acme, source=GOOD.replace("\n", "\r\n"), save="plain")
    assert workflows.find_workflow(context, acme.account_id, "cart").source == GOOD


def test_mistakes_are_shown_at_their_lines_with_the_text_kept(editor: Browser, acme: Sender) -> None:
    page = _send(editor, acme, source=BAD, save="enable")
    assert page.status_code == 422
    assert _text(page) == BAD
    assert 'data-line="2"' in page.text
    assert '<span class="bad">2</span>' in page.text
    assert "<code>on.where</code>" in page.text
    assert editor.get(f"/{acme.slug}/workflows/edit?name=cart").status_code == 404


def test_a_version_with_mistakes_is_saved_on_demand(context: AppContext, editor: Browser, acme: Sender) -> None:
    assert _send(editor, acme, source=BAD, save="with-mistakes").status_code == 302
    found = workflows.find_workflow(context, acme.account_id, "cart")
    assert (found.source, found.enabled_version) == (BAD, None)
    assert 'data-line="2"' in editor.get(f"/{acme.slug}/workflows/edit?name=cart").text


@pytest.mark.parametrize("save", ["plain", "with-mistakes"])
def test_a_text_that_is_no_workflow_is_kept(editor: Browser, acme: Sender, save: str) -> None:
    page = _send(editor, acme, source="a: [", save=save)
    assert page.status_code == 422
    assert _text(page) == "a: ["
    assert "not YAML" in page.text


def test_a_missing_secret_is_a_mistake(context: AppContext, editor: Browser, acme: Sender) -> None:
    source = 'name: cart\non: a\nsteps:\n  - http: {url: "https://example.com/{{ secrets.SHOP }}"}\n'
    assert "the account has no secret SHOP" in _send(editor, acme, to="check", source=source).text
    secrets.set_secret(context, acme.account_id, "SHOP", "abcdefgh12345678")
    assert "No mistakes." in _send(editor, acme, to="check", source=source).text


def test_the_script_gets_the_mistakes_alone(editor: Browser, acme: Sender) -> None:
    page = editor.get(f"/{acme.slug}/workflows/edit")
    fields = {"csrf_token": csrf_token(page), "source": BAD}
    answer = editor.client.post(f"/console/{acme.slug}/workflows/check", data=fields, headers={"X-Fragment": "1"})
    assert "<html" not in answer.text
    assert 'data-line="2"' in answer.text


def test_a_version_of_somebody_else_is_not_overwritten(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, GOOD)
    mine = GOOD.replace("hello", "mine")
    workflows.apply_workflow(context, acme.account_id, GOOD.replace("hello", "theirs"))
    page = _send(editor, acme, name="cart", version="1", source=mine, save="plain")
    assert page.status_code == 409
    assert "Somebody saved version 2 after you opened version 1" in page.text
    assert _text(page) == mine
    assert "theirs" in workflows.find_workflow(context, acme.account_id, "cart").source
    assert _value(page, "version") == "2"


def test_a_deleted_workflow_can_be_saved_again(context: AppContext, editor: Browser, acme: Sender) -> None:
    page = _send(editor, acme, loaded="cart", version="3", source=GOOD, save="plain")
    assert page.status_code == 409
    assert "was deleted after you opened it" in page.text
    assert (_value(page, "loaded"), _value(page, "version")) == ("", "0")


def test_a_new_workflow_does_not_replace_one_of_its_name(context: AppContext, editor: Browser, acme: Sender) -> None:
    workflows.apply_workflow(context, acme.account_id, GOOD)
    page = _send(editor, acme, source=GOOD.replace("hello", "mine"), save="plain")
    assert page.status_code == 409
    assert "There is already a workflow" in page.text
    assert _text(page) == GOOD.replace("hello", "mine")


def test_a_new_name_is_warned_about_before_it_creates_a_workflow(
    context: AppContext, editor: Browser, acme: Sender
) -> None:
    workflows.apply_workflow(context, acme.account_id, GOOD)
    renamed = GOOD.replace("cart\n", "basket\n", 1)
    page = _send(editor, acme, name="cart", source=renamed, save="plain")
    assert page.status_code == 409
    assert "saving creates another workflow" in page.text
    assert _value(page, "warned") == "basket"
    assert _send(editor, acme, name="cart", source=renamed, save="plain", warned="basket").status_code == 302
    assert workflows.find_workflow(context, acme.account_id, "basket").source == renamed
    assert workflows.find_workflow(context, acme.account_id, "cart").latest_version == 1


def test_hostile_text_stays_text(editor: Browser, acme: Sender) -> None:
    source = f"name: cart\non: [{HOSTILE}\n"
    for to in ("check", "edit"):
        page = _send(editor, acme, to=to, source=source, loaded=HOSTILE)
        assert "<script>alert" not in page.text
        assert " style=" not in page.text
        assert _text(page) == source


def test_a_large_text_is_refused_as_a_mistake(editor: Browser, acme: Sender) -> None:
    page = _send(editor, acme, to="check", source="# " + "x" * 300_000)
    assert "larger than 262144 bytes" in page.text
