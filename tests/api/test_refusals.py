"""Refused requests of authenticated senders are kept: what was sent, why it was refused, and the response that it got."""

from __future__ import annotations

import gzip
import json
import signal
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from app.api.rate_limit import RateLimiter
from app.api.refusals import RefusalLimits
from app.core.models import EVENTS_READ, PLANS
from app.services import accounts, api_keys
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.builders import BATCH_PATH, EVENTS_PATH, Sender, a_sender, an_event
from tests.support.cxengage_tenants import Tenant, a_tenant
from tests.support.server import Server, running_server

COLUMNS = (
    "status, type, detail, errors, items, route, key_prefix, request_id, idempotency_key, is_webhook_id, content_type, "
    "content_encoding, body, body_bytes, replayable, not_kept"
)
TIMEOUT = 20.0
LISTENER = {"name": "Shop", "type": "shopify", "mapping": {"id": "customer.id"}}

Find = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def kept(rows: Rows) -> Find:
    """`kept(account)` waits until the account has a refusal, and gives all; `count`: at least so many."""

    def find(account_id: int, count: int = 1) -> list[dict[str, Any]]:
        deadline = time.monotonic() + TIMEOUT
        while True:
            found = rows(f"SELECT {COLUMNS} FROM refusals WHERE account_id = %s ORDER BY id", account_id)
            names = COLUMNS.replace(",", "").split()
            known = [dict(zip(names, row, strict=True)) for row in found]
            if len(known) >= count:
                return [one | {"body": _unpacked(one["body"])} for one in known]
            assert time.monotonic() < deadline, f"{len(known)} refusals are kept"
            time.sleep(0.05)

    return find


def _unpacked(stored: Any) -> bytes | None:
    return None if stored is None else zlib.decompress(stored)


