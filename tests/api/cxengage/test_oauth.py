"""OAuth clients get access tokens (RFC 6749, client credentials) that are valid for 30 days and can be revoked."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask

from app import create_app
from app.services import api_keys
from app.services.context import AppContext
from tests.api.conftest import Rows, settings_of
from tests.support.builders import an_event
from tests.support.clocks import ClockAhead
from tests.support.cxengage_tenants import PREFIXES, Tenant, a_tenant
from tests.support.server import Redis, Server, running_server

FORM = "application/x-www-form-urlencoded"
GRANT = {"grant_type": "client_credentials"}
MONTH = 30 * 24 * 3600


@dataclass(frozen=True)
class Client:
    """A client of a tenant, and its requests."""

    tenant: Tenant
    id: str
    secret: str

    def basic(self) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"{self.id}:{self.secret}".encode()).decode()}

    def request_token(self, form: Any = None, path: str = "/1.0/token", **headers: str) -> Any:
        """Request a token with Basic authentication; empty headers are left out."""
        sent = {
            "Content-Type": FORM,
            **self.basic(),
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        body = form if isinstance(form, bytes) else urlencode(GRANT if form is None else form).encode()
        sent = {name: text for name, text in sent.items() if text}
        return self.tenant.sender.client.post(path, data=body, headers=sent)

    def token(self) -> Tenant:
        """The tenant with the client's token."""
        answer = self.request_token()
        assert answer.status_code == 200, answer.text
        return Tenant(self.tenant.sender, json.loads(answer.data)["access_token"])


def a_client(context: AppContext, server: Any) -> Client:
    tenant = a_tenant(context, server)
    return Client(tenant, *api_keys.create_client(context, tenant.account_id, "test"))


@pytest.fixture
def client(context: AppContext, server: Server) -> Client:
    """A client of a tenant of its own."""
    return a_client(context, server)


def assert_refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["error"]) == (status, code), answer.text
    assert answer.json["error_description"]
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="signalbox"'


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_client_gets_a_token_for_30_days(client: Client, prefix: str) -> None:
    answer = client.request_token(path=f"{prefix}/token")
    assert answer.status_code == 200
    assert list(answer.json) == ["access_token", "token_type", "expires_in", "scope"]
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("bearer", MONTH)
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert answer.headers["Content-Type"] == "application/json"


def test_the_token_has_access_to_all_of_its_tenant(client: Client) -> None:
    there = client.token()
    assert there.post({"key": "1"}).status_code == 200
    assert len(there.history()) == 1
    assert there.call("/key-attribute", "POST", {"key": "key"}).status_code == 200
    assert there.call("/").status_code == 200


def test_the_token_has_no_access_to_other_tenants(context: AppContext, server: Server, client: Client) -> None:
    other = a_tenant(context, server, "globex")
    answer = client.token().call_at(f"/1.0/tenants/{other.slug}/event", "POST", {"key": "1"})
    assert (answer.status_code, answer.json) == (403, {"error": "The token has no access to this tenant."})


def test_the_account_shows_the_client_and_the_remaining_seconds(client: Client) -> None:
    account = client.token().call_at("/1.0/account").json
    assert (account["client-id"], account["tenants"]) == (client.id, [client.tenant.slug])
    assert MONTH - 60 <= account["ttl"] <= MONTH


def test_the_secret_may_be_in_the_form(client: Client) -> None:
    form = GRANT | {"client_id": client.id, "client_secret": client.secret}
    assert client.request_token(form, Authorization="").json["access_token"] == client.token().token


def test_a_token_works_where_keys_work(client: Client) -> None:
    headers = {"x_limechat_uat": client.token().token}
    assert client.tenant.sender.post(an_event(), **headers).status_code == 200


def test_concurrent_requests_get_one_token(client: Client) -> None:
    with ThreadPoolExecutor(6) as threads:
        tokens = set(threads.map(lambda _: client.token().token, range(6)))
    assert len(tokens) == 1


def test_two_clients_have_two_tokens(context: AppContext, client: Client) -> None:
    other = Client(client.tenant, *api_keys.create_client(context, client.tenant.account_id, "second"))
    first, second = client.token(), other.token()
    assert first.token != second.token
    assert [one.post({"key": "1"}).status_code for one in (first, second)] == [200, 200]
    api_keys.revoke_client(context, client.id)
    assert [one.post({"key": "1"}).status_code for one in (first, second)] == [401, 200]


