"""Fixtures and helpers for the tests of augments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from app.core.exact_json import ExactObject, read_object
from app.core.models import Event, Receipt
from app.ingest import enrichment_budget
from app.ingest.account_cache import Account
from app.ingest.cxengage.event_builder import Origin, build_event
from app.ingest.enrichment import Enricher
from app.ingest.enrichment_budget import ApiBudget
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant
from tests.support.acceptance import accept, current_account
from tests.support.http_target import Answer

CSV = b"custId,segment,first-name\n101,gold,Ryan\n201,,John\n"
FILE = {"name": "Segments", "type": "file"}


@pytest.fixture
def enricher(context: AppContext) -> Iterator[Enricher]:
    made = Enricher(context)
    yield made
    made.close()


@pytest.fixture
def tenant(tenant: Tenant) -> Tenant:
    """The tenant, with the key attribute `custId`."""
    return with_key(tenant, "custId")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """More time for APIs, which a busy machine delays."""
    monkeypatch.setattr(enrichment_budget, "API_SECONDS", 20.0)


def with_key(tenant: Tenant, name: str) -> Tenant:
    """The tenant after changing its key attribute."""
    assert tenant.post("/key-attribute", {"key": name}).status_code == 200
    return tenant


def an_account(context: AppContext, tenant: Tenant) -> Account:
    return current_account(context, tenant.token)


def an_object(data: Mapping[str, Any]) -> ExactObject:
    """A sent object."""
    return read_object(json.dumps(data).encode())


def build(context: AppContext, account: Account, enricher: Enricher, data: Mapping[str, Any]) -> Event:
    """The event of sent data, called `order`, as workflows see it."""
    exact = an_object(data)
    enrichment = enricher.enrich(account, exact, ApiBudget())
    return msgspec.structs.replace(build_event(account, exact, context.clock(), Origin(), enrichment), event="order")


def enriched(context: AppContext, tenant: Tenant, enricher: Enricher, **data: Any) -> Event:
    """An event as workflows see it."""
    return build(context, an_account(context, tenant), enricher, data)


def added(event: Event) -> Any:
    return None if event.augmented_json is None else json.loads(event.augmented_json)


def a_file(tenant: Tenant, raw: bytes = CSV, **fields: Any) -> str:
    """A new augment with a file; its path."""
    path = f"/augments/{tenant.post('/augments', {**FILE, **fields}).json['id']}"
    answer = tenant.post(f"{path}/file", raw, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 201, answer.data
    return path


def an_api(tenant: Tenant, url: str, **fields: Any) -> None:
    """A new augment with an API that is asked by GET."""
    answer = tenant.post("/augments", {"name": "CRM", "type": "api", "url": url, "method": "GET", **fields})
    assert answer.status_code == 201, answer.data


def accepted(context: AppContext, tenant: Tenant, enricher: Enricher, **data: Any) -> Receipt:
    return accept(context, an_account(context, tenant), lambda account: build(context, account, enricher, data))


def stored(context: AppContext, receipt: Receipt) -> tuple[Any, ...]:
    with context.database.transaction() as connection:
        row = connection.exec_driver_sql(
            "SELECT data::text, augmented::text, warnings FROM events WHERE id = %(id)s", {"id": str(receipt.id)}
        ).one()
    return tuple(row)


def posted(attributes: Mapping[str, Any], key: Any = "x") -> Answer:
    """The answer of an API in CxEngage's format."""
    return Answer(body=json.dumps({"key-attr": key, "attributes": attributes}).encode())