NO_EVENT = json.dumps({"distinct_id": "1"}).encode()
GOOD = json.dumps(an_event()).encode()
CHUNKS = b"2000\r\n" + b" " * 0x2000 + b"\r\n"
REFUSED: Mapping[str, tuple[bytes, dict[str, str], int, str]] = {
    "malformed": (b'{"event": ', {}, 400, "malformed-body"),
    "invalid": (NO_EVENT, {}, 422, "validation-failed"),
    "unstorable": (b'{"event": "a\\u0000", "distinct_id": "1"}', {}, 422, "unstorable-value"),
    "another media type": (GOOD, {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
    "another encoding": (GOOD, {"Content-Encoding": "br"}, 415, "unsupported-content-encoding"),
    "of another account": (GOOD, {"x-fb-account-id": "0"}, 403, "account-mismatch"),
    "invalid header": (GOOD, {"Idempotency-Key": "é"}, 422, "validation-failed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_event_is_kept_as_it_was_sent(case: str, acme: Sender, kept: Find) -> None:
    body, headers, status, problem = REFUSED[case]
    sent = {"Content-Type": "application/json", **acme.headers(), "X-Request-Id": f"ask-{status}", **headers}
    answer = acme.client.post(EVENTS_PATH, data=body, headers=sent)
    assert answer.status_code == status
    (found,) = kept(acme.account_id)
    assert (found["status"], found["type"], found["route"]) == (status, problem, EVENTS_PATH)
    assert answer.json["type"] == f"urn:signalbox:{problem}"
    assert (found["detail"], found["errors"]) == (answer.json["detail"], answer.json.get("errors"))
    assert found["request_id"] == answer.headers["X-Request-Id"] == f"ask-{status}"
    assert acme.token.startswith(f"sb_{found['key_prefix']}_")
    assert (found["body"], found["body_bytes"], found["replayable"]) == (body, len(body), True)
    assert (found["content_type"], found["idempotency_key"]) == (sent["Content-Type"], None)
    assert found["content_encoding"] == headers.get("Content-Encoding")
    assert (found["items"], found["not_kept"]) == (None, 0)


@pytest.mark.parametrize("name", ["Idempotency-Key", "webhook-id"])
def test_the_idempotency_key_of_a_refused_event_is_kept(name: str, acme: Sender, kept: Find) -> None:
    assert acme.post(b"{", **{name: "order-1"}).status_code == 400
    (found,) = kept(acme.account_id)
    assert (found["idempotency_key"], found["is_webhook_id"]) == ("order-1", name == "webhook-id")


def test_no_secret_is_kept(acme: Sender, rows: Rows, kept: Find) -> None:
    acme.post(b"{")
    kept(acme.account_id)
    (text,) = rows("SELECT to_jsonb(one)::text FROM refusals AS one WHERE account_id = %s", acme.account_id)[0]
    assert acme.token not in str(text)
    assert acme.token.removeprefix("sb_")[9:] not in str(text)


def test_a_body_that_is_gzip_is_kept_unpacked(acme: Sender, kept: Find) -> None:
    acme.post(gzip.compress(NO_EVENT), Content_Encoding="gzip")
    (found,) = kept(acme.account_id)
    assert (found["body"], found["content_encoding"], found["replayable"]) == (NO_EVENT, None, True)


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b" " * 600_000)])
def test_a_body_that_cannot_be_unpacked_is_kept_packed(body: bytes, acme: Sender, kept: Find) -> None:
    assert acme.post(body, Content_Encoding="gzip").status_code in (400, 413)
    (found,) = kept(acme.account_id)
    assert (found["body"], found["content_encoding"], found["replayable"]) == (body, "gzip", True)


def test_a_body_over_the_limit_is_not_replayable(acme: Sender, kept: Find) -> None:
    assert acme.post(b" " * 600_000).status_code == 413
    (found,) = kept(acme.account_id)
    assert (found["type"], found["body"], found["replayable"]) == ("body-too-large", None, False)


def test_of_a_body_without_a_length_the_part_that_was_read_is_kept(acme: Sender, server: Server, kept: Find) -> None:
    head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in acme.headers().items())
    assert server.exchange(head.encode() + b"\r\n" + CHUNKS * 65 + b"0\r\n\r\n").status_code == 413
    (found,) = kept(acme.account_id)
    assert (found["body"], found["replayable"]) == (b" " * (512 * 1024 + 1), False)


def test_a_body_that_was_cut_off_is_not_replayable(acme: Sender, server: Server, kept: Find) -> None:
    head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in acme.headers().items())
    assert server.exchange(head.encode() + b'\r\n{"event": ', end=True).status_code == 400
    (found,) = kept(acme.account_id)
    assert (found["body"], found["replayable"]) == (None, False)


def test_the_body_of_a_sender_that_waits_for_a_word_is_not_asked_for(acme: Sender, server: Server, kept: Find) -> None:
    head = f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in acme.headers().items())
    answer = server.exchange(head.encode() + b"Expect: 100-continue\r\n\r\n", end=True)
    assert answer.status_code == 415
    (found,) = kept(acme.account_id)
    assert (found["body"], found["replayable"]) == (None, False)


def _disable(context: AppContext, sender: Sender) -> str:
    accounts.switch_account(context, sender.account_id, on=False)
    return sender.token


def _end_plan(context: AppContext, sender: Sender) -> str:
    with context.database.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE accounts SET plan_ends_at = now() - interval '1 day', version = version + 1 WHERE id = %(id)s",
            {"id": sender.account_id},
        )
    return sender.token


def _take_scope(context: AppContext, sender: Sender) -> str:
    return api_keys.create_key(context, sender.account_id, "reader", (EVENTS_READ,))


