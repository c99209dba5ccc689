"""Every route that changes something leaves one entry in the audit log, in the name of its API key or OAuth client.

`CALLS` has a call of each route that is not only read; a route without one fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask

from app.core.api_keys import prefix_of
from app.db.audit import Entry, EntryFilter
from app.services import api_keys, audit, integrations
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant

SECRET = "canary-b1946ac9"
PATTERN = {
    "name": "Greeting",
    "description": "says hello",
    "status": True,
    "when": '(event (= type "hello"))',
    "then": f'(send echo message {{:message "Hello +TM1 {SECRET}"}})',
}
TEMPLATE = {"name": "SMS", "description": "to a customer", "template": f"Hi {{{{first-name}}}} {SECRET}"}
API = {"name": "CRM", "description": "", "type": "api", "service": "engine", "augment-service": "engine"}
API |= {"options": {"url": f"https://crm.example.com/?token={SECRET}", "method": "GET"}}
FILE = {**API, "type": "file", "options": {}}
CSV = b"id,segment\n1,gold\n"
LISTENER = {
    "name": "Shop",
    "description": "orders",
    "type": "shopify",
    "status": True,
    "mapping": {"id": "customer.id"},
}
LISTENER |= {"options": {"hash": SECRET}, "password": SECRET}
TWILIO = {"account": "AC" + "0" * 32, "password": SECRET, "from": "+15005550006"}


@dataclass(frozen=True)
class Call:
    """A call that changes something: its body, and the action of its entry. `action` None: the route changes no configuration,
    for this `reason`."""

    action: str | None
    body: Any = None
    reason: str = ""


TENANT = "/tenants/<tenant>"
CALLS: Mapping[str, Call] = {
    "POST /api/v1/cvf-events": Call(None, reason="stores an event"),
    "POST /api/v1/cvf-events/batch": Call(None, reason="stores events"),
    f"POST {TENANT}/event": Call(None, reason="stores an event"),
    f"POST {TENANT}/listeners/<name>/receive": Call(None, reason="stores an event"),
    "POST /hooks/<token>": Call(None, reason="stores a delivery and its events"),
    f"POST {TENANT}/ticket": Call(None, reason="makes a ticket that ends by itself"),
    "POST /token": Call(None, reason="makes a token that ends by itself"),
    f"POST {TENANT}/key-attribute": Call("account.change", {"key": "customer"}),
    f"POST {TENANT}/patterns": Call("pattern.create", PATTERN),
    f"PUT {TENANT}/patterns/<name>": Call("pattern.change", {"status": False, "code": None}),
    f"DELETE {TENANT}/patterns/<name>": Call("pattern.delete"),
    f"POST {TENANT}/templates": Call("template.create", TEMPLATE),
    f"PUT {TENANT}/templates/<name>": Call("template.change", {"template": f"Hello {SECRET}"}),
    f"DELETE {TENANT}/templates/<name>": Call("template.delete"),
    f"POST {TENANT}/listeners": Call("listener.create", LISTENER),
    f"PUT {TENANT}/listeners/<name>": Call("listener.change", {"status": False, "options": {"password": SECRET}}),
    f"DELETE {TENANT}/listeners/<name>": Call("listener.delete"),
    f"POST {TENANT}/listeners/<name>/token": Call("listener.renew-token"),
    f"POST {TENANT}/augments": Call("augment.create", API),
    f"PUT {TENANT}/augments/<name>": Call("augment.change", {"description": "new"}),
    f"DELETE {TENANT}/augments/<name>": Call("augment.delete"),
    f"POST {TENANT}/augments/<name>/file": Call("augment.put-file", CSV),
    f"DELETE {TENANT}/augments/<name>/file": Call("augment.delete-file"),
    f"POST {TENANT}/integrations/<name>": Call("integration.set", TWILIO),
}
NAMES = {"patterns": "PT1", "templates": "TM2", "listeners": "LI1", "augments": "AU1", "integrations": "twilio"}
CHANGING = [name for name, call in CALLS.items() if call.action is not None]


def test_every_route_has_a_call_or_a_reason_to_have_none(app: Flask) -> None:
    found = {
        f"{method} {rule.rule.removeprefix('/1.0')}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
    }
    assert set(CALLS) == found
    assert all((call.action is None) == bool(call.reason) for call in CALLS.values())


@pytest.fixture
def filled(tenant: Tenant, context: AppContext) -> Tenant:
    """The tenant with a resource of each kind, and with a file."""
    first = {"name": "used", "description": "", "template": "x"}
    for path, body in (
        ("/templates", first),
        ("/templates", TEMPLATE),
        ("/patterns", PATTERN),
        ("/listeners", LISTENER),
        ("/augments", FILE),
    ):
        assert tenant.post(path, body).status_code == 201
    assert tenant.post("/augments/AU1/file", CSV, headers={"Content-Type": "text/csv"}).status_code == 201
    integrations.set_integration(
        context,
        tenant.account_id,
        integrations.find_kind("twilio"),
        {"account_sid": "AC" + "1" * 32, "auth_token": "old"},
    )
    return tenant


def _entries(context: AppContext, tenant: Tenant) -> list[Entry]:
    return audit.list_entries(context, EntryFilter(tenant.account_id), 1_000)


def _send(tenant: Tenant, name: str, body: Any, **headers: str) -> Any:
    method, _, rule = name.partition(" ")
    path = rule.removeprefix(TENANT)
    kind = path.split("/")[1]
    types = {"Content-Type": "text/csv"} if body is CSV else {}
    return tenant.call(method, path.replace("<name>", NAMES.get(kind, "")), body, headers={**types, **headers})


@pytest.mark.parametrize("name", CHANGING)
def test_a_route_that_changes_something_leaves_one_entry(name: str, filled: Tenant, context: AppContext) -> None:
    before = len(_entries(context, filled))
    answer = _send(filled, name, CALLS[name].body, **{"X-Request-Id": "request-1"})
    assert answer.status_code < 300, answer.text
    entries = _entries(context, filled)
    new = entries[: len(entries) - before]
    assert [(entry.action, entry.actor, entry.via, entry.request_id) for entry in new] == [
        (CALLS[name].action, f"sb_{prefix_of(filled.token)}", "http", "request-1")
    ]
    tokens = re.findall(r"sb_\w+", answer.text)
    assert [secret for secret in (SECRET, filled.token, *tokens) if secret in repr(new)] == []


@pytest.mark.parametrize("name", CHANGING)
def test_a_route_that_refuses_a_request_leaves_no_entry(name: str, filled: Tenant, context: AppContext) -> None:
    before = _entries(context, filled)
    method, _, rule = name.partition(" ")
    body = None if CALLS[name].body is None else {"unknown": 1}
    path = rule.removeprefix(TENANT).replace("<name>", "XX9")
    answer = filled.call(method, path, body)
    assert answer.status_code in (400, 404, 415)
    assert _entries(context, filled) == before


@pytest.mark.parametrize("name", [name for name in CHANGING if name.startswith("PUT")])
def test_a_change_to_the_same_values_leaves_no_entry(name: str, filled: Tenant, context: AppContext) -> None:
    assert _send(filled, name, CALLS[name].body).status_code == 200
    before = _entries(context, filled)
    assert _send(filled, name, CALLS[name].body).status_code == 200
    assert _entries(context, filled) == before


def test_an_oauth_client_is_named_by_its_id(filled: Tenant, context: AppContext) -> None:
    client_id, secret = api_keys.create_client(context, filled.account_id, "app")
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    token = filled.client.post("/token", data=form).get_json()["access_token"]
    answer = filled.call("DELETE", "/listeners/LI1", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 204
    assert _entries(context, filled)[0].actor == client_id


def test_the_entry_of_a_pattern_says_that_it_was_switched_off(filled: Tenant, context: AppContext) -> None:
    assert filled.put("/patterns/PT1", {"status": False}).status_code == 200
    entry = _entries(context, filled)[0]
    assert (entry.object_type, entry.object_id, entry.before, entry.after) == (
        "pattern", "PT1", {"status": True}, {"status": False}
    )  # fmt: skip


def test_a_text_of_a_pattern_is_recorded_as_its_hash(filled: Tenant, context: AppContext) -> None:
    when = '(event (= type "bye"))'
    assert filled.put("/patterns/PT1", {"when": when}).status_code == 200
    assert _entries(context, filled)[0].after == {"when_text": audit.digest(when)}
