"""The pages of refused requests, members and the audit log."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from flask import Flask

from app.console import refusals as console_refusals
from app.core.models import EDITOR, OWNER, VIEWER
from app.db.accounts import AccountDetails
from app.db.audit import EntryFilter
from app.db.refusals import RefusalFilter
from app.ingest import refusals_replay
from app.services import accounts, api_keys, audit, refusals, users
from app.services.context import AppContext
from tests.db.test_refusals import a_refusal, insert
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
    request_id = refusals.find_refusal(context, acme.account_id, UUID(refusal)).request_id
    assert refusal in viewer.get(f"/{acme.slug}/refusals?request_id={request_id}").text
    assert refusal not in viewer.get(f"/{acme.slug}/refusals?request_id=other").text
    page = viewer.get(f"/{acme.slug}/refusals/{refusal}").text
    assert "<code>phone</code>" in page
    assert "&lt;script&gt;" in page
    assert HOSTILE not in page
    assert "Replay</button>" not in page
    assert "An editor or owner of the account can replay it" in page
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


def test_many_refusals_are_replayed_after_a_plan(
    app: Flask, context: AppContext, viewer: Browser, editor: Browser, acme: Sender
) -> None:
    path = f"/{acme.slug}/refusals"
    insert(context, a_refusal(acme.account_id, context.clock() - timedelta(hours=1), type="account-mismatch"))
    assert "Replay all" not in editor.get(path).text
    assert "No refused request can be replayed." in editor.get(f"{path}/replay").text
    refused = [_refuse(app, context, acme, phone="1", distinct_id=str(number)) for number in range(3)]
    accounts.update_account_details(context, acme.account_id, AccountDetails(unusable_phone="store"))
    assert "Replay all" not in viewer.get(path).text
    plan_path = f"{path}/replay?type=validation-failed"
    assert f'href="/console{plan_path}">Replay all that pass' in editor.get(f"{path}?type=validation-failed").text
    plan = editor.get(plan_path).text
    assert "<strong>3 refused requests</strong> can be replayed:" in plan
    assert "3 validation-failed on /api/v1/cvf-events" in plan
    assert "No refused request that passes the filters can be replayed." in editor.get(f"{path}/replay?status=413").text
    assert editor.post(plan_path, plan_path).location == f"/console{path}?type=validation-failed"
    assert "3 of 3 accepted: 3 new events." in editor.get(path).text
    entries = audit.list_entries(context, EntryFilter(acme.account_id, action="refusal.replay"), 10)
    assert [entry.object_id for entry in entries] == refused[::-1]
    assert {entry.actor for entry in entries} == {editor.email}
    assert "Replay all" not in editor.get(path).text


def test_one_click_replays_a_part_and_the_next_one_goes_on_behind_it(
    app: Flask, context: AppContext, editor: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_refusals, "MAX_REPLAYED", 2)
    first, second, third = (_refuse(app, context, acme, phone="1", distinct_id=str(number)) for number in range(3))
    path = f"/{acme.slug}/refusals/replay"
    assert "More than 2 refused requests can be replayed. The oldest 2 of them:" in editor.get(path).text
    answer = editor.post(path, path)
    assert answer.location == f"/console{path}?after={second}"
    page = editor.get(f"{path}?after={second}").text
    assert "0 of 2 accepted: 0 new events." in page
    assert f"Refusal {first}: " in page
    assert "<strong>1 refused request</strong> can be replayed:" in page
    assert editor.post(f"{path}?after={second}", path).location == f"/console/{acme.slug}/refusals"
    assert f"Refusal {third}: " in editor.get(path).text
    assert "No further refused request is left" in editor.get(f"{path}?after={third}").text


def test_a_click_replays_at_least_one_refusal_and_begins_no_other_when_its_time_is_over(
    app: Flask, context: AppContext, editor: Browser, acme: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_replay, "_SECONDS", -1)
    first, _ = (_refuse(app, context, acme, phone="1", distinct_id=str(number)) for number in range(2))
    path = f"/{acme.slug}/refusals/replay"
    assert editor.post(path, path).location == f"/console{path}?after={first}"
    assert "0 of 1 accepted: 0 new events." in editor.get(f"{path}?after={first}").text


def test_refusals_of_another_account_are_not_replayed(
    app: Flask, context: AppContext, editor: Browser, acme: Sender, globex: Sender
) -> None:
    refusal = _refuse(app, context, globex, phone="1")
    accounts.update_account_details(context, globex.account_id, AccountDetails(unusable_phone="store"))
    path = f"/{acme.slug}/refusals/replay"
    assert "No refused request can be replayed." in editor.get(path).text
    editor.post(path, path)
    assert refusals.find_refusal(context, globex.account_id, UUID(refusal)).replayed_at is None


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