# Errors


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"cl_\0:cs").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"cl_0123456789abcdef:cs_x").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"' OR ''=':x").decode()},
        {"Authorization": "Bearer x"},
        {"Authorization": "", "Content_Type": "application/json"},
    ],
    ids=range(10),
)
def test_a_request_without_valid_credentials_gets_no_token(client: Client, headers: dict[str, str]) -> None:
    assert_refused(client.request_token(**headers), 401, "invalid_client")


def test_the_secret_of_another_client_is_refused(context: AppContext, server: Server, client: Client) -> None:
    other = a_client(context, server)
    assert_refused(Client(client.tenant, client.id, other.secret).request_token(), 401, "invalid_client")
    assert_refused(Client(client.tenant, client.id, "").request_token(), 401, "invalid_client")


def test_a_revoked_client_gets_no_token(context: AppContext, client: Client) -> None:
    assert api_keys.revoke_client(context, client.id)
    assert_refused(client.request_token(), 401, "invalid_client")
    assert not api_keys.revoke_client(context, client.id)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({}, "invalid_request"),
        ({"grant_type": ""}, "unsupported_grant_type"),
        ({"grant_type": "password", "username": "x"}, "unsupported_grant_type"),
        (GRANT | {"scope": "everything"}, "invalid_scope"),
        (b"grant_type=client_credentials&grant_type=client_credentials", "invalid_request"),
        (b"grant_type=%ff", "invalid_request"),
        (b"\xff", "invalid_request"),
        (b"&".join(b"%d=1" % number for number in range(100)), "invalid_request"),
        (GRANT | {"client_id": "x", "client_secret": "y"}, "invalid_request"),
    ],
    ids=range(9),
)
def test_an_invalid_request_is_refused_with_the_code_of_the_rfc(client: Client, form: Any, code: str) -> None:
    assert_refused(client.request_token(form), 400, code)


# Scopes


def with_scope(client: Client, scope: str) -> Tenant:
    """The tenant with a token that was requested with a scope."""
    answer = client.request_token(GRANT | {"scope": scope})
    assert answer.status_code == 200, answer.text
    return Tenant(client.tenant.sender, answer.json["access_token"])


def test_a_token_has_only_the_requested_scopes(client: Client) -> None:
    answer = client.request_token(GRANT | {"scope": "events:write"})
    assert answer.json["scope"] == "events:write"
    sends = with_scope(client, "events:write")
    assert sends.post({"key": "1"}).status_code == 200
    refused = [
        sends.call("/key-attribute", "POST", {"key": "user"}),
        sends.call("/patterns"),
        sends.call("/augments", "POST", {"name": "x", "type": "file"}),
        sends.call("/integrations/echo", "POST", {}),
        sends.call("/event/history"),
        sends.call("/ticket", "POST"),
    ]
    assert [answer.status_code for answer in refused] == [403] * 6
    assert refused[0].json == {"error": "The token lacks the scope account:manage."}


def test_a_token_that_may_only_read_sends_nothing(client: Client) -> None:
    reads = with_scope(client, "events:read")
    assert reads.post({"key": "1"}).status_code == 403
    assert reads.history() == []
    assert reads.call("/ticket", "POST").status_code == 200


def test_a_ticket_of_a_token_with_fewer_scopes_opens_the_stream(client: Client) -> None:
    reads = with_scope(client, "events:read")
    ticket = reads.call("/ticket", "POST").json["ticket"]
    assert reads.call(f"/stream?ticket={ticket}", Authorization="").status_code == 200


def test_the_same_scopes_give_the_same_token(client: Client) -> None:
    both = {with_scope(client, text).token for text in ("events:read events:write", "events:write events:read")}
    everything = {client.token().token, with_scope(client, "account:manage events:read events:write").token}
    assert (len(both), len(everything)) == (1, 1)
    assert len(both | everything | {with_scope(client, "events:read").token}) == 3


@pytest.mark.parametrize("form", [GRANT, GRANT | {"scope": ""}])
def test_without_a_scope_a_token_has_all_that_its_client_has(client: Client, form: dict[str, str]) -> None:
    assert client.request_token(form).json["scope"] == "events:write events:read account:manage"


