"""The pages of sources: created from a preset, changed, given a new URL, switched, and tried."""

from __future__ import annotations

import base64
import hmac
import html
import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.core.errors import Problem
from app.services import secrets, sources
from app.services.audit import EntryFilter, list_entries
from app.services.context import AppContext
from app.services.differences import MAX_LINES
from app.workflows.sources.preset_files import preset_names, sample_of
from tests.support.builders import Sender
from tests.support.console import Browser

SECRET = "the secret of the shop"
OPEN = "name: shop\nverify: none\nmap: {event: body.kind, distinct_id: body.who}\n"
HOSTILE = "<script>alert(1)</script>"
_URL = re.compile(r"<code>(http://localhost)(/hooks/[^<]+)</code>")
_DOCUMENT = re.compile(r"<textarea[^>]*name=\"document\"[^>]*>\n(.*?)</textarea>", re.DOTALL)


def text_of(page: Any) -> str:
    """The document in the text area of a page."""
    found = _DOCUMENT.search(page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


def prepare(browser: Browser, account: Sender, **choices: str) -> str:
    """The document that the page of a new source prepares."""
    page = browser.get(f"/{account.slug}/sources/new", query_string={"name": "shop", "provider": "", **choices})
    return text_of(page)


def create(browser: Browser, account: Sender, text: str, **fields: str) -> str:
    """The path of the URL of a new source."""
    answer = browser.post(
        f"/{account.slug}/sources", f"/{account.slug}/sources/new?name=a&provider=", document=text, **fields
    )
    assert answer.status_code == 200, answer.text
    found = _URL.search(answer.text)
    assert found is not None, answer.text
    return found[2]


def refused(browser: Browser, path: str, account: Sender, **fields: str) -> str:
    """The page that says what is wrong with a form."""
    answer = browser.post(path, f"/{account.slug}/sources/new?name=a&provider=", **fields)
    assert answer.status_code == 422, answer.text
    return answer.text


def test_a_source_of_a_preset_is_created_and_accepts_a_signed_delivery(
    context: AppContext, client: FlaskClient, editor: Browser, acme: Sender
) -> None:
    assert "There is no source yet." in editor.get(f"/{acme.slug}/sources").text
    text = prepare(editor, acme, provider="shopify")
    assert text == 'name: shop\nprovider: shopify\nsecrets: ["{{ secrets.SHOP }}"]\n'
    path = create(editor, acme, text.replace("\n", "\r\n"), **{"secret-SHOP": SECRET})
    body = b'{"id": 7, "email": "asha@example.com"}'
    signature = base64.b64encode(hmac.digest(SECRET.encode(), body, "sha256")).decode()
    headers = {"X-Shopify-Hmac-SHA256": signature, "X-Shopify-Topic": "orders/create"}
    answer = client.post(path, data=body, headers=headers, content_type="application/json")
    assert answer.get_json()["result"] == "accepted"
    assert sources.find_source(context, acme.account_id, "shop").source == text
    listed = editor.get(f"/{acme.slug}/sources").text
    assert "shopify" in listed
    assert "Last delivery" in listed
    assert path not in listed + editor.get(f"/{acme.slug}/source/shop").text
    entry = list_entries(context, EntryFilter(account_id=acme.account_id, action="source.create"), 1)[0]
    assert (entry.actor, entry.via) == (editor.email, "console")


@pytest.mark.parametrize("provider", ["", *preset_names()])
def test_every_prepared_document_can_be_created(editor: Browser, acme: Sender, provider: str) -> None:
    text = prepare(editor, acme, provider=provider)
    page = editor.get(f"/{acme.slug}/sources/new", query_string={"name": "shop", "provider": provider}).text
    needed = re.findall(r'name="(secret-[A-Z_]+)"', page)
    assert len(needed) == {"whatsapp": 2, "listener": 0}.get(provider, 1)
    create(editor, acme, text, **dict.fromkeys(needed, SECRET))


def test_a_secret_that_the_account_has_is_used_and_never_overwritten(
    context: AppContext, editor: Browser, acme: Sender
) -> None:
    secrets.set_secret(context, acme.account_id, "OF_SHOPIFY", SECRET)
    text = prepare(editor, acme, provider="shopify", secret="OF_SHOPIFY")
    assert '"{{ secrets.OF_SHOPIFY }}"' in text
    create(editor, acme, text, **{"secret-OF_SHOPIFY": "another value"})
    assert secrets.find_values(context, acme.account_id, ["OF_SHOPIFY"]) == {"OF_SHOPIFY": SECRET}


def test_mistakes_are_shown_at_their_lines_and_the_text_stays(editor: Browser, acme: Sender) -> None:
    text = f'name: shop\nprovider: "{HOSTILE} नमस्ते"\nsecrets: ["{{{{ secrets.SHOP }}}}"]\n'
    page = refused(editor, f"/{acme.slug}/sources", acme, document=text, **{"secret-SHOP": SECRET})
    assert "Line 2, column" in page
    assert "is not known; known are" in page
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page
    assert SECRET not in page
    assert "There is no secret yet." in editor.get(f"/{acme.slug}/secrets").text


def test_a_document_is_checked_while_it_is_typed(editor: Browser, acme: Sender) -> None:
    path, form = f"/{acme.slug}/sources/check", f"/{acme.slug}/sources/new?name=a&provider="
    page = editor.post(path, form, document=OPEN + "colour: red\r\n")
    assert 'data-line="4"' in page.text
    assert "<html" not in page.text
    good = editor.post(path, form, document=prepare(editor, acme, provider="shopify"))
    assert "No mistakes." in good.text
    assert "does not have the secret <code>SHOP</code> yet" in good.text


def test_a_secret_without_a_good_value_is_asked_for(context: AppContext, editor: Browser, acme: Sender) -> None:
    text = prepare(editor, acme, provider="shopify")
    path = f"/{acme.slug}/sources"
    assert "the value is missing" in refused(editor, path, acme, document=text)
    assert "must have at least 8 characters" in refused(editor, path, acme, document=text, **{"secret-SHOP": "short"})
    assert sources.list_sources(context, acme.account_id) == []


def test_a_new_source_does_not_change_another_one(context: AppContext, editor: Browser, acme: Sender) -> None:
    sources.apply_source(context, acme.account_id, OPEN)
    changed = OPEN.replace("body.kind", "body.type")
    page = refused(editor, f"/{acme.slug}/sources", acme, document=changed)
    assert "there is a source &#39;shop&#39; already" in page
    assert sources.find_source(context, acme.account_id, "shop").latest_version == 1


def test_a_document_is_edited_as_the_next_version(context: AppContext, editor: Browser, acme: Sender) -> None:
    sources.apply_source(context, acme.account_id, OPEN)
    path = f"/{acme.slug}/source/shop"
    assert text_of(editor.get(f"{path}/edit")) == OPEN
    page = refused(editor, f"{path}/edit", acme, document=OPEN + "colour: red\n", version="1")
    assert "Line 4, column 1" in page
    assert '<pre class="excerpt" dir="auto">colour: red</pre>' in page
    renamed = refused(editor, f"{path}/edit", acme, document=OPEN.replace("shop", "other"), version="1")
    assert "must stay shop" in renamed
    changed = OPEN.replace("body.kind", "body.type")
    assert editor.post(f"{path}/edit", path, document=changed, version="1").status_code == 302
    page = editor.get(path).text
    assert "Version 2 is in use from the next delivery on (map.event)." in page
    assert re.search(r"added</span>.*map: {event: body.type", editor.get(f"{path}/versions/2").text)
    assert "body.kind" in editor.get(f"{path}/versions/1").text
    assert editor.get(f"{path}/versions/3").status_code == 404
    late = refused(editor, f"{path}/edit", acme, document=OPEN, version="1")
    assert "Version 2 was saved while you edited." in late
    editor.post(f"{path}/edit", path, document=changed, version="2")
    assert "Nothing has changed." in editor.get(path).text


@pytest.mark.parametrize("latest", [0, 2])
def test_a_version_that_was_not_seen_is_not_overwritten(context: AppContext, acme: Sender, latest: int) -> None:
    sources.apply_source(context, acme.account_id, OPEN)
    with pytest.raises(Problem, match="Version 1 was saved"):
        sources.apply_source(context, acme.account_id, OPEN + "description: b\n", edited=("shop", latest))
    assert sources.find_source(context, acme.account_id, "shop").source == OPEN


def test_a_source_that_was_deleted_is_not_created_by_its_editor(context: AppContext, acme: Sender) -> None:
    with pytest.raises(Problem, match="was deleted while you edited"):
        sources.apply_source(context, acme.account_id, OPEN, edited=("shop", 1))
    assert sources.list_sources(context, acme.account_id) == []


def test_versions_that_are_too_long_are_not_compared(context: AppContext, editor: Browser, acme: Sender) -> None:
    for kind in ("a", "b"):
        lines = "".join(f"# {number % 100}\n" for number in range(MAX_LINES))
        sources.apply_source(context, acme.account_id, OPEN.replace("body.kind", f"body.{kind}") + lines)
    assert "too long to be compared here" in editor.get(f"/{acme.slug}/source/shop/versions/2").text


def test_a_new_url_is_shown_once_and_the_old_one_works_for_a_while(
    context: AppContext, client: FlaskClient, editor: Browser, acme: Sender
) -> None:
    old = f"/hooks/{sources.apply_source(context, acme.account_id, OPEN).token}"
    path, order = f"/{acme.slug}/source/shop", {"kind": "order", "who": "asha"}
    answer = editor.post(f"{path}/rotate", path, overlap="24")
    assert "The old URL works until" in answer.text
    new = _URL.search(answer.text)
    assert new is not None
    assert client.post(new[2], json=order).status_code == 200
    assert client.post(old, json=order).status_code == 200
    assert "The old URL no longer works." in editor.post(f"{path}/rotate", path, overlap="0").text
    assert client.post(new[2], json=order).status_code == 404


def test_a_source_is_disabled_and_enabled(context: AppContext, editor: Browser, acme: Sender) -> None:
    sources.apply_source(context, acme.account_id, OPEN)
    path = f"/{acme.slug}/source/shop"
    for enabled in ("0", "1"):
        assert editor.post(f"{path}/switch", path, enabled=enabled).status_code == 302
        assert sources.find_source(context, acme.account_id, "shop").enabled is (enabled == "1")
    assert "The source is enabled." in editor.get(path).text


def test_a_source_is_deleted_after_the_page_has_said_what_ends(
    client: FlaskClient, context: AppContext, editor: Browser, acme: Sender
) -> None:
    url, page = create(editor, acme, OPEN), f"/{acme.slug}/source/shop"
    client.post(url, json={"other": 1})
    assert f'href="/console{page}/delete"' in editor.get(page).text
    plan = editor.get(f"{page}/delete").text
    assert "with 1 version." in plan
    assert "can no longer be mapped afterwards" in plan
    assert editor.post(f"{page}/delete", f"{page}/delete").location == f"/console/{acme.slug}/sources"
    assert "The source shop is deleted." in editor.get(f"/{acme.slug}/sources").text
    assert client.post(url, json={"kind": "a", "who": "1"}).status_code == 404
    assert editor.get(f"{page}/delete").status_code == 404
    (entry,) = list_entries(context, EntryFilter(acme.account_id, action="source.delete"), 10)
    assert (entry.actor, entry.via, entry.object_id) == (editor.email, "console", "shop")


def test_a_request_is_tried_without_storing_anything(context: AppContext, editor: Browser, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    text = 'name: shop\nprovider: shopify\nsecrets: ["{{ secrets.SHOP }}"]\n'
    sources.apply_source(context, acme.account_id, text)
    path = f"/{acme.slug}/source/shop/try"
    sample = html.unescape(editor.get(path).text)
    assert "X-Shopify-Topic: orders/create" in sample
    sent = sample.partition('name="request"')[2].partition(">\n")[2].partition("</textarea>")[0]
    page = editor.post(path, path, document=text, request=sent.replace("\n", "\r\n")).text
    assert "no, the header x-shopify-hmac-sha256 is missing" in page
    assert "Event 1 of 1" in page
    assert "+915673412780" in page
    page = editor.post(path, path, document=text, request=HOSTILE)
    assert page.status_code == 422
    assert "line 1: expected METHOD PATH" in page.text
    assert HOSTILE not in page.text
    assert "Nothing has arrived yet." in editor.get(f"/{acme.slug}/source/shop").text


def test_a_viewer_changes_nothing_and_sees_no_source_of_others(
    context: AppContext, viewer: Browser, acme: Sender, globex: Sender
) -> None:
    sources.apply_source(context, acme.account_id, OPEN)
    sources.apply_source(context, globex.account_id, OPEN.replace("shop", "of_globex"))
    page = viewer.get(f"/{acme.slug}/sources").text
    assert "of_globex" not in page
    assert "New source" not in page
    one = viewer.get(f"/{acme.slug}/source/shop").text
    assert "Edit</a>" not in one
    assert "Make a new URL" not in one
    assert viewer.get(f"/{acme.slug}/source/of_globex").status_code == 404


def test_a_signed_sample_takes_the_way_of_a_delivery(context: AppContext, editor: Browser, acme: Sender) -> None:
    secrets.set_secret(context, acme.account_id, "SHOP", SECRET)
    text = 'name: shop\nprovider: shopify\nsecrets: ["{{ secrets.SHOP }}"]\n'
    sources.apply_source(context, acme.account_id, text)
    path = f"/{acme.slug}/source/shop"
    sample = sample_of("shopify").decode()
    answer = editor.post(f"{path}/send", path, request=sample)
    assert answer.status_code == 302
    page = editor.client.get(answer.location).text
    assert "accepted like one of the provider" in page
    assert f"/{acme.slug}/events/" in page
    again = editor.post(f"{path}/send", path, request=sample)
    assert "1 of them stored before" in editor.client.get(again.location).text
    entry = list_entries(context, EntryFilter(account_id=acme.account_id, action="source.test"), 1)[0]
    assert (entry.actor, entry.object_id) == (editor.email, "shop")
    assert "line 1: expected METHOD PATH" in refused(editor, f"{path}/send", acme, request="x")
    secrets.remove_secret(context, acme.account_id, "SHOP", force=True)
    assert "the account lacks the secret SHOP" in refused(editor, f"{path}/send", acme, request=sample)
