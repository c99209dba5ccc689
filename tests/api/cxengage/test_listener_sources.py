"""Listeners whose posts are deliveries to a source."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.db.deliveries import DeliveryFilter, DeliveryRow
from app.ingest.sources.delivery_replay import DeliveryReplayer
from app.services import accounts, deliveries, secrets, sources
from app.services.context import AppContext
from app.workflows.sources.listener_document import listener_document
from app.workflows.yaml_loader import InvalidDocument, write_document
from tests.api.cxengage.conftest import Tenant
from tests.api.cxengage.test_listeners import BODY, LISTENER, by_query, events, made

__all__ = ["made"]
DOCUMENT = """
name: shop
provider: listener
listener: LI1
map: {event: body.topic, distinct_id: body.customer.id}
"""


def kept(context: AppContext, tenant: Tenant) -> list[DeliveryRow]:
    return deliveries.find_first_deliveries(context, tenant.account_id, DeliveryFilter(), 10)


def test_what_is_posted_to_a_listener_comes_to_its_source(context: AppContext, tenant: Tenant, made: Any) -> None:
    token = sources.apply_source(context, tenant.account_id, DOCUMENT).token
    by_listener = by_query(tenant, made["receive"])
    assert (by_listener.status_code, by_listener.json["result"]) == (200, "accepted")
    assert by_query(tenant, f"/hooks/{token}").json["result"] == "accepted"
    assert [(row.event, row.distinct_id, row.via) for row in events(context, tenant)] == [
        ("order", "7", "source:shop")
    ] * 2
    first, second = kept(context, tenant)
    assert (str(first.id), first.query, first.verified) == (by_listener.json["delivery"], "token=***", True)
    assert second.query is None


def test_a_bearer_token_is_not_kept(context: AppContext, tenant: Tenant, made: Any) -> None:
    sources.apply_source(context, tenant.account_id, DOCUMENT)
    bearer = {"Authorization": f"Bearer {made['token']}"}
    assert tenant.call("POST", "/listeners/LI1/receive", BODY, headers=bearer).json["result"] == "accepted"
    assert kept(context, tenant)[0].headers["authorization"] == "***"


def test_a_post_that_cannot_be_mapped_is_kept_and_mapped_again(context: AppContext, tenant: Tenant, made: Any) -> None:
    sources.apply_source(context, tenant.account_id, DOCUMENT.replace("body.topic", "body.none"))
    answer = by_query(tenant, made["receive"])
    assert (answer.status_code, answer.json["result"]) == (200, "unmapped")
    sources.apply_source(context, tenant.account_id, DOCUMENT)
    (delivery,) = kept(context, tenant)
    assert DeliveryReplayer(context, tenant.account_id).replay(delivery.id).result == "accepted"
    assert [row.event for row in events(context, tenant)] == ["order"]


def test_a_source_may_verify_what_is_posted_to_its_listener(context: AppContext, tenant: Tenant, made: Any) -> None:
    secrets.set_secret(context, tenant.account_id, "SHOP", "a secret of the shop")
    verified = DOCUMENT + 'secrets: ["{{ secrets.SHOP }}"]\nverify: {shared: {header: X-Key}}\n'
    sources.apply_source(context, tenant.account_id, verified)
    assert by_query(tenant, made["receive"], **{"X-Key": "a secret of the shop"}).json["result"] == "accepted"
    refused = by_query(tenant, made["receive"], **{"X-Key": "another"})
    assert (refused.status_code, list(refused.json)) == (401, ["error"])


def test_a_listener_with_a_source_still_needs_its_token_and_may_be_off(
    context: AppContext, tenant: Tenant, made: Any
) -> None:
    sources.apply_source(context, tenant.account_id, DOCUMENT)
    assert by_query(tenant, made["receive"][:-1] + "x").status_code == 401
    tenant.put("/listeners/LI1", {"status": False})
    assert by_query(tenant, made["receive"]).status_code == 403
    assert kept(context, tenant) == []


def test_a_listener_whose_source_is_deleted_takes_events_again(context: AppContext, tenant: Tenant, made: Any) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    sources.apply_source(context, tenant.account_id, DOCUMENT)
    sources.delete_source(context, tenant.account_id, "shop")
    assert by_query(tenant, made["receive"]).json["key-attr"] == "7"


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        ("LI2", "the account has no listener LI2"),
        ("LI1", "LI1 leads to the source shop; a listener has one source"),
        ("li1", "must be the id of a CxEngage listener, such as LI1"),
    ],
)
def test_a_source_names_a_listener_that_exists_and_has_no_other_source(
    context: AppContext, tenant: Tenant, made: Any, listener: str, message: str
) -> None:
    sources.apply_source(context, tenant.account_id, DOCUMENT)
    other = DOCUMENT.replace("LI1", listener).replace("shop", "other")
    with pytest.raises(InvalidDocument) as found:
        sources.apply_source(context, tenant.account_id, other)
    (mistake,) = found.value.mistakes
    assert (mistake.line, mistake.path, mistake.message) == (4, "listener", message)
    assert sources.apply_source(context, tenant.account_id, DOCUMENT + "region: IN\n").change == "changed"


def test_the_imported_source_makes_the_events_of_its_listener(context: AppContext, tenant: Tenant) -> None:
    tenant.post("/key-attribute", {"key": "id"})
    mapping = {**LISTENER["mapping"], "hyphen": "a-b.c d", "quote": "it's.0"}
    made = tenant.post("/listeners", {**LISTENER, "name": "My shop!", "mapping": mapping}).json
    body = BODY[:-1] + b', "a-b": {"c d": [1.0]}, "it\'s": ["x"]}'
    assert by_query(tenant, made["receive"], body).status_code == 200
    account = accounts.find_account(context, str(tenant.account_id))
    assert account is not None
    document = listener_document(
        "LI1", "My shop!", mapping, key_attribute=account.key_attribute, event_attribute=account.event_attribute
    )
    applied = sources.apply_source(context, tenant.account_id, write_document(document))
    assert applied.name == "My-shop"
    for result in ("accepted", "duplicate"):
        assert by_query(tenant, made["receive"], body, idempotency_key="k").json["result"] == result
    by_listener, by_source = events(context, tenant)
    assert by_source[:2] == by_listener[:2] == ("order", "7")
    assert json.loads(by_source.data, parse_float=str) == json.loads(by_listener.data, parse_float=str)
    assert (by_listener.via, by_source.via) == ("listener:LI1", "source:My-shop")
