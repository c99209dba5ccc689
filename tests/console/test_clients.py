"""The page of OAuth clients: a new client's secret is shown once and gets a token, and a revoked client gets none."""

from __future__ import annotations

import re

from flask.testing import FlaskClient

from app.core.models import ACCOUNT_SCOPES, CLIENT_SCOPES, EVENTS_WRITE
from app.db.audit import EntryFilter
from app.services import api_keys, audit
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.console import Browser

_COMMAND = re.compile(r"-u &#39;(cl_\w+):([\w-]+)&#39;")


def _create(browser: Browser, account: Sender, **fields: object) -> tuple[str, str]:
    """A new client: its id and its secret."""
    path = f"/{account.slug}/clients"
    answer = browser.post(path, path, **{"name": "partner", "scopes": [EVENTS_WRITE], **fields})
    assert answer.status_code == 200, answer.text
    found = _COMMAND.search(answer.text)
    assert found is not None, answer.text
    return found[1], found[2]


def _token(client: FlaskClient, client_id: str, secret: str) -> int:
    return client.post("/1.0/token", data={"grant_type": "client_credentials"}, auth=(client_id, secret)).status_code


def test_a_new_client_is_shown_once_and_gets_tokens_until_it_is_revoked(
    context: AppContext, client: FlaskClient, viewer: Browser, owner: Browser, acme: Sender
) -> None:
    path = f"/{acme.slug}/clients"
    assert "There is no client." in viewer.get(path).text
    client_id, secret = _create(owner, acme)
    assert _token(client, client_id, secret) == 200
    assert api_keys.find_client(context, acme.account_id, client_id).scopes == (EVENTS_WRITE,)
    page = viewer.get(path).text
    assert client_id in page
    assert secret not in page
    assert "Create client" not in page
    assert "/revoke" not in page
    assert owner.post(f"{path}/{client_id}/revoke", path).status_code == 302
    assert f"The client {client_id} is revoked." in owner.get(path).text
    assert _token(client, client_id, secret) == 401
    entries = audit.list_entries(context, EntryFilter(acme.account_id, action="client"), 10)
    assert [(entry.action, entry.actor, entry.object_id) for entry in entries] == [
        ("client.revoke", owner.email, client_id),
        ("client.create", owner.email, client_id),
    ]


def test_the_form_offers_every_scope_and_needs_one(owner: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/clients"
    form = owner.get(path).text
    assert set(re.findall(r'name="scopes"[^>]*value="([^"]+)"', form)) == set(ACCOUNT_SCOPES)
    assert re.findall(r'<input[^>]* checked[^>]*value="([^"]+)"', form) == list(CLIENT_SCOPES)
    answer = owner.post(path, path, name="x" * 300)
    assert answer.status_code == 422
    assert "Choose at least one." in answer.text


def test_a_client_of_another_account_is_neither_shown_nor_revoked(
    context: AppContext, client: FlaskClient, owner: Browser, acme: Sender, globex: Sender
) -> None:
    client_id, secret = api_keys.create_client(context, globex.account_id, "theirs")
    path = f"/{acme.slug}/clients"
    assert client_id not in owner.get(path).text
    assert owner.post(f"{path}/{client_id}/revoke", path).status_code == 404
    assert _token(client, client_id, secret) == 200


def test_a_hostile_name_stays_text(owner: Browser, acme: Sender) -> None:
    _create(owner, acme, name="<script>alert(1)</script>")
    text = owner.get(f"/{acme.slug}/clients").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