@pytest.mark.parametrize(
    ("change", "problem"),
    [(_disable, "account-disabled"), (_end_plan, "plan-ended"), (_take_scope, "missing-scope")],
)
def test_an_event_that_may_not_be_sent_is_kept_with_its_body(
    change: Callable[[AppContext, Sender], str], problem: str, context: AppContext, acme: Sender, kept: Find
) -> None:
    token = change(context, acme)
    assert acme.post(GOOD, **{"x-limechat-uat": token}).status_code == 403
    (found,) = kept(acme.account_id)
    assert (found["status"], found["type"], found["body"]) == (403, problem, GOOD)


def test_nothing_is_kept_of_accepted_events_and_of_senders_without_a_valid_key(acme: Sender, kept: Find) -> None:
    altered = acme.token[:-7] + ("a" if acme.token[-7] != "a" else "b") + acme.token[-6:]
    assert acme.post(GOOD, **{"x-limechat-uat": altered}).status_code == 401
    assert acme.post(GOOD).status_code == acme.post_batch([an_event()]).status_code == 200
    assert acme.post(b"{").status_code == 400
    assert [one["status"] for one in kept(acme.account_id)] == [400]


def test_a_429_is_kept_once_a_minute(context: AppContext, acme: Sender, kept: Find) -> None:
    accounts.change_plan(context, acme.account_id, PLANS["standard"], 1)
    answers = [acme.post(GOOD).status_code for _ in range(5)]
    while len([status for status in answers if status == 429]) < 3:
        answers.append(acme.post(GOOD).status_code)
    limited = len([status for status in answers if status == 429])
    deadline = time.monotonic() + TIMEOUT
    while (found := kept(acme.account_id))[0]["not_kept"] < limited - 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(one["status"], one["type"], one["body"]) for one in found] == [(429, "rate-limit-exceeded", GOOD)]
    assert found[0]["not_kept"] == limited - 1


# Batches


@pytest.mark.parametrize("lines", [False, True])
def test_a_batch_leaves_one_row_with_its_refused_items(lines: bool, acme: Sender, kept: Find) -> None:
    items: list[Any] = [an_event(), an_event(phone="5673412780"), an_event(), {"event": 1}]
    answer = acme.post_lines(items) if lines else acme.post_batch(items)
    assert answer.status_code == 207
    (found,) = kept(acme.account_id)
    assert (found["status"], found["type"], found["route"]) == (207, "validation-failed", BATCH_PATH)
    assert found["detail"].startswith("2 of 4 events were refused. Event 1: phone must begin with +")
    sent = [found["body"][one["start"] : one["start"] + one["bytes"]] for one in found["items"]]
    assert [json.loads(text) for text in sent] == [items[1], items[3]]
    assert [one["index"] for one in found["items"]] == [1, 3]
    listed = [{"index": one["index"], **error} for one in found["items"] for error in one["errors"]]
    assert listed == answer.json["errors"]


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [(b"[{}, ", 400, "malformed-body"), (b"[" + b"1," * 5_000 + b"1]", 413, "too-many-events")],
)
def test_a_batch_that_is_refused_as_a_whole_is_kept_as_a_whole(
    body: bytes, status: int, problem: str, acme: Sender, kept: Find
) -> None:
    assert acme.post_batch(body).status_code == status
    (found,) = kept(acme.account_id)
    assert (found["status"], found["type"], found["items"]) == (status, problem, None)
    assert (found["body"], found["replayable"]) == (body, True)


# CxEngage


@pytest.fixture
def tenant(context: AppContext, server: Server) -> Tenant:
    return a_tenant(context, server)


def test_a_refused_event_of_cxengage_is_kept_with_the_status_that_it_got(tenant: Tenant, kept: Find) -> None:
    assert tenant.post({"type": "call"}).status_code == 400
    (found,) = kept(tenant.account_id)
    assert (found["status"], found["type"]) == (400, "validation-failed")
    assert found["route"] == f"/1.0/tenants/{tenant.slug}/event"
    assert found["body"] == b'{"type": "call"}'


