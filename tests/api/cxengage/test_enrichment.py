"""What augments know is seen by workflows, and what was sent stays what it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest

from app.core.ids import uuid7
from app.core.models import Event, Receipt
from app.ingest import enrichment
from app.ingest.account_cache import Account
from app.ingest.enrichment import Augmenter
from app.services import workflows
from app.services.context import AppContext
from app.services.cxengage.csv_file import read_csv
from tests.api.cxengage.conftest import Tenant
from tests.support.acceptance import accept, current_account
from tests.support.builders import a_workflow
from tests.support.http_target import Answer, a_destination
from tests.support.run_execution import carry, rows_of, wake

CSV = b"custId,segment,first-name\n101,gold,Ryan\n201,,John\n"
FILE = {"name": "Segments", "type": "file"}


@pytest.fixture
def augmenter(context: AppContext) -> Iterator[Augmenter]:
    made = Augmenter(context)
    yield made
    made.close()


def an_account(context: AppContext, tenant: Tenant) -> Account:
    return current_account(context, tenant.token)


def an_event(context: AppContext, tenant: Tenant, **data: Any) -> Event:
    moment = context.clock()
    return Event(
        id=uuid7(moment),
        account_id=tenant.account_id,
        event="order",
        distinct_id=str(data.get("custId", "101")),
        phone=None,
        data=data,
        data_json=json.dumps(data),
        extra_json=None,
        received_at=moment,
    )


def completed(context: AppContext, tenant: Tenant, augmenter: Augmenter, **data: Any) -> Event:
    """An event as workflows see it."""
    return augmenter.complete(an_account(context, tenant), an_event(context, tenant, **data), "custId")


def added(event: Event) -> Any:
    return None if event.augmented_json is None else json.loads(event.augmented_json)


def a_file(tenant: Tenant, raw: bytes = CSV, **fields: Any) -> str:
    """A new augment with a file; its path."""
    path = f"/augments/{tenant.post('/augments', {**FILE, **fields}).json['id']}"
    answer = tenant.post(f"{path}/file", raw, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.data
    return path


# Files


@pytest.mark.parametrize("value", [101, "101"])
def test_the_row_of_the_first_columns_value_is_added(
    context: AppContext, tenant: Tenant, augmenter: Augmenter, value: Any
) -> None:
    a_file(tenant)
    event = completed(context, tenant, augmenter, custId=value, total=5)
    assert event.data == {"custId": value, "total": 5, "segment": "gold", "first-name": "Ryan"}
    assert added(event) == {"segment": "gold", "first-name": "Ryan"}
    assert json.loads(event.data_json) == {"custId": value, "total": 5}


@pytest.mark.parametrize(
    "data", [{"custId": "999"}, {"total": 5}, {"custId": None}, {"custId": True}, {"custId": [101]}]
)
def test_an_event_that_no_row_is_about_stays_as_it_is(
    context: AppContext, tenant: Tenant, augmenter: Augmenter, data: dict[str, Any]
) -> None:
    a_file(tenant)
    event = completed(context, tenant, augmenter, **data)
    assert (event.data, added(event), event.warnings) == (data, None, ())


def test_a_column_named_as_the_first_overrides_what_was_sent(
    context: AppContext, tenant: Tenant, augmenter: Augmenter
) -> None:
    a_file(tenant, b"username,username\nian,not-ian\n")
    assert completed(context, tenant, augmenter, username="ian").data == {"username": "not-ian"}


def test_of_columns_with_one_name_the_later_one_counts(
    context: AppContext, tenant: Tenant, augmenter: Augmenter
) -> None:
    a_file(tenant, b"id,a,a\n1,first,second\n")
    assert completed(context, tenant, augmenter, id=1).data == {"id": 1, "a": "second"}


def test_a_later_augment_sees_and_overrides_an_earlier_one(
    context: AppContext, tenant: Tenant, augmenter: Augmenter
) -> None:
    a_file(tenant, b"id,dealer,city\n1,D7,Oslo\n")
    a_file(tenant, b"dealer,city,boss\nD7,Bergen,Kari\n")
    assert added(completed(context, tenant, augmenter, id=1)) == {"dealer": "D7", "city": "Bergen", "boss": "Kari"}


def test_only_the_named_attributes_are_added(context: AppContext, tenant: Tenant, augmenter: Augmenter) -> None:
    a_file(tenant, attributes=["segment"])
    assert added(completed(context, tenant, augmenter, custId=101)) == {"segment": "gold"}


def test_a_large_file_is_asked_row_by_row(
    context: AppContext, tenant: Tenant, augmenter: Augmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment, "SMALL_FILE", 10)
    a_file(tenant)
    assert added(completed(context, tenant, augmenter, custId=101)) == {"segment": "gold", "first-name": "Ryan"}
    assert added(completed(context, tenant, augmenter, custId="nobody")) is None


def test_cells_come_out_as_they_went_in(context: AppContext, tenant: Tenant, augmenter: Augmenter) -> None:
    cells = ["{}", "NULL", '"', "\\", '\\"', "a,b", "ü\n", "", " "]
    written = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    raw = f"id,a,b,c,d,e,f,g,h,i\n1,{written}\n".encode()
    path = a_file(tenant, raw)
    assert added(completed(context, tenant, augmenter, id=1)) == dict(zip("abcdefghi", cells, strict=True))
    assert read_csv(tenant.get(f"{path}/file").data) == read_csv(raw)


def test_a_new_file_counts_for_the_next_event(context: AppContext, tenant: Tenant, augmenter: Augmenter) -> None:
    path = a_file(tenant)
    assert added(completed(context, tenant, augmenter, custId=101))["segment"] == "gold"
    tenant.post(f"{path}/file", b"custId,segment\n101,lead\n", headers={"Content-Type": "text/csv"})
    assert added(completed(context, tenant, augmenter, custId=101)) == {"segment": "lead"}
    tenant.delete(path)
    assert added(completed(context, tenant, augmenter, custId=101)) is None


def test_another_tenants_file_says_nothing(
    context: AppContext, tenant: Tenant, stranger: Tenant, augmenter: Augmenter
) -> None:
    a_file(tenant)
    assert added(completed(context, stranger, augmenter, custId=101)) is None


def test_an_account_without_augments_asks_nobody(context: AppContext, tenant: Tenant) -> None:
    account, event = an_account(context, tenant), an_event(context, tenant, custId=101)
    assert Augmenter(replace_database(context)).complete(account, event, "custId") is event


def replace_database(context: AppContext) -> AppContext:
    """A house whose Postgres is nowhere."""
    return AppContext(replace(context.settings, database_url="postgresql://127.0.0.1:1/nowhere"))


# The file itself


def test_a_file_is_given_back(tenant: Tenant) -> None:
    path = tenant.post("/augments", FILE).json["id"]
    assert tenant.get(f"/augments/{path}/file").status_code == 404
    answer = tenant.post(f"/augments/{path}/file", data={"file": (BytesIO(CSV), "1.csv")})
    assert (answer.status_code, answer.json) == (
        200,
        {"id": "AU1", "columns": ["custId", "segment", "first-name"], "rows": 2},
    )
    given = tenant.get(f"/augments/{path}/file")
    assert (given.data, given.content_type) == (CSV, "text/csv; charset=utf-8")


@pytest.mark.parametrize(
    ("raw", "kind", "status", "told"),
    [
        (b"custId,segment\n1\n", "text/csv", 400, "line 2: has 1 cells"),
        (b"x" * (5 * 1024 * 1024 + 1), "text/csv", 413, "larger than 5242880 bytes"),
        (b"custId,segment\n", "text/plain", 415, "text/csv or multipart/form-data"),
        (b"no form", "multipart/form-data", 400, "The form cannot be read"),
        (b"no form", "multipart/form-data; boundary=x", 400, "The form cannot be read"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n', "multipart/form-data; boundary=x", 400,
         "file: is missing"),
    ],
)  # fmt: skip
def test_a_broken_file_changes_nothing(tenant: Tenant, raw: bytes, kind: str, status: int, told: str) -> None:
    path = a_file(tenant)
    answer = tenant.post(f"{path}/file", raw, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert told in answer.json["error"]
    assert tenant.get(f"{path}/file").data == CSV


def test_an_api_has_no_file_and_nobody_has_another_tenants(tenant: Tenant, stranger: Tenant) -> None:
    tenant.post("/augments", {"name": "x", "type": "api", "url": "http://127.0.0.1:1/"})
    csv = {"Content-Type": "text/csv"}
    assert tenant.post("/augments/AU1/file", CSV, headers=csv).status_code == 400
    assert stranger.post("/augments/AU1/file", CSV, headers=csv).status_code == 404
    assert stranger.get("/augments/AU1/file").status_code == 404


def test_a_file_of_many_rows_is_taken(context: AppContext, tenant: Tenant, augmenter: Augmenter) -> None:
    rows = "".join(f"{number},s{number % 7}\n" for number in range(100_000))
    a_file(tenant, f"custId,segment\n{rows}".encode())
    assert added(completed(context, tenant, augmenter, custId=99_999)) == {"segment": "s4"}


# From acceptance to the run


def accepted(context: AppContext, tenant: Tenant, augmenter: Augmenter, **data: Any) -> Receipt:
    event = an_event(context, tenant, **data)
    return accept(context, an_account(context, tenant), lambda account: augmenter.complete(account, event, "custId"))


def stored(context: AppContext, receipt: Receipt) -> tuple[Any, ...]:
    with context.database.transaction() as connection:
        row = connection.exec_driver_sql(
            "SELECT data::text, augmented::text, warnings FROM events WHERE id = %(id)s", {"id": str(receipt.id)}
        ).one()
    return tuple(row)


def test_workflows_match_and_write_what_augments_added(
    context: AppContext, tenant: Tenant, augmenter: Augmenter
) -> None:
    a_file(tenant)
    workflows.apply_workflow(
        context,
        tenant.account_id,
        a_workflow(
            on={"event": "order", "where": 'data.segment == "gold"'},
            steps=[{"log": "{{ data['first-name'] }} is {{ data.segment }}"}],
        ),
    )
    assert accepted(context, tenant, augmenter, custId=201).runs == ()
    receipt = accepted(context, tenant, augmenter, custId=101, price=1)
    assert stored(context, receipt) == (
        '{"price": 1, "custId": 101}',
        '{"segment": "gold", "first-name": "Ryan"}',
        None,
    )
    (run,) = receipt.runs
    carry(context, tenant.account_id, str(run))
    (step,) = rows_of(context, "steps", tenant.account_id, str(run))
    assert step["output"] == {"text": "Ryan is gold"}


def test_the_printed_query_finds_what_was_added(context: AppContext, tenant: Tenant, augmenter: Augmenter) -> None:
    a_file(tenant)
    accepted(context, tenant, augmenter, custId=999)
    accepted(context, tenant, augmenter, custId=101)
    told = (Path(__file__).resolve().parents[3] / "docs/sql.md").read_text("utf-8").partition("## Beside the ten")[2]
    (query,) = re.findall(r"```sql\n(.*?)```", told, re.DOTALL)
    with context.database.transaction() as connection:
        rows = connection.exec_driver_sql(query.replace(":account", "%(id)s"), {"id": tenant.account_id}).all()
    assert [(row.data, row.augmented["segment"]) for row in rows] == [({"custId": 101}, "gold")]


def test_a_pattern_of_several_events_sees_it_too(context: AppContext, tenant: Tenant, augmenter: Augmenter) -> None:
    a_file(tenant)
    leaf = {"event": "order", "where": 'data.segment == "gold"'}
    workflows.apply_workflow(
        context, tenant.account_id, a_workflow(on={"times": 2, "of": leaf, "within": "1h"}, steps=[{"log": "twice"}])
    )
    assert accepted(context, tenant, augmenter, custId=101).runs == ()
    assert len(accepted(context, tenant, augmenter, custId=101).runs) == 1


@pytest.mark.parametrize("key", [{}, {"key": "data.custId"}])
def test_runs_wait_for_what_augments_added(
    context: AppContext, tenant: Tenant, augmenter: Augmenter, key: dict[str, str]
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
    (run,) = accepted(context, tenant, augmenter, custId=101, first=True).runs
    assert carry(context, tenant.account_id, str(run))["status"] == "running"
    later = accepted(context, tenant, augmenter, custId=101, first=False)
    wake(context, tenant.account_id, str(later.id))
    assert rows_of(context, "steps", tenant.account_id, str(run))[0]["output"]["data"]["segment"] == "gold"


def test_a_file_that_came_meanwhile_is_seen_by_the_event(
    context: AppContext, tenant: Tenant, augmenter: Augmenter
) -> None:
    old = an_account(context, tenant)
    a_file(tenant)
    event = an_event(context, tenant, custId=101)
    receipt = accept(context, old, lambda account: augmenter.complete(account, event, "custId"))
    assert stored(context, receipt)[1] == '{"segment": "gold", "first-name": "Ryan"}'


# APIs


def an_api(tenant: Tenant, url: str, **fields: Any) -> None:
    answer = tenant.post("/augments", {"name": "CRM", "type": "api", "url": url, **fields})
    assert answer.status_code == 201, answer.data


def test_an_api_is_asked_for_the_subject_and_kept_for_a_while(
    context: AppContext, tenant: Tenant, augmenter: Augmenter
) -> None:
    body = b'{"segment": "gold", "balance": 12345678901234567890.10, "tags": ["a"], "custId": 7}'
    with a_destination(Answer(body=body)) as crm:
        an_api(tenant, f"{crm.url}/customer?by=us", attributes=["segment", "balance", "nothing"])
        events = [completed(context, tenant, augmenter, custId="Ä & b") for _ in range(3)]
    assert [call.path for call in crm.calls] == ["/customer?by=us&custId=%C3%84+%26+b"]
    assert [event.augmented_json for event in events] == ['{"segment":"gold","balance":12345678901234567890.10}'] * 3


def test_what_an_api_does_not_know_is_not_added(context: AppContext, tenant: Tenant, augmenter: Augmenter) -> None:
    with a_destination(Answer(status=404)) as crm:
        an_api(tenant, crm.url)
        event = completed(context, tenant, augmenter, custId="1")
    assert (added(event), event.warnings) == (None, ())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(status=500), "answered 500"),
        (Answer(status=302, headers=(("Location", "http://example.com/"),)), "answered 302"),
        (Answer(body=b"[1]"), "did not answer with a JSON object"),
        (Answer(body=b"<html>"), "did not answer with a JSON object"),
        (Answer(body=b'{"a": "\\u0000"}'), "did not answer with a JSON object"),
        (Answer(body=b'{"a": "' + b"x" * 70_000 + b'"}'), "answered with 65536 bytes or more"),
    ],
)
def test_an_event_is_taken_without_what_an_api_fails_to_say(
    context: AppContext, tenant: Tenant, augmenter: Augmenter, answer: Answer, told: str
) -> None:
    with a_destination(answer) as crm:
        an_api(tenant, crm.url)
        receipt = accepted(context, tenant, augmenter, custId="1")
    data, what, warnings = stored(context, receipt)
    assert (data, what) == ('{"custId": "1"}', None)
    (warning,) = warnings
    assert warning.startswith("AU1: 127.0.0.1:")
    assert told in warning
    assert warning.endswith("; the event was taken without it")


def test_private_networks_are_not_asked(context: AppContext, tenant: Tenant) -> None:
    strict = AppContext(replace(context.settings, allowed_private_targets=()))
    augmenter = Augmenter(strict)
    with a_destination() as crm:
        an_api(tenant, f"http://localhost:{crm.server_port}/")
        event = completed(context, tenant, augmenter, custId="1")
        augmenter.close()
    assert crm.calls == []
    assert "is a loopback address and must not be called" in event.warnings[0]


class _Silent(BaseHTTPRequestHandler):
    """Says nothing until the test is over."""

    over = Flag()

    def do_GET(self) -> None:
        self.over.wait(10)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_server_that_hangs_costs_half_a_second_and_then_nothing(
    context: AppContext, tenant: Tenant, augmenter: Augmenter
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Silent)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        an_api(tenant, f"http://127.0.0.1:{server.server_port}/")
        events = [completed(context, tenant, augmenter, custId=str(number)) for number in range(5)]
        left_alone = [completed(context, tenant, augmenter, custId=str(number)) for number in range(10)]
    finally:
        _Silent.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert all("did not answer within 0.5 seconds" in event.warnings[0] for event in events), events[0].warnings
    assert all("left alone for now" in event.warnings[0] for event in left_alone)
