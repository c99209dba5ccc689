"""The page of settings: names, the time zone, usage, and how long rows are kept."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from app.core.models import STORE
from app.db.accounts import AccountDetails, AccountRow
from app.db.audit import EntryFilter
from app.services import accounts, audit, retention
from app.services.context import AppContext
from tests.support.builders import Sender, an_event
from tests.support.console import Browser

HOSTILE = "<b>दुकान مرحبا 🛒</b>"


def _account(context: AppContext, sender: Sender) -> AccountRow:
    found = accounts.find_account(context, sender.slug)
    assert found is not None
    return found


def _details(**changes: str) -> dict[str, Any]:
    return {
        "name": "Shop",
        "time_zone": "Asia/Kolkata",
        "unusable_phone": STORE,
        "key_attribute": "customer",
        "event_attribute": "kind",
        **changes,
    }


def test_an_owner_changes_names_and_the_time_zone(context: AppContext, owner: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/settings"
    assert owner.post(path, path, **_details(name=HOSTILE)).status_code == 302
    found = _account(context, acme)
    details = AccountDetails(
        found.name, found.key_attribute, found.event_attribute, found.unusable_phone, found.time_zone
    )
    assert details == AccountDetails(HOSTILE, "customer", "kind", STORE, "Asia/Kolkata")
    page = owner.get(path).text
    assert "The settings are saved." in page
    assert HOSTILE not in page
    assert 'value="Asia/Kolkata"' in page
    (entry,) = audit.list_entries(context, EntryFilter(acme.account_id, action="account.change"), 10)
    assert (entry.actor, (entry.after or {})["time_zone"]) == (owner.email, "Asia/Kolkata")


def test_an_unknown_time_zone_is_explained_and_changes_nothing(
    context: AppContext, owner: Browser, acme: Sender
) -> None:
    path = f"/{acme.slug}/settings"
    answer = owner.post(path, path, **_details(time_zone="Mars/Olympus"))
    assert answer.status_code == 422
    assert "the time zone is not known" in answer.text
    assert 'value="Mars/Olympus"' in answer.text
    assert _account(context, acme).time_zone == "UTC"


def test_a_viewer_sees_settings_and_no_form(viewer: Browser, acme: Sender) -> None:
    acme.post(an_event())
    page = viewer.get(f"/{acme.slug}/settings").text
    assert '<dt class="col-sm-3">Time zone</dt><dd class="col-sm-9">UTC</dd>' in page
    assert "1 event in the last hour, 1 event in the last 24 hours" in page
    assert "Change the retention" not in page
    assert '<button class="btn btn-primary">' not in page


def test_a_shorter_retention_is_shown_before_it_deletes(context: AppContext, owner: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/settings/retention"
    plan = owner.get(f"{path}?events=90d&runs=forever").text
    assert "This deletes, now and from now on: <strong>events older than 90d</strong>" in plan
    assert all(one.is_default for one in retention.find_retention(context, acme.account_id))
    assert owner.post(path, f"{path}?events=90d", events="90d").status_code == 302
    kept = {one.kind.name: retention.write_keep(one.keep) for one in retention.find_retention(context, acme.account_id)}
    assert kept["events"] == "90d"
    assert "Nothing is deleted by this change." in owner.get(f"{path}?events=100d").text
    owner.post(path, path, events="default")
    assert all(one.is_default for one in retention.find_retention(context, acme.account_id))


def test_a_wrong_retention_is_explained_at_its_field(owner: Browser, acme: Sender) -> None:
    path = f"/{acme.slug}/settings/retention"
    assert "&#39;soon&#39; is not a duration" in owner.get(f"{path}?events=soon").text
    assert owner.post(path, path, events="soon").status_code == 422
    answer = owner.post(path, path, events="1h")
    assert answer.status_code == 422
    assert "the shortest retention is 1d" in answer.text


def test_an_owner_sees_the_signing_secret_and_the_audit_log_says_so(
    context: AppContext, owner: Browser, editor: Browser, acme: Sender
) -> None:
    path = f"/{acme.slug}/settings/signing"
    assert "An owner of the account can see it." in editor.get(path).text
    assert "whsec_" not in owner.get(path).text
    page = owner.post(path, path)
    found = re.search(r"<code>(whsec_[^<]+)</code>", page.text)
    assert found is not None
    assert unescape(found[1]) == accounts.show_signing_secret(context, acme.account_id)
    assert page.headers["Cache-Control"] == "no-store"
    *_, entry = audit.list_entries(context, EntryFilter(acme.account_id, action="account.show-signing-secret"), 10)
    assert (entry.actor, entry.via, entry.object_id) == (owner.email, "console", acme.slug)


def test_the_settings_say_how_the_account_is_exported(viewer: Browser, acme: Sender) -> None:
    command = f"signalbox account export {acme.slug} --gzip &gt; {acme.slug}.ndjson.gz"
    assert command in viewer.get(f"/{acme.slug}/settings").text
