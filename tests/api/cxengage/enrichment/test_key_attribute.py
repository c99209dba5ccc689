"""Augments that add the key attribute."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from app.ingest.enrichment import Enricher
from app.services.context import AppContext
from app.services.cxengage import augments
from tests.api.cxengage.conftest import Tenant
from tests.api.cxengage.enrichment.conftest import (
    a_file,
    an_api,
    enriched,
    with_key,
)
from tests.support.http_target import Answer, an_http_target

# The key attribute


def posted_event(tenant: Tenant, **data: Any) -> Any:
    return tenant.post("/event", data)


def test_an_event_with_only_the_lookup_attribute_is_about_the_augmented_key(tenant: Tenant) -> None:
    a_file(with_key(tenant, "user"), b"handle,user\n@ian,7\n@bishop,7\n")
    answers = [posted_event(tenant, handle=handle, type="x") for handle in ("@ian", "@bishop")]
    assert [(answer.status_code, answer.json["key-attr"]) for answer in answers] == [(200, "7"), (200, "7")]
    assert answers[0].json["event"] == {"handle": "@ian", "type": "x"}
    missing = posted_event(tenant, handle="@nobody", type="x")
    assert missing.status_code == 400
    assert "'user' is missing" in missing.json["error"]


def test_an_augmented_key_is_the_subject_of_patterns(tenant: Tenant) -> None:
    a_file(with_key(tenant, "user"), b"handle,user\n@ian,7\n@bishop,7\n@eve,8\n")
    when = '(within 1 hours (count 2 (event (= type "x"))))'
    pattern = {"name": "twice", "when": when, "then": "(send echo message {:message *handle*})", "status": True}
    assert tenant.post("/patterns", pattern).status_code == 201
    sent = [posted_event(tenant, handle=handle, type="x").json for handle in ("@ian", "@eve", "@bishop")]
    assert [one["contributing?"] for one in sent] == [True, True, True]
    assert runs_of_account(tenant) == 1


def runs_of_account(tenant: Tenant) -> int:
    context: AppContext = tenant.client.application.extensions["context"]
    with context.database.transaction() as connection:
        query = "SELECT count(*) FROM runs WHERE account_id = %(id)s"
        return int(connection.exec_driver_sql(query, {"id": tenant.account_id}).scalar_one())


def test_an_unusable_augmented_key_leaves_the_sent_one(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    a_file(tenant, b"phone,custId\n1,\n")
    event = enriched(context, tenant, enricher, phone="1", custId="sent")
    assert event.distinct_id == "sent"
    assert event.warnings == (
        "custId: the augments' value has 0 characters, not 1 to 255; the event is about the subject that was sent",
    )
    refused = posted_event(tenant, phone="1")
    assert (refused.status_code, "has 0 characters" in refused.json["error"]) == (400, True)


@pytest.mark.parametrize(("attributes", "status"), [(None, 403), (["custId"], 403), (["segment"], 400)])
def test_an_event_whose_key_an_api_did_not_supply_in_time_may_be_sent_again(
    tenant: Tenant, attributes: list[str] | None, status: int
) -> None:
    with an_http_target(Answer(status=500)) as crm:
        an_api(tenant, crm.url, method="POST", **({"attributes": attributes} if attributes else {}))
        answer = posted_event(tenant, handle="@ian")
    assert answer.status_code == status
    if status == 403:
        assert (answer.json, answer.headers["Retry-After"]) == ({"error": "Timeout ocurred"}, "5")


def test_a_key_that_a_new_file_supplies_is_found_by_a_stale_process(
    app: Flask, context: AppContext, tenant: Tenant
) -> None:
    with_key(tenant, "user")
    assert posted_event(tenant, handle="@ian").status_code == 400
    # Another process stores the file.
    made = augments.create_augment(
        context, tenant.account_id, {"name": "x", "type": "file", "in_options": False, "description": ""}
    )
    augments.put_file(context, tenant.account_id, f"AU{made.number}", b"handle,user\n@ian,7\n")
    assert posted_event(tenant, handle="@ian").json["key-attr"] == "7"
