"""What the augments of one event may add, take and write together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event as Flag
from threading import Semaphore

import pytest

from app.db.accounts import AugmentSnapshot
from app.ingest import enrichment_budget, enrichment_files
from app.ingest.enrichment import Enricher
from app.ingest.enrichment_budget import ApiBudget
from app.services.context import AppContext
from tests.api.cxengage.conftest import Tenant
from tests.api.cxengage.enrichment.conftest import (
    a_file,
    added,
    an_account,
    an_api,
    an_object,
    enriched,
    posted,
)
from tests.support.http_target import Answer, Call, an_http_target

# The budget of an event


def test_what_augments_add_to_one_event_has_a_size_together(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    for name in "abc":
        a_file(tenant, f"custId,{name}\n1,{name * 30_000}\n".encode())
    event = enriched(context, tenant, enricher, custId=1)
    assert set(added(event)) == {"a", "b"}
    message = "with its fields augments would add more than 65536 bytes; the event was accepted without it"
    assert event.warnings == (f"AU3: {message}",)


def test_a_field_that_replaces_another_one_counts_once(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    for name in "abc":
        a_file(tenant, f"custId,field\n1,{name * 40_000}\n".encode())
    event = enriched(context, tenant, enricher, custId=1)
    assert (added(event), event.warnings) == ({"field": "c" * 40_000}, ())


def test_an_event_with_many_failing_augments_has_a_few_warnings(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    with an_http_target(Answer(status=404)) as crm:
        port = crm.server_port
    for number in range(14):
        an_api(tenant, f"http://127.0.0.{number + 1}:{port}/")
    event = enriched(context, tenant, enricher, custId=1)
    assert len(event.warnings) == 11
    assert event.warnings[-1] == "4 more augments failed; the event was accepted without them"


def test_files_are_no_longer_queried_when_they_took_too_long(
    context: AppContext, tenant: Tenant, enricher: Enricher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment_budget, "FILE_SECONDS", 0.0)
    a_file(tenant)
    event = enriched(context, tenant, enricher, custId=101)
    assert added(event) is None
    assert event.warnings == ("AU1: the files before it took too long; the event was accepted without it",)


def test_the_small_files_of_one_account_take_a_share_of_the_cache() -> None:
    files = [AugmentSnapshot(number, None, "GET", None, ["a", "b"], 256 * 1024, 1) for number in range(1, 101)]
    assert enrichment_files.cacheable_files(files) == set(range(1, 17))


def test_more_events_than_may_wait_are_accepted_without_the_api(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    waiting, ended = Semaphore(0), Flag()

    def hang(_: Call) -> None:
        waiting.release()
        ended.wait(20)

    with an_http_target(posted({"a": 1})) as crm, ThreadPoolExecutor(4) as threads:
        crm.before_answer = hang
        an_api(tenant, crm.url, method="POST")
        account = an_account(context, tenant)
        objects = [an_object({"custId": number}) for number in range(5)]
        others = [threads.submit(enricher.enrich, account, one, ApiBudget()) for one in objects[:4]]
        for _ in others:
            assert waiting.acquire(timeout=10)
        late = enricher.enrich(account, objects[4], ApiBudget())
        ended.set()
        assert all(other.result(20) for other in others)
    assert "too many events of the account wait for APIs" in late.warnings[0]