def test_an_event_for_another_tenant_belongs_to_the_sender(context: AppContext, tenant: Tenant, kept: Find) -> None:
    other = a_tenant(context, tenant.sender.client, "globex")
    answer = tenant.call_at(f"/1.0/tenants/{other.slug}/event", "POST", {"key": "1"})
    assert answer.status_code == 403
    (found,) = kept(tenant.account_id)
    assert (found["status"], found["type"], found["body"]) == (403, "account-mismatch", b'{"key": "1"}')


def test_a_refused_post_to_a_listener_is_kept_without_its_token(tenant: Tenant, rows: Rows, kept: Find) -> None:
    made = tenant.call("/listeners", "POST", LISTENER).json
    answer = tenant.sender.client.post(made["receive"], data=b"1", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    (found,) = kept(tenant.account_id)
    assert (found["status"], found["route"]) == (400, made["receive"].partition("?")[0])
    assert found["body"] == b"1"
    (text,) = rows("SELECT to_jsonb(one)::text FROM refusals AS one WHERE account_id = %s", tenant.account_id)[0]
    assert made["token"] not in str(text)


def test_a_post_to_a_listener_that_is_off_is_kept(tenant: Tenant, kept: Find) -> None:
    made = tenant.call("/listeners", "POST", LISTENER | {"status": False}).json
    answer = tenant.sender.client.post(made["receive"], data=b"{}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 403
    (found,) = kept(tenant.account_id)
    assert (found["type"], found["body"]) == ("listener-disabled", b"{}")


# Every status on every route


def _listener_path(tenant: Tenant) -> str:
    path: str = tenant.call("/listeners", "POST", LISTENER).json["receive"].partition("?")[0]
    return path


PATHS: Mapping[str, Callable[[Tenant], str]] = {
    "event": lambda tenant: EVENTS_PATH,
    "batch": lambda tenant: BATCH_PATH,
    "receiver": lambda tenant: f"/1.0/tenants/{tenant.slug}/event",
    "receiver without a version": lambda tenant: f"/tenants/{tenant.slug}/event",
    "listener": _listener_path,
}
# A body, header fields and the problem.
CASES: Mapping[int, tuple[bytes, dict[str, str], str]] = {
    400: (b"[{", {}, "malformed-body"),
    403: (GOOD, {}, "account-disabled"),
    413: (b"[" + b" " * 6_000_000 + b"]", {}, "body-too-large"),
    415: (GOOD, {"Content-Type": "text/plain"}, "unsupported-media-type"),
    422: (GOOD, {"Idempotency-Key": "\u00e9"}, "validation-failed"),
    429: (GOOD, {}, "rate-limit-exceeded"),
}


@pytest.mark.parametrize("status", CASES)
@pytest.mark.parametrize("route", PATHS)
def test_each_status_is_kept_on_each_route(
    route: str, status: int, context: AppContext, tenant: Tenant, kept: Find
) -> None:
    path = PATHS[route](tenant)
    body, changed, problem = CASES[status]
    sender = tenant.sender
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {tenant.token}",
        **sender.headers(),
        **changed,
    }
    if status == 403:
        accounts.switch_account(context, sender.account_id, on=False)
    if status == 429:
        accounts.change_plan(context, sender.account_id, PLANS["standard"], 1)
        body = body if route != "batch" else b"[" + GOOD + b"," + GOOD + b"]"
        while sender.client.post(path, data=body, headers=headers).status_code != 429:
            pass
    else:
        answer = sender.client.post(path, data=body, headers=headers)
        assert answer.status_code == (400 if status == 422 and "tenants" in path else status), answer.text
    found = next(one for one in kept(sender.account_id) if one["type"] == problem)
    assert found["route"] == path
    assert found["body"] == (None if status == 413 else body)
    assert found["replayable"] is (status != 413)


# Limits, outages, the end of the process


def test_twenty_a_second_are_kept_and_the_rest_is_counted(acme: Sender, rows: Rows, kept: Find) -> None:
    sent = 70
    began = time.monotonic()
    for _ in range(sent):
        assert acme.post(b"{").status_code == 400
    windows = int(time.monotonic() - began) + 1
    deadline = time.monotonic() + TIMEOUT
    while True:
        ((count, not_kept),) = rows(
            "SELECT count(*), coalesce(sum(not_kept), 0) FROM refusals WHERE account_id = %s", acme.account_id
        )
        if int(str(count)) + int(str(not_kept)) == sent or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert int(str(count)) + int(str(not_kept)) == sent
    assert 20 <= int(str(count)) <= 20 * windows


def test_each_account_has_its_own_limits(app: Flask) -> None:
    limits = RefusalLimits(RateLimiter(app.extensions["context"].settings))
    assert [limits.allow(1, 400) for _ in range(25)] == [True] * 20 + [False] * 5
    assert [limits.allow(2, 422) for _ in range(20)] == [True] * 20
    assert [limits.allow(1, 429) for _ in range(3)] == [True, False, False]


def test_the_limit_holds_over_all_web_processes(context: AppContext, two_processes: Server, kept: Find) -> None:
    sender = a_sender(context, two_processes)
    headers = {"Content-Type": "application/json", **sender.headers()}
    accounts.change_plan(context, sender.account_id, PLANS["standard"], 1)
    with two_processes.connected_to_each() as each:
        limited = 0
        while limited < 6:
            for connection in each:
                answer = two_processes.request_on(connection, EVENTS_PATH, method="POST", data=GOOD, headers=headers)
                limited += answer.status_code == 429
    deadline = time.monotonic() + TIMEOUT
    while kept(sender.account_id)[0]["not_kept"] < limited - 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(kept(sender.account_id)) == 1


def test_without_postgres_the_response_is_the_same_and_the_refusal_is_written_later(
    own_postgres: Any, own_context: AppContext
) -> None:
    limits = {"STATEMENT_TIMEOUT": "1.5", "CONNECT_TIMEOUT": "1"}
    with running_server(**settings_of(own_context), **limits) as server:
        sender = a_sender(own_context, server)
        assert sender.post(GOOD).status_code == 200
        own_postgres.stop()
        try:
            answer = sender.post(b"{", X_Request_Id="during-the-outage")
        finally:
            own_postgres.start()
        assert (answer.status_code, answer.json["type"]) == (400, "urn:signalbox:malformed-body")
        assert _wait_for_request_id(own_context, sender.account_id) == "during-the-outage"


def _wait_for_request_id(context: AppContext, account_id: int) -> str | None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        with context.database.transaction() as connection:
            found: str | None = connection.exec_driver_sql(
                "SELECT request_id FROM refusals WHERE account_id = %(id)s", {"id": account_id}
            ).scalar()
        if found is not None or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_a_process_that_stops_writes_what_it_has(context: AppContext) -> None:
    with running_server(**settings_of(context)) as server:
        sender = a_sender(context, server)
        assert sender.post(GOOD).status_code == 200
        for number in range(5):
            assert sender.post(b"{", X_Request_Id=f"last-{number}").status_code == 400
        server.hang_up(all_threads=True)
        server.program.send_signal(signal.SIGTERM)
        server.program.wait(30)
    with context.database.transaction() as connection:
        found = connection.exec_driver_sql(
            "SELECT request_id FROM refusals WHERE account_id = %(id)s ORDER BY id", {"id": sender.account_id}
        )
        assert list(found.scalars()) == [f"last-{number}" for number in range(5)]


def test_keeping_that_fails_does_not_fail_the_response(
    app: Flask, context: AppContext, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("915673412780")

    monkeypatch.setattr(app.extensions["refusals"], "keep", fail)
    sender = a_sender(context, client)
    with structlog.testing.capture_logs() as logged:
        answer = sender.post(b"{")
        answer.close()
    assert answer.status_code == 400
    assert [one["event"] for one in logged] == ["a refusal was not kept"]
    assert "915673412780" not in str(logged)
