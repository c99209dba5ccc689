"""APIs of augments: how they are called, and what their answers add to events."""

from __future__ import annotations

from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event as Flag
from typing import Any

import pytest

from app.core.exact_json import read_object
from app.ingest import enrichment_budget
from app.ingest.enrichment import Enricher
from app.ingest.enrichment_budget import ApiBudget
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant
from tests.api.cxengage.enrichment.conftest import (
    a_file,
    accepted,
    added,
    an_account,
    an_api,
    enriched,
    posted,
    stored,
)
from tests.support.http_target import Answer, an_http_target, serving

# APIs


def test_an_api_is_called_with_the_subject_and_its_answer_is_cached(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    body = b'{"segment": "gold", "balance": 12345678901234567890.10, "tags": ["a"], "custId": 7}'
    with an_http_target(Answer(body=body)) as crm:
        an_api(tenant, f"{crm.url}/customer?by=us", attributes=["segment", "balance", "nothing"])
        events = [enriched(context, tenant, enricher, custId="Ä & b") for _ in range(3)]
    assert [call.path for call in crm.calls] == ["/customer?by=us&custId=%C3%84+%26+b"]
    assert [event.augmented_json for event in events] == ['{"segment":"gold","balance":12345678901234567890.10}'] * 3


def test_a_404_from_an_api_adds_nothing(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    with an_http_target(Answer(status=404)) as crm:
        an_api(tenant, crm.url)
        event = enriched(context, tenant, enricher, custId="1")
    assert (added(event), event.warnings) == (None, ())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(status=500), "answered 500"),
        (Answer(status=302, headers=(("Location", "http://example.com/"),)), "answered 302"),
        (Answer(body=b"[1]"), "did not answer with a JSON object"),
        (Answer(body=b"<html>"), "did not answer with a JSON object"),
        (Answer(body=b'{"a": "\\u0000"}'), "did not answer with a JSON object"),
        (Answer(body=b'{"a": "' + b"x" * 70_000 + b'"}'), "answered with 65536 bytes or more"),
    ],
)
def test_an_event_is_accepted_with_a_warning_when_an_api_fails(
    context: AppContext, tenant: Tenant, enricher: Enricher, answer: Answer, message: str
) -> None:
    with an_http_target(answer) as crm:
        an_api(tenant, crm.url)
        receipt = accepted(context, tenant, enricher, custId="1")
    data, augmented, warnings = stored(context, receipt)
    assert (data, augmented) == ('{"custId": "1"}', None)
    (warning,) = warnings
    assert warning.startswith("AU1: 127.0.0.1:")
    assert message in warning
    assert warning.endswith("; the event was accepted without it")


def test_private_networks_are_not_called(context: AppContext, tenant: Tenant) -> None:
    strict = AppContext(replace(context.settings, allowed_private_targets=()))
    enricher = Enricher(strict)
    with an_http_target() as crm:
        an_api(tenant, f"http://localhost:{crm.server_port}/")
        event = enriched(context, tenant, enricher, custId="1")
        enricher.close()
    assert crm.calls == []
    assert "is a loopback address and must not be called" in event.warnings[0]


class _Silent(BaseHTTPRequestHandler):
    """Does not answer before the test ends."""

    over = Flag()

    def do_GET(self) -> None:
        self.over.wait(10)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_hanging_server_costs_half_a_second_per_event_until_its_circuit_opens(
    context: AppContext, tenant: Tenant, enricher: Enricher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment_budget, "API_SECONDS", 0.5)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Silent)
    server.daemon_threads = True
    with serving(server):
        an_api(tenant, f"http://127.0.0.1:{server.server_port}/")
        events = [enriched(context, tenant, enricher, custId=str(number)) for number in range(5)]
        left_alone = [enriched(context, tenant, enricher, custId=str(number)) for number in range(10)]
        _Silent.over.set()
    assert all("did not answer within 0.5 seconds" in event.warnings[0] for event in events), events[0].warnings
    assert all("calls are paused" in event.warnings[0] for event in left_alone)


