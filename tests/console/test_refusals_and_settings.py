"""The pages of refused requests, members and the audit log."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from flask import Flask

from app.core.models import EDITOR, OWNER, VIEWER
from app.db.accounts import AccountDetails
from app.db.refusals import RefusalFilter
from app.services import accounts, api_keys, refusals, users
from app.services.context import AppContext
from tests.support.builders import Sender, an_event
from tests.support.console import Browser, a_user, sign_in

HOSTILE = "<script>alert(1)</script>"


def _refuse(app: Flask, context: AppContext, sender: Sender, **fields: object) -> str:
    """The id of the refusal of an event."""
    answer = sender.post(an_event(**fields))
    assert answer.status_code == 422
    answer.close()
    app.extensions["refusals"].flush()
    (latest,) = refusals.find_latest_refusals(context, sender.account_id, RefusalFilter(), 1)
    return str(latest.id)


def test_a_refusal_is_listed_and_explained(app: Flask, context: AppContext, viewer: Browser, acme: Sender) -> None:
    assert "No request was refused lately." in viewer.get(f"/{acme.slug}/refusals").text
    refusal = _refuse(app, context, acme, phone="1", event=HOSTILE)
    assert refusal in viewer.get(f"/{acme.slug}/refusals?status=422&route=/api/v1/cvf-events").text
    assert refusal not in viewer.get(f"/{acme.slug}/refusals?status=400").text
    page = viewer.get(f"/{acme.slug}/refusals/{refusal}").text
    assert "<code>phone</code>" in page
    assert "&lt;script&gt;" in page
    assert HOSTILE not in page
    assert "Replay</button>" not in page
    download = viewer.get(f"/{acme.slug}/refusals/{refusal}/body")
    assert download.get_json(force=True)["phone"] == "1"
    assert download.content_type == "application/octet-stream"
    assert download.headers["Content-Disposition"].startswith("attachment;")


def test_refusals_of_an_oauth_client_are_found_by_its_name_and_shown_with_its_token(
    app: Flask, context: AppContext, viewer: Browser, acme: Sender
) -> None:
    client_id, secret = api_keys.create_client(context, acme.account_id, "cx")
    client = api_keys.authenticate_client(context, client_id, secret)
    token = client and api_keys.issue_token(context, client, secret, client.scopes)
    assert token
    refusal = _refuse(app, context, replace(acme, token=token.text), phone="1")
    assert f"<code>{token.text[:17]}…</code>" in viewer.get(f"/{acme.slug}/refusals/{refusal}").text
    for key in ("cx", f"{token.text[:17]}…"):
        page = viewer.get(f"/{acme.slug}/refusals?key={key}").text
        assert refusal in page
        assert f"<code>{token.text[:17]}…</code>" in page
    assert refusal not in viewer.get(f"/{acme.slug}/refusals?key=cxx").text


def test_an_editor_replays_a_refusal(app: Flask, context: AppContext, editor: Browser, acme: Sender) -> None:
    refusal = _refuse(app, context, acme, phone="1")
    path = f"/{acme.slug}/refusals/{refusal}"
    assert editor.post(f"{path}/replay", path).status_code == 302
    assert "Refused again:" in editor.get(path).text
    accounts.update_account_details(context, acme.account_id, AccountDetails(unusable_phone="store"))
    editor.post(f"{path}/replay", path)
    page = editor.get(path).text
    assert "Accepted: 1 new event." in page
    assert "the event</a>" in page
    assert refusal not in editor.get(f"/{acme.slug}/refusals?waiting=1").text


def test_a_refusal_of_another_account_does_not_exist(
    app: Flask, context: AppContext, editor: Browser, acme: Sender, globex: Sender
) -> None:
    refusal = _refuse(app, context, globex, phone="1")
    for path in ("", "/body"):
        assert editor.get(f"/{acme.slug}/refusals/{refusal}{path}").status_code == 404
    assert editor.post(f"/{acme.slug}/refusals/{refusal}/replay", "/profile").status_code == 404


def test_settings_show_the_id_and_the_plan(viewer: Browser, acme: Sender) -> None:
    page = viewer.get(f"/{acme.slug}/settings").text
    assert f"<code>{acme.account_id}</code>" in page
    assert "any number of events" in page
    assert "Set role" not in page


def test_an_owner_gives_and_takes_roles(app: Flask, context: AppContext, owner: Browser, acme: Sender) -> None:
    email, path = a_user(context, None), f"/{acme.slug}/settings"
    for role, expected in ((VIEWER, VIEWER), (EDITOR, EDITOR), ("none", None)):
        assert owner.post(f"{path}/members", path, email=email, role=role).status_code == 302
        account = accounts.find_account(context, acme.slug)
        assert account is not None
        assert users.find_role(context, users.find_user(context, email), account.id) == expected
    assert sign_in(app, email).get(f"/{acme.slug}/").status_code == 404


def test_a_role_that_cannot_be_given_is_explained(context: AppContext, owner: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/settings"
    unknown = owner.post(f"{path}/members", path, email=f"{uuid4()}@example.com", role=VIEWER)
    assert unknown.status_code == 404
    assert "there is no user" in unknown.text
    a_user(context, acme, VIEWER)
    last = owner.post(f"{path}/members", path, email=owner.email, role=VIEWER)
    assert last.status_code == 409
    assert "is the last owner" in last.text


def test_the_audit_log_says_who_changed_what(context: AppContext, owner: Browser, acme: Sender) -> None:
    email, path = a_user(context, None), f"/{acme.slug}/settings"
    owner.post(f"{path}/members", path, email=email, role=OWNER)
    page = owner.get(f"/{acme.slug}/audit?action=user.role").text
    assert f"{owner.email} (console)" in page
    assert email in page
    assert "No change passes these filters." in owner.get(f"/{acme.slug}/audit?actor=nobody").text
