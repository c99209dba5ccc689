"""Workflows see what augments add; the stored event keeps the data that was sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Event as Flag
from threading import Semaphore, Thread
from typing import Any

import msgspec
import pytest
from flask import Flask

from app.core.exact_json import ExactObject, read_object
from app.core.models import Event, Receipt
from app.db.accounts import AugmentSnapshot
from app.ingest import enrichment_budget, enrichment_files
from app.ingest.account_cache import Account
from app.ingest.cxengage.event_builder import Origin, build_event
from app.ingest.enrichment import NO_ENRICHMENT, Enricher
from app.ingest.enrichment_budget import ApiBudget
from app.services import workflows
from app.services.context import AppContext
from app.services.cxengage import augments
from app.services.cxengage.augments import read_csv
from tests.api.cxengage.conftest import Tenant
from tests.support.acceptance import accept, current_account
from tests.support.builders import a_workflow
from tests.support.http_target import Answer, Call, an_http_target
from tests.support.run_execution import execute_run, rows_of, wake

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


# Files


@pytest.mark.parametrize("value", [101, "101"])
def test_the_row_found_by_the_first_column_is_added(
    context: AppContext, tenant: Tenant, enricher: Enricher, value: Any
) -> None:
    a_file(tenant)
    event = enriched(context, tenant, enricher, custId=value, total=5)
    assert event.data == {"custId": value, "total": 5, "segment": "gold", "first-name": "Ryan"}
    assert added(event) == {"segment": "gold", "first-name": "Ryan"}
    assert json.loads(event.data_json) == {"custId": value, "total": 5}


@pytest.mark.parametrize(
    "data",
    [{"id": 1, "custId": "999"}, {"id": 1}, *({"id": 1, "custId": value} for value in (None, True, [101], 1.5))],
)
def test_an_event_without_a_matching_row_is_unchanged(
    context: AppContext, tenant: Tenant, enricher: Enricher, data: dict[str, Any]
) -> None:
    a_file(with_key(tenant, "id"))
    event = enriched(context, tenant, enricher, **data)
    assert (event.data, added(event), event.warnings) == (data, None, ())


def test_a_second_column_with_the_name_of_the_first_overrides_the_sent_value(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    a_file(with_key(tenant, "username"), b"username,username\nian,not-ian\n")
    assert enriched(context, tenant, enricher, username="ian").data == {"username": "not-ian"}


def test_the_last_of_several_columns_with_one_name_counts(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    a_file(with_key(tenant, "id"), b"id,a,a\n1,first,second\n")
    assert enriched(context, tenant, enricher, id=1).data == {"id": 1, "a": "second"}


def test_a_later_augment_sees_and_overrides_an_earlier_one(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    a_file(with_key(tenant, "id"), b"id,dealer,city\n1,D7,Oslo\n")
    a_file(tenant, b"dealer,city,boss\nD7,Bergen,Kari\n")
    assert added(enriched(context, tenant, enricher, id=1)) == {"dealer": "D7", "city": "Bergen", "boss": "Kari"}


def test_only_the_named_attributes_are_added(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    a_file(tenant, attributes=["segment"])
    assert added(enriched(context, tenant, enricher, custId=101)) == {"segment": "gold"}


def test_a_large_file_is_queried_row_by_row(
    context: AppContext, tenant: Tenant, enricher: Enricher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment_files, "SMALL_FILE", 10)
    a_file(tenant)
    assert added(enriched(context, tenant, enricher, custId=101)) == {"segment": "gold", "first-name": "Ryan"}
    assert added(enriched(context, tenant, enricher, custId="nobody")) is None


def test_cells_are_returned_unchanged(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    cells = ["{}", "NULL", '"', "\\", '\\"', "a,b", "ü\n", "", " "]
    written = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    raw = f"id,a,b,c,d,e,f,g,h,i\n1,{written}\n".encode()
    path = a_file(with_key(tenant, "id"), raw)
    assert added(enriched(context, tenant, enricher, id=1)) == dict(zip("abcdefghi", cells, strict=True))
    assert read_csv(tenant.get(f"{path}/file").data) == read_csv(raw)


def test_a_new_file_applies_from_the_next_event(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    path = a_file(tenant)
    assert added(enriched(context, tenant, enricher, custId=101))["segment"] == "gold"
    tenant.post(f"{path}/file", b"custId,segment\n101,lead\n", headers={"Content-Type": "text/csv"})
    assert added(enriched(context, tenant, enricher, custId=101)) == {"segment": "lead"}
    tenant.delete(path)
    assert added(enriched(context, tenant, enricher, custId=101)) is None


def test_the_file_of_another_tenant_adds_nothing(
    context: AppContext, tenant: Tenant, stranger: Tenant, enricher: Enricher
) -> None:
    a_file(tenant)
    assert added(enriched(context, with_key(stranger, "custId"), enricher, custId=101)) is None


def test_an_account_without_augments_needs_no_query(context: AppContext, tenant: Tenant) -> None:
    enricher = Enricher(without_database(context))
    assert enricher.enrich(an_account(context, tenant), an_object({"custId": 101}), ApiBudget()) is NO_ENRICHMENT


def without_database(context: AppContext) -> AppContext:
    """The context with a database that cannot be reached."""
    return AppContext(replace(context.settings, database_url="postgresql://127.0.0.1:1/nowhere"))


# The file itself


def test_a_file_can_be_read_again(tenant: Tenant) -> None:
    path = tenant.post("/augments", FILE).json["id"]
    assert tenant.get(f"/augments/{path}/file").status_code == 404
    answer = tenant.post(f"/augments/{path}/file", data={"file": (BytesIO(CSV), "1.csv")})
    assert (answer.status_code, answer.json) == (
        201,
        {"id": "AU1", "columns": ["custId", "segment", "first-name"], "rows": 2},
    )
    downloaded = tenant.get(f"/augments/{path}/file")
    assert (downloaded.data, downloaded.content_type) == (CSV, "text/csv; charset=utf-8")


def test_a_file_can_be_deleted_and_uploaded_again(
    context: AppContext, tenant: Tenant, stranger: Tenant, enricher: Enricher
) -> None:
    path = a_file(tenant)
    assert stranger.delete(f"{path}/file").status_code == 404
    gone = tenant.delete(f"{path}/file")
    assert (gone.status_code, gone.data) == (204, b"")
    assert added(enriched(context, tenant, enricher, custId=101)) is None
    assert [tenant.call(method, f"{path}/file").status_code for method in ("GET", "DELETE")] == [404, 404]
    assert tenant.get(path).status_code == 200
    assert tenant.post(f"{path}/file", CSV, headers={"Content-Type": "text/csv"}).status_code == 201
    assert added(enriched(context, tenant, enricher, custId=101))["segment"] == "gold"


@pytest.mark.parametrize(
    ("raw", "kind", "status", "message"),
    [
        (b"custId,segment\n1\n", "text/csv", 400, "line 2: has 1 cells"),
        (b"x" * (5 * 1024 * 1024 + 1), "text/csv", 413, "larger than 5242880 bytes"),
        (b"custId,segment\n", "text/plain", 415, "text/csv or multipart/form-data"),
        (b"no form", "multipart/form-data", 400, "The form cannot be parsed"),
        (b"no form", "multipart/form-data; boundary=x", 400, "The form cannot be parsed"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n', "multipart/form-data; boundary=x", 400,
         "file: this field of the form"),
    ],
)  # fmt: skip
def test_a_broken_file_changes_nothing(tenant: Tenant, raw: bytes, kind: str, status: int, message: str) -> None:
    path = a_file(tenant)
    answer = tenant.post(f"{path}/file", raw, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert message in answer.json["error"]
    assert tenant.get(f"{path}/file").data == CSV


def test_an_api_augment_has_no_file_and_files_of_other_tenants_are_not_found(tenant: Tenant, stranger: Tenant) -> None:
    tenant.post("/augments", {"name": "x", "type": "api", "url": "http://127.0.0.1:1/"})
    csv = {"Content-Type": "text/csv"}
    assert tenant.post("/augments/AU1/file", CSV, headers=csv).status_code == 400
    assert stranger.post("/augments/AU1/file", CSV, headers=csv).status_code == 404
    assert stranger.get("/augments/AU1/file").status_code == 404


def test_a_file_of_100000_rows_is_accepted(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    rows = "".join(f"{number},s{number % 7}\n" for number in range(100_000))
    a_file(tenant, f"custId,segment\n{rows}".encode())
    assert added(enriched(context, tenant, enricher, custId=99_999)) == {"segment": "s4"}


# From acceptance to the run


def accepted(context: AppContext, tenant: Tenant, enricher: Enricher, **data: Any) -> Receipt:
    return accept(context, an_account(context, tenant), lambda account: build(context, account, enricher, data))


def stored(context: AppContext, receipt: Receipt) -> tuple[Any, ...]:
    with context.database.transaction() as connection:
        row = connection.exec_driver_sql(
            "SELECT data::text, augmented::text, warnings FROM events WHERE id = %(id)s", {"id": str(receipt.id)}
        ).one()
    return tuple(row)


def test_workflows_match_and_use_the_added_fields(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    a_file(tenant)
    workflows.apply_workflow(
        context,
        tenant.account_id,
        a_workflow(
            on={"event": "order", "where": 'data.segment == "gold"'},
            steps=[{"log": "{{ data['first-name'] }} is {{ data.segment }}"}],
        ),
    )
    assert accepted(context, tenant, enricher, custId=201).runs == ()
    receipt = accepted(context, tenant, enricher, custId=101, price=1)
    assert stored(context, receipt) == (
        '{"price": 1, "custId": 101}',
        '{"segment": "gold", "first-name": "Ryan"}',
        None,
    )
    (run,) = receipt.runs
    execute_run(context, tenant.account_id, str(run))
    (step,) = rows_of(context, "steps", tenant.account_id, str(run))
    assert step["output"] == {"text": "Ryan is gold"}


def test_the_documented_query_finds_the_added_fields(context: AppContext, tenant: Tenant, enricher: Enricher) -> None:
    a_file(tenant)
    accepted(context, tenant, enricher, custId=999)
    accepted(context, tenant, enricher, custId=101)
    page = (Path(__file__).resolve().parents[3] / "docs/sql.md").read_text("utf-8").partition("did augments add")[2]
    query, *_ = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(query.replace(":account", "%(id)s"), {"id": tenant.account_id}).all()
    assert [(row.data, row.augmented["segment"]) for row in rows] == [({"custId": 101}, "gold")]


def test_a_pattern_of_several_events_sees_the_added_fields(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    a_file(tenant)
    leaf = {"event": "order", "where": 'data.segment == "gold"'}
    workflows.apply_workflow(
        context, tenant.account_id, a_workflow(on={"times": 2, "of": leaf, "within": "1h"}, steps=[{"log": "twice"}])
    )
    assert accepted(context, tenant, enricher, custId=101).runs == ()
    assert len(accepted(context, tenant, enricher, custId=101).runs) == 1


@pytest.mark.parametrize("key", [{}, {"key": "data.custId"}])
def test_waiting_runs_see_the_added_fields(
    context: AppContext, tenant: Tenant, enricher: Enricher, key: dict[str, str]
) -> None:
    a_file(tenant)
    waits = {
        "wait_for": {"event": "order", "where": 'data.segment == "gold"'},
        "timeout": "1h",
        "then": [{"log": "gold"}],
    }
    workflows.apply_workflow(
        context, tenant.account_id, a_workflow(**key, on={"event": "order", "where": "data.first"}, steps=[waits])
    )
    (run,) = accepted(context, tenant, enricher, custId=101, first=True).runs
    assert execute_run(context, tenant.account_id, str(run))["status"] == "running"
    later = accepted(context, tenant, enricher, custId=101, first=False)
    wake(context, tenant.account_id, str(later.id))
    assert rows_of(context, "steps", tenant.account_id, str(run))[0]["output"]["data"]["segment"] == "gold"


def test_a_file_uploaded_after_the_snapshot_was_loaded_is_used(
    context: AppContext, tenant: Tenant, enricher: Enricher
) -> None:
    old = an_account(context, tenant)
    a_file(tenant)
    receipt = accept(context, old, lambda account: build(context, account, enricher, {"custId": 101}))
    assert stored(context, receipt)[1] == '{"segment": "gold", "first-name": "Ryan"}'


# APIs


def an_api(tenant: Tenant, url: str, **fields: Any) -> None:
    """A new augment with an API that is asked by GET."""
    answer = tenant.post("/augments", {"name": "CRM", "type": "api", "url": url, "method": "GET", **fields})
    assert answer.status_code == 201, answer.data


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
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        an_api(tenant, f"http://127.0.0.1:{server.server_port}/")
        events = [enriched(context, tenant, enricher, custId=str(number)) for number in range(5)]
        left_alone = [enriched(context, tenant, enricher, custId=str(number)) for number in range(10)]
    finally:
        _Silent.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert all("did not answer within 0.5 seconds" in event.warnings[0] for event in events), events[0].warnings
    assert all("calls are paused" in event.warnings[0] for event in left_alone)


# APIs that are posted to


def posted(attributes: Mapping[str, Any], key: Any = "x") -> Answer:
    """The answer of an API in CxEngage's format."""
    return Answer(body=json.dumps({"key-attr": key, "attributes": attributes}).encode())


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