# APIs that are posted to


def test_an_api_gets_the_event_by_post_and_its_attributes_are_added(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    with an_http_target(posted({"segment": "gold", "secret": 1})) as crm:
        an_api(tenant, f"{crm.url}/augment?by=us", attributes=["segment"], method="POST")
        event = enriched(context, tenant, enricher, custId=101, price=1)
    (call,) = crm.calls
    assert (call.method, call.path, call.headers["Content-Type"]) == ("POST", "/augment?by=us", "application/json")
    assert call.json == {"key-attr": "101", "attributes": {"custId": 101, "price": 1}}
    assert added(event) == {"segment": "gold"}


def test_post_is_the_default_and_numbers_stay_exact(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    body = b'{"key-attr": "1", "attributes": {"balance": 12345678901234567890.10}}'
    sent = read_object(b'{"custId": 1, "n": 0.1000}')
    with an_http_target(Answer(body=body)) as crm:
        made = tenant.post("/augments", {"name": "CRM", "type": "api", "url": crm.url})
        enrichment = enricher.enrich(an_account(context, tenant), sent, ApiBudget())
    assert made.json["method"] == "POST"
    assert b'"n":0.1000' in crm.calls[0].body
    assert enrichment.added.raw == {"balance": "12345678901234567890.10"}


def test_what_an_api_repeats_of_the_event_is_not_added(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    sent = {"custId": 101, "tags": ["a", True], "total": 5}
    with an_http_target(posted({**sent, "total": 6, "segment": "gold"})) as crm:
        an_api(tenant, crm.url, method="POST")
        event = enriched(context, tenant, enricher, **sent)
    assert added(event) == {"total": 6, "segment": "gold"}


@pytest.mark.parametrize("body", [b"{}", b'{"segment": "gold"}', b'{"attributes": [1]}', b'{"attributes": null}'])
def test_an_answer_of_another_shape_is_a_warning(
    context: AppContext, tenant: Tenant, enricher: Enricher, body: bytes
) -> None:
    with an_http_target(Answer(body=body)) as crm:
        an_api(tenant, crm.url, method="POST")
        event = enriched(context, tenant, enricher, custId=1)
    assert added(event) is None
    assert 'did not answer with {"key-attr": …, "attributes": {…}}' in event.warnings[0]


def test_an_api_sees_what_earlier_augments_added_and_the_last_one_wins(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    with (
        an_http_target(posted({"a": "second", "b": "second"})) as second,
        an_http_target(posted({"a": "third"})) as third,
    ):
        a_file(tenant, b"custId,a,b,c\n1,first,first,first\n")
        an_api(tenant, second.url, method="POST")
        an_api(tenant, third.url, method="POST")
        event = enriched(context, tenant, enricher, custId=1)
    from_file = {"a": "first", "b": "first", "c": "first"}
    # Side by side: the third does not see what the second adds.
    assert [one.calls[0].json["attributes"] for one in (second, third)] == [{"custId": 1, **from_file}] * 2
    assert added(event) == {"a": "third", "b": "second", "c": "first"}


def test_an_existing_api_is_asked_as_before(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    with an_http_target(Answer(body=b'{"segment": "gold"}')) as crm:
        with context.database.transaction() as connection:
            # As the previous release stores it.
            connection.exec_driver_sql(
                "INSERT INTO augments (account_id, number, name, description, type, url, in_options, created_at, updated_at)"
                " VALUES (%(id)s, 1, 'CRM', '', 'api', %(url)s, false, now(), now())",
                {"id": tenant.account_id, "url": crm.url},
            )
        event = enriched(context, tenant, enricher, custId=1)
    assert tenant.get("/augments/AU1").json["method"] == "GET"
    assert (crm.calls[0].method, crm.calls[0].path, added(event)) == ("GET", "/?custId=1", {"segment": "gold"})