def test_a_client_with_fewer_scopes_gets_no_more(context: AppContext, client: Client) -> None:
    made = api_keys.create_client(context, client.tenant.account_id, "reports", ("events:read",))
    reports = Client(client.tenant, *made)
    assert reports.request_token().json["scope"] == "events:read"
    assert_refused(reports.request_token(GRANT | {"scope": "events:read events:write"}), 400, "invalid_scope")
    assert reports.token().post({"key": "1"}).status_code == 403
    assert reports.token().history() == []


@pytest.mark.parametrize(
    "scope", ["everything", "events:write everything", "EVENTS:WRITE", "events:write\tevents:read"]
)
def test_an_unknown_scope_is_invalid(client: Client, scope: str) -> None:
    answer = client.request_token(GRANT | {"scope": scope})
    assert_refused(answer, 400, "invalid_scope")
    assert "events:write, events:read, account:manage" in answer.json["error_description"]


def test_a_revoked_client_loses_the_tokens_of_all_scopes(context: AppContext, client: Client) -> None:
    sends = with_scope(client, "events:write")
    assert sends.post({"key": "1"}).status_code == 200
    api_keys.revoke_client(context, client.id)
    assert sends.post({"key": "1"}).status_code == 401


def test_a_token_with_fewer_scopes_is_stored_as_a_hash_and_its_use_is_recorded(client: Client, rows: Rows) -> None:
    sends = with_scope(client, "events:write")
    sends.post({"key": "1"})
    ((used, stored),) = rows(
        "SELECT last_used_at, to_jsonb(access_tokens)::text FROM clients JOIN access_tokens ON client_id = id "
        "WHERE id = %s",
        client.id,
    )
    assert used is not None
    assert sends.token.rpartition("_")[2] not in str(stored)


def test_a_body_that_is_not_a_form_has_no_grant(client: Client) -> None:
    assert_refused(client.request_token(b"{}", Content_Type="application/json"), 400, "invalid_request")


def test_a_form_that_is_too_large_is_refused(client: Client) -> None:
    answer = client.request_token(b"x" * 20_000)
    assert answer.status_code == 413
    assert list(answer.json) == ["error"]


# Storage


def test_secrets_and_tokens_are_neither_in_the_database_nor_in_the_log(
    client: Client, server: Server, rows: Rows
) -> None:
    there = client.token()
    there.post({"key": "1"})
    (row,) = rows("SELECT to_jsonb(clients)::text, digest, token_digest FROM clients WHERE id = %s", client.id)
    stored = str(row[0]) + "".join(bytes(part).decode("latin-1") for part in row[1:])  # type: ignore[arg-type]
    for secret in (client.secret, there.token, there.token.rpartition("_")[2]):
        assert secret not in stored
        assert secret not in server.output()


def test_the_minute_of_the_last_use_is_recorded(client: Client, rows: Rows) -> None:
    client.token().post({"key": "1"})
    ((used,),) = rows("SELECT last_used_at FROM clients WHERE id = %s", client.id)
    assert isinstance(used, datetime)
    assert datetime.now(UTC) - used < timedelta(minutes=2)


# Several processes


def test_a_token_is_valid_on_every_process_and_its_revocation_within_5_seconds(
    context: AppContext, two_processes: Server
) -> None:
    client = a_client(context, two_processes)
    there = client.token()
    path, headers = f"/1.0/tenants/{there.slug}", {"Authorization": f"Bearer {there.token}"}
    with two_processes.connected_to_each() as connections:

        def read_statuses() -> list[int]:
            return [two_processes.request_on(one, path, headers=headers).status_code for one in connections]

        def sent() -> list[int]:
            event = {"data": b'{"key": "1"}', "headers": headers | {"Content-Type": "application/json"}}
            return [
                two_processes.request_on(one, f"{path}/event", method="POST", **event).status_code  # type: ignore[arg-type]
                for one in connections
            ]

        assert (read_statuses(), sent()) == ([200, 200], [200, 200])
        api_keys.revoke_client(context, client.id)
        assert sent() == [401, 401]
        revoked = time.monotonic()
        while read_statuses() != [401, 401]:
            assert time.monotonic() - revoked < 5.0
            time.sleep(0.1)


@pytest.fixture(scope="module")
def with_redis(context: AppContext, redis: Redis) -> Iterator[Server]:
    """A web process that uses Redis for its limits."""
    with running_server(**settings_of(context), REDIS_URL=redis.url) as running:
        yield running


