"""Files of augments: what they add to events, and how they are uploaded, read and deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest

from app.api.request_body import LARGE_BODY
from app.core.concurrency_limit import ConcurrencyLimit
from app.ingest import enrichment_files
from app.ingest.enrichment import NO_ENRICHMENT, Enricher
from app.ingest.enrichment_budget import ApiBudget
from app.services.context import AppContext
from app.services.cxengage import augments
from app.services.cxengage.augments import read_csv
from tests.api.cxengage.conftest import Tenant
from tests.api.cxengage.enrichment.conftest import (
    CSV,
    FILE,
    a_file,
    added,
    an_account,
    an_object,
    enriched,
    with_key,
)

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


def test_a_form_of_many_parts_is_refused(tenant: Tenant) -> None:
    path = tenant.post("/augments", FILE).json["id"]
    body = b"".join(b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" for _ in range(11)) + b"--x--\r\n"
    answer = tenant.post(
        f"/augments/{path}/file", data=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 400
    assert "more than 10 parts" in answer.json["error"]


def test_other_requests_run_while_empty_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[None] = []
    monkeypatch.setattr(augments, "pause_if_due", lambda: pauses.append(None))
    assert read_csv(b"a,b\n" + b"\n" * 500).rows == []
    assert len(pauses) > 500


def test_large_files_of_a_tenant_are_read_and_parsed_one_at_a_time(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, tenant: Tenant
) -> None:
    changes, bodies = ConcurrencyLimit(1, 0.01), ConcurrencyLimit(1, 0.01)
    path = f"/augments/{tenant.post('/augments', FILE).json['id']}/file"
    csv = {"Content-Type": "text/csv"}
    monkeypatch.setattr(context.limits, "changes", changes)
    monkeypatch.setattr(context.limits, "large_bodies", bodies)
    with changes.acquire(tenant.account_id):
        # It would be refused as no CSV file.
        assert tenant.post(path, b"\xff", headers=csv).status_code == 429
    assert tenant.post(path, b"\xff", headers=csv).status_code == 400
    with bodies.acquire(tenant.account_id):
        assert tenant.post(path, b"x" * (LARGE_BODY + 1), headers=csv).status_code == 429
        assert tenant.post(path, CSV, headers=csv).status_code == 201
