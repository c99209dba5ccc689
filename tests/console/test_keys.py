"""The page of API keys: a new key is shown once and works, and hostile names stay text."""

from __future__ import annotations

import re

from flask import Flask
from flask.testing import FlaskClient

from app.core.models import ACCOUNT_SCOPES, EVENTS_WRITE, OPERATOR, WORKFLOWS_READ
from app.services import api_keys, audit
from app.services.audit import EntryFilter
from app.services.context import AppContext
from tests.support.builders import EVENTS_PATH, Sender, an_event
from tests.support.console import Browser

_TOKEN = re.compile(r"sb_[0-9A-Za-z]{8}_[0-9A-Za-z_-]{49}")


def _create(browser: Browser, account: Sender, **fields: str) -> str:
    """A new key; its text."""
    path = f"/{account.slug}/keys"
    answer = browser.post(path, path, **{"name": "shop", "scopes": EVENTS_WRITE, "lifetime": "", **fields})
    assert answer.status_code == 200, answer.text
    found = _TOKEN.findall(answer.text)
    assert found
    return str(found[0])


def test_a_new_key_is_shown_once_and_works(client: FlaskClient, owner: Browser, acme: Sender) -> None:
    token = _create(owner, acme)
    fields = {"x-limechat-uat": token, "x-fb-account-id": str(acme.account_id)}
    assert client.post(EVENTS_PATH, json=an_event(), headers=fields).status_code == 200
    page = owner.get(f"/{acme.slug}/keys").text
    assert token not in page
    assert token[:11] in page


def test_a_revoked_key_is_refused(client: FlaskClient, owner: Browser, acme: Sender) -> None:
    token = _create(owner, acme)
    path = f"/{acme.slug}/keys"
    assert owner.post(f"{path}/{token[3:11]}/revoke", path).status_code == 302
    fields = {"x-limechat-uat": token, "x-fb-account-id": str(acme.account_id)}
    assert client.post(EVENTS_PATH, json=an_event(), headers=fields).status_code == 401
    assert f"The key {token[:11]}_… is revoked" in owner.get(path).text


def test_a_key_of_another_account_cannot_be_revoked(owner: Browser, acme: Sender, globex: Sender) -> None:
    path = f"/{acme.slug}/keys"
    assert owner.post(f"{path}/{globex.token[3:11]}/revoke", path).status_code == 404
    assert globex.post(an_event()).status_code == 200


def test_a_key_expires_as_chosen(context: AppContext, owner: Browser, acme: Sender) -> None:
    token = _create(owner, acme, lifetime="30")
    found = {key.prefix: key for key in api_keys.list_keys(context, acme.account_id)}[token[3:11]]
    assert found.expires_at is not None
    assert (found.expires_at - context.clock()).days == 29


def test_the_form_says_what_is_wrong(owner: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/keys"
    answer = owner.post(path, path, name="x" * 300)
    assert answer.status_code == 422
    assert "Choose at least one." in answer.text
    assert "255" in answer.text


def test_a_hostile_name_stays_text(owner: Browser, acme: Sender) -> None:
    _create(owner, acme, name="<script>alert(1)</script>")
    text = owner.get(f"/{acme.slug}/keys").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_key_is_audited_under_the_name_of_the_user(context: AppContext, owner: Browser, acme: Sender) -> None:
    token = _create(owner, acme)
    entry = audit.list_entries(context, EntryFilter(account_id=acme.account_id, action="key.create"), 1)[0]
    assert (entry.actor, entry.via, entry.object_id) == (owner.email, "console", token[:11])
    assert entry.request_id is not None


def test_only_owners_see_the_form(app: Flask, viewer: Browser, editor: Browser, acme: Sender) -> None:
    for browser in (viewer, editor):
        text = browser.get(f"/{acme.slug}/keys").text
        assert "Generate new key" not in text
        assert "An owner of the account can generate" in text


def test_a_new_key_sends_events_unless_other_scopes_are_chosen(owner: Browser, acme: Sender) -> None:
    page = owner.get(f"/{acme.slug}/keys").text
    assert re.findall(r'<input[^>]* checked[^>]*value="([^"]+)"', page) == [EVENTS_WRITE]


def test_every_scope_of_an_account_can_be_chosen_and_operator_cannot(
    context: AppContext, owner: Browser, acme: Sender
) -> None:
    path = f"/{acme.slug}/keys"
    form = owner.get(path).text
    assert set(re.findall(r'name="scopes"[^>]*value="([^"]+)"', form)) == set(ACCOUNT_SCOPES)
    token = _create(owner, acme, scopes=WORKFLOWS_READ)
    assert api_keys.find_key(context, acme.account_id, token[3:11]).scopes == (WORKFLOWS_READ,)
    assert owner.post(path, path, name="x", scopes=OPERATOR, lifetime="").status_code == 422