def test_a_client_with_too_many_requests_is_limited(context: AppContext, server: Server) -> None:
    client = a_client(context, server)
    answers = [client.request_token(b"") for _ in range(31)]
    assert {answer.status_code for answer in answers[:30]} == {400}
    assert (answers[30].status_code, answers[30].json) == (429, {"error": "Exceeded rate limit"})
    assert answers[30].headers["Retry-After"] == "60"


def test_failed_requests_of_an_address_do_not_block_a_right_secret(context: AppContext) -> None:
    """Behind a proxy all clients have its address."""
    with running_server(**settings_of(context)) as server:
        client = a_client(context, server)
        headers = {"Content-Type": FORM}
        statuses = [server.post("/token", data=b"", headers=headers).status_code for _ in range(301)]
        assert statuses == [401] * 300 + [429]
        assert client.request_token().status_code == 200


def test_all_processes_share_the_limit(context: AppContext, two_processes: Server) -> None:
    client = a_client(context, two_processes)
    headers = client.basic() | {"Content-Type": FORM}
    with two_processes.connected_to_each() as connections:
        statuses = [
            two_processes.request_on(
                connections[number % 2], "/token", method="POST", data=b"", headers=headers
            ).status_code
            for number in range(31)
        ]
    assert statuses == [400] * 30 + [429]


def test_without_redis_clients_still_get_their_tokens(context: AppContext, with_redis: Server, redis: Redis) -> None:
    client = a_client(context, with_redis)
    redis.kill()
    try:
        assert [client.request_token().status_code for _ in range(3)] == [200] * 3
    finally:
        redis.start()


def test_without_redis_a_client_is_still_limited(context: AppContext, with_redis: Server, redis: Redis) -> None:
    client = a_client(context, with_redis)
    redis.kill()
    try:
        statuses = [client.request_token(b"").status_code for _ in range(31)]
    finally:
        redis.start()
    assert statuses == [400] * 30 + [429]


# Expiry, with a clock that tests control


@pytest.fixture
def aging(context: AppContext) -> Iterator[tuple[ClockAhead, Client]]:
    """A client of an application with a clock that the test controls."""
    app: Flask = create_app(context.settings)
    clock = ClockAhead()
    app.extensions["context"].clock = clock
    with closing(app.extensions["context"].database):
        yield clock, a_client(context, app.test_client())


def test_a_repeated_request_returns_the_same_token_with_its_remaining_seconds(aging: tuple[ClockAhead, Client]) -> None:
    clock, client = aging
    token = client.token().token
    clock.ahead = timedelta(days=29, hours=23)
    again = client.request_token().json
    assert again["access_token"] == token
    assert 3_500 < again["expires_in"] <= 3_600
    assert client.token().post({"key": "1"}).status_code == 200


def test_after_30_days_the_token_is_refused_and_the_client_gets_another(aging: tuple[ClockAhead, Client]) -> None:
    clock, client = aging
    old = client.token()
    assert old.post({"key": "1"}).status_code == 200
    clock.ahead = timedelta(days=30, seconds=1)
    assert [old.post({"key": "1"}).status_code, old.call("/").status_code] == [401, 401]
    answer = client.request_token().json
    assert answer["access_token"] != old.token
    assert answer["expires_in"] == MONTH
    assert client.token().post({"key": "1"}).status_code == 200
    assert old.post({"key": "1"}).status_code == 401


def test_ids_secrets_and_tokens_have_different_formats(client: Client) -> None:
    assert re.fullmatch(r"cl_[0-9A-Za-z]{16}", client.id)
    assert re.fullmatch(r"cs_[0-9A-Za-z_-]{43}", client.secret)
    assert re.fullmatch(r"sbt_[0-9A-Za-z]{12}_[0-9A-Za-z_-]{43}", client.token().token)


def test_a_token_with_fewer_scopes_expires_after_30_days(aging: tuple[ClockAhead, Client]) -> None:
    clock, client = aging
    old = with_scope(client, "events:write")
    clock.ahead = timedelta(days=30, seconds=1)
    assert old.post({"key": "1"}).status_code == 401
    new = with_scope(client, "events:write")
    assert new.token != old.token
    assert [one.post({"key": "1"}).status_code for one in (new, old)] == [200, 401]
