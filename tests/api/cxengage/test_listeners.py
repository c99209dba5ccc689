"""Listeners: posts of third parties in their own format become events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.core.models import EVENTS_WRITE
from app.services import api_keys, workflows
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant
from tests.support.builders import a_workflow

LISTENER = {
    "name": "Shop",
    "type": "shopify",
    "mapping": {"id": "customer.id", "type": "topic", "total": "lines.0.price", "note": "note"},
}
BODY = b'{"customer": {"id": 7}, "topic": "order", "lines": [{"price": 12345678901234567890.10}], "secret": "s"}'
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def made(tenant: Tenant) -> Any:
    """A listener, with its token."""
    answer = tenant.post("/listeners", LISTENER)
    assert answer.status_code == 201
    return answer.json


def by_query(tenant: Tenant, url: str, body: bytes = BODY, **headers: str) -> Any:
    """Post as a third party that cannot set an Authorization header."""
    return tenant.client.post(url, data=body, headers={**JSON, **headers})


def events(context: AppContext, tenant: Tenant) -> list[Any]:
    with context.database.transaction() as connection:
        return list(
            connection.exec_driver_sql(
                "SELECT event, distinct_id, data::text, warnings, via, extra FROM events WHERE account_id = %(id)s "
                "ORDER BY id",
                {"id": tenant.account_id},
            )
        )


def test_a_third_party_posts_to_the_returned_url(context: AppContext, tenant: Tenant, made: Any) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    answer = by_query(tenant, made["receive"])
    assert answer.status_code == 200
    assert answer.json["key-attr"] == "7"
    assert answer.json["event"].keys() == {"id", "type", "total"}
    (row,) = events(context, tenant)
    assert (row.event, row.distinct_id, row.via) == ("order", "7", "listener:LI1")
    assert row.data == '{"id": 7, "type": "order", "total": 12345678901234567890.10}'
    assert row.warnings == ["note: nothing at note; the field was left out"]


@pytest.mark.parametrize("prefix", ["/1.0", ""])
def test_an_event_of_a_listener_starts_workflows(context: AppContext, tenant: Tenant, made: Any, prefix: str) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    workflows.apply_workflow(context, tenant.account_id, a_workflow(on={"event": "order", "where": "data.total > 5"}))
    answer = tenant.call("POST", "/listeners/LI1/receive", BODY, prefix=f"{prefix}/tenants/{tenant.slug}")
    assert (answer.status_code, answer.json["contributing?"]) == (200, True)


def test_an_event_of_a_listener_is_enriched(context: AppContext, tenant: Tenant, made: Any) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    tenant.post("/augments", {"name": "x", "type": "file"})
    tenant.post("/augments/AU1/file", b"id,segment\n7,gold\n", headers={"Content-Type": "text/csv"})
    workflows.apply_workflow(
        context, tenant.account_id, a_workflow(on={"event": "order", "where": 'data.segment == "gold"'})
    )
    answer = by_query(tenant, made["receive"])
    assert (answer.json["contributing?"], "segment" in answer.json["event"]) == (True, False)


def test_the_status_counts_accepted_events(tenant: Tenant, made: Any) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    before = tenant.get("/listeners/LI1/status")
    assert (before.status_code, before.json) == (
        200,
        {"id": "LI1", "status": "started", "message": "no event yet", "received": 0, "last-received-at": None},
    )
    by_query(tenant, made["receive"], **{"webhook-id": "m1"})
    by_query(tenant, made["receive"], **{"webhook-id": "m1"})
    by_query(tenant, made["receive"], b"{}")
    by_query(tenant, made["receive"])
    after = tenant.get("/listeners/LI1/status").json
    assert after["received"] == 2
    assert after["message"] == f"2 events, the last at {after['last-received-at']}"


def test_a_listener_that_is_off_accepts_nothing(context: AppContext, tenant: Tenant, made: Any) -> None:
    tenant.put("/listeners/LI1", {"status": False})
    answer = by_query(tenant, made["receive"])
    assert (answer.status_code, answer.json) == (
        403,
        {"error": "The listener LI1 is switched off."},
    )
    assert tenant.get("/listeners/LI1/status").json["status"] == "stopped"
    assert events(context, tenant) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "line 1, column 2"),
        (b'"text"', "neither an object nor an array"),
        (b'{"topic": "order"}', "key attribute"),
        (b'{"customer": {"id": 7}, "x": 1e999999}', "beyond what can be stored"),
    ],
)
def test_an_invalid_body_is_refused(context: AppContext, tenant: Tenant, made: Any, body: bytes, message: str) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    answer = by_query(tenant, made["receive"], body)
    assert answer.status_code == 400
    assert message in answer.json["error"]
    assert events(context, tenant) == []


# Tokens


def test_the_token_is_returned_once_and_stored_as_a_hash(context: AppContext, tenant: Tenant, made: Any) -> None:
    assert made["receive"] == f"/1.0/tenants/{tenant.slug}/listeners/LI1/receive?token={made['token']}"
    for path in ("/listeners", "/listeners/LI1"):
        assert made["token"] not in tenant.get(path).text
    with context.database.transaction() as connection:
        for table in ("keys", "listeners"):
            rows = connection.exec_driver_sql(f"SELECT t::text FROM {table} AS t").scalars().all()
            assert not [row for row in rows if made["token"] in row]


def test_the_token_is_valid_for_its_listener_only(tenant: Tenant, made: Any) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    tenant.post("/listeners", LISTENER)
    bearer = {"Authorization": f"Bearer {made['token']}"}
    own = tenant.call("POST", "/listeners/LI1/receive", BODY, headers=bearer)
    other = tenant.call("POST", "/listeners/LI2/receive", BODY, headers=bearer)
    event = tenant.call("POST", "/event", {"id": 7}, headers=bearer)
    read = tenant.call("GET", "/listeners", headers=bearer)
    assert [answer.status_code for answer in (own, other, event, read)] == [200, 403, 403, 403]
    assert by_query(tenant, made["receive"].replace("LI1", "LI2")).status_code == 403


def test_other_keys_are_not_accepted_in_the_query(tenant: Tenant, made: Any) -> None:
    assert by_query(tenant, made["receive"].replace(made["token"], tenant.token)).status_code == 403


@pytest.mark.parametrize(
    "url", ["{path}", "{path}?token=", "{path}?token=nonsense", "{path}?token=sb_12345678_" + "x" * 43]
)
def test_posts_without_the_token_are_refused(tenant: Tenant, made: Any, url: str) -> None:
    answer = by_query(tenant, url.format(path=made["receive"].partition("?")[0]))
    assert (answer.status_code, list(answer.json)) == (401, ["error"])


def test_a_new_token_replaces_the_old_one_and_deleting_revokes_it(tenant: Tenant, made: Any) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    renewed = tenant.post("/listeners/LI1/token")
    assert renewed.status_code == 201
    assert by_query(tenant, made["receive"]).status_code == 401
    assert by_query(tenant, renewed.json["receive"]).status_code == 200
    tenant.delete("/listeners/LI1")
    assert by_query(tenant, renewed.json["receive"]).status_code in (401, 404)
    assert tenant.post("/listeners/LI1/token").status_code == 404


def test_the_token_of_another_tenant_is_refused(tenant: Tenant, stranger: Tenant, made: Any) -> None:
    stranger.post("/listeners", LISTENER)
    assert by_query(stranger, made["receive"].replace(tenant.slug, stranger.slug)).status_code == 403


def test_a_missing_listener_accepts_nothing(context: AppContext, tenant: Tenant) -> None:
    token = api_keys.create_key(context, tenant.account_id, "sends", (EVENTS_WRITE,))
    answer = tenant.call("POST", "/listeners/LI9/receive", BODY, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 404


# Further members


def test_options_and_further_members_keep_every_digit(tenant: Tenant) -> None:
    raw = b'{"name": "x", "mapping": {"a": "b"}, "options": {"n": 1.10, "m": {"big": 12345678901234567890123}}, "hash": 2.50}'
    assert tenant.post("/listeners", raw).status_code == 201
    shown = tenant.get("/listeners/LI1").data
    assert b'"options":{"m": {"big": 12345678901234567890123}, "n": 1.10}' in shown
    assert b'"hash":2.50' in shown


def test_null_removes_a_further_member(tenant: Tenant) -> None:
    tenant.post("/listeners", {**LISTENER, "hash": "x", "topic": "y"})
    changed = tenant.put("/listeners/LI1", {"hash": None, "topic": "z", "version": "26.0"}).json
    assert {name: changed.get(name) for name in ("hash", "topic", "version")} == {
        "hash": None,
        "topic": "z",
        "version": "26.0",
    }
    assert "hash" not in changed


def test_the_format_of_cxengages_documentation_is_accepted(tenant: Tenant) -> None:
    body = {
        "status": True,
        "topic": "CxDemo",
        "name": "My Salesforce Listener",
        "version": "26.0",
        "type": "salesforce",
        "mapping": {"user": "user__c", "stage": "StageName"},
    }
    made = tenant.post("/listeners", body).json
    assert {name: made[name] for name in body} == body
    assert json.loads(tenant.get("/listeners").data)[0]["topic"] == "CxDemo"
