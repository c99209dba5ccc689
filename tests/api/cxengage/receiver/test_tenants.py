"""The routes of CxEngage's receiver: what they say of a tenant, who may call them, and their errors."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.models import ACCOUNT_MANAGE, EVENTS_READ, EVENTS_WRITE
from app.services import accounts, api_keys
from app.services.context import AppContext
from tests.api.conftest import Rows
from tests.support.cxengage_tenants import PREFIXES, Tenant, assert_error, described, stored

# The tenant


@pytest.mark.parametrize("path", ["", "/"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_tenant_has_an_id_and_a_name(context: AppContext, tenant: Tenant, prefix: str, path: str) -> None:
    there = Tenant(tenant.sender, tenant.token, prefix)
    assert there.call(path).json == {"id": tenant.slug, "name": tenant.slug}
    described(context, tenant, name="Acme & Söhne")
    assert answer_after_an_event(there, path) == {"id": tenant.slug, "name": "Acme & Söhne"}


def answer_after_an_event(tenant: Tenant, path: str) -> Any:
    """The answer of a route after an event, which makes the process load the current account snapshot."""
    assert tenant.post({"key": "1"}).status_code == 200
    return tenant.call(path).json


def test_another_event_attribute_applies_from_the_next_event(context: AppContext, tenant: Tenant, rows: Rows) -> None:
    sent = {"key": "1", "user": "2", "type": "a", "what": "b"}
    for changes, expected in (({}, ("1", "a")), ({"key_attribute": "user", "event_attribute": "what"}, ("2", "b"))):
        described(context, tenant, **changes)
        row = stored(rows, tenant.post(sent).json["id"])
        assert (row["distinct_id"], row["event"]) == expected


def test_the_key_attribute_can_be_read_and_changed(tenant: Tenant) -> None:
    assert tenant.call("/key-attribute").text == '{"key":"key"}'
    changed = tenant.call("/key-attribute", "POST", {"key": "username"})
    assert (changed.status_code, changed.text) == (200, '{"key":"username"}')
    assert tenant.post({"username": "x"}).json["key-attr"] == "x"
    assert tenant.call("/key-attribute").json == {"key": "username"}
    assert "'username' is missing" in assert_error(tenant.post({"key": "x"}), 400)


@pytest.mark.parametrize(
    "body", ["{}", '{"key": ""}', '{"key": 1}', '{"key": null}', '{"key": "a", "b": 1}', "[]", "{", '{"key": "a\\tb"}']
)
def test_an_invalid_key_attribute_is_refused(shared: Tenant, body: str) -> None:
    assert_error(shared.call("/key-attribute", "POST", body), 400)
    assert shared.call("/key-attribute").json == {"key": "key"}


def test_all_faults_of_a_key_attribute_are_reported(shared: Tenant) -> None:
    refused = shared.call("/key-attribute", "POST", {"key": None, "other": 1})
    assert refused.json == {"error": "key must be text; other is unknown"}


def test_a_key_belongs_to_an_account_of_one_tenant(tenant: Tenant) -> None:
    assert tenant.call_at("/1.0/account").json == {
        "email": None,
        "name": tenant.slug,
        "client-id": None,
        "ttl": None,
        "tenants": [tenant.slug],
    }
    assert tenant.call_at("/1.0/account/tenants").json == {"tenants": [{"id": tenant.slug, "name": tenant.slug}]}


# Authentication and scopes

ROUTES = [
    ("GET", ""),
    ("GET", "/"),
    ("GET", "/key-attribute"),
    ("POST", "/key-attribute"),
    ("POST", "/event"),
    ("GET", "/event/history"),
]
BODIES = {"/event": {"key": "1"}, "/key-attribute": {"key": "key"}}


def call(tenant: Tenant, method: str, path: str, **headers: str) -> Any:
    return tenant.call(path, method, BODIES[path] if method == "POST" else None, **headers)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_served_with_and_without_the_prefix(shared: Tenant, prefix: str, method: str, path: str) -> None:
    assert call(Tenant(shared.sender, shared.token, prefix), method, path).status_code == 200


@pytest.mark.parametrize("path", ["/account", "/account/tenants"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_account_routes_are_served_with_and_without_the_prefix(shared: Tenant, prefix: str, path: str) -> None:
    assert shared.call_at(prefix + path).status_code == 200


NOBODIES = ["", "Bearer", "Bearer  ", "Bearer x y", "Basic eDp5", "sb_", "Bearer ' OR ''='", "Bearer \xff"]
NOBODIES += ["Bearer sb_12345678_" + "x" * 43, "Bearer sbt_123456789012_" + "x" * 43, "Bearer " + "x" * 4_000]


@pytest.mark.parametrize("authorization", NOBODIES, ids=range(len(NOBODIES)))
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_requests_without_a_valid_token_are_refused(shared: Tenant, method: str, path: str, authorization: str) -> None:
    answer = call(shared, method, path, Authorization=authorization)
    assert "Bearer" in assert_error(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="signalbox"'


def test_the_word_bearer_is_case_insensitive(shared: Tenant) -> None:
    assert shared.call("/", Authorization=f"bearer {shared.token}").status_code == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_another_tenant_and_a_missing_one_get_the_same_error(
    shared: Tenant, stranger: Tenant, method: str, path: str
) -> None:
    answers = []
    for slug in (stranger.slug, "nobody", str(stranger.account_id), str(shared.account_id), shared.slug + "%00"):
        answer = shared.call_at(f"/1.0/tenants/{slug}{path}", method, BODIES.get(path) if method == "POST" else None)
        assert_error(answer, 403)
        answers.append(answer.data)
    assert set(answers) == {b'{"error":"The token has no access to this tenant."}'}


def test_an_event_refused_by_another_tenant_is_not_stored(shared: Tenant, stranger: Tenant, rows: Rows) -> None:
    assert_error(shared.call_at(f"/1.0/tenants/{stranger.slug}/event", "POST", {"key": "1"}), 403)
    assert rows("SELECT count(*) FROM events WHERE account_id = %s", stranger.account_id) == [(0,)]


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ((EVENTS_WRITE,), {("POST", "/event")}),
        ((EVENTS_READ,), {("GET", "/event/history")}),
        ((ACCOUNT_MANAGE,), {("POST", "/key-attribute")}),
    ],
)
def test_a_key_may_do_only_what_its_scopes_allow(
    context: AppContext, shared: Tenant, scopes: tuple[str, ...], allowed: set[tuple[str, str]]
) -> None:
    key = Tenant(shared.sender, api_keys.create_key(context, shared.account_id, "", scopes))
    open_to_all = {("GET", ""), ("GET", "/"), ("GET", "/key-attribute")}
    succeeded = {(method, path) for method, path in ROUTES if call(key, method, path).status_code == 200}
    assert succeeded == open_to_all | allowed
    (refused, *_) = set(ROUTES) - succeeded
    assert "scope" in assert_error(call(key, *refused), 403)


def test_a_disabled_account_refuses_events_but_can_be_read(context: AppContext, tenant: Tenant) -> None:
    tenant.post({"key": "1"})
    accounts.switch_account(context, tenant.account_id, on=False)
    assert "disabled" in assert_error(tenant.post({"key": "1"}), 403)
    assert len(tenant.history()) == 1


def test_a_revoked_key_is_refused_immediately(context: AppContext, tenant: Tenant) -> None:
    assert tenant.post({"key": "1"}).status_code == 200
    api_keys.revoke_key(context, tenant.token[3:11])
    assert_error(tenant.post({"key": "1"}), 401)
    assert_error(tenant.call("/event/history"), 401)


# Other errors


def test_unknown_urls_and_methods_get_errors_of_the_same_format(shared: Tenant) -> None:
    assert_error(shared.call("/nothing"), 404)
    assert_error(shared.call_at("/1.0/nothing"), 404)
    assert_error(shared.call_at("/1.0"), 404)
    assert_error(shared.call("/event/"), 404)
    answer = shared.call("/event", "PUT", {})
    assert_error(answer, 405)
    assert answer.headers["Allow"] == "POST"
    assert_error(shared.call_at("/token"), 405)


def test_the_request_id_of_the_sender_is_returned(shared: Tenant) -> None:
    assert shared.post({"key": "1"}, X_Request_Id="mine-1").headers["X-Request-Id"] == "mine-1"
    assert shared.post({}, X_Request_Id="mine-2").headers["X-Request-Id"] == "mine-2"
