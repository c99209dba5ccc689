"""While Postgres is unavailable the response is 403 `Timeout ocurred`, as of CxEngage, and nothing is partly stored."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.services import api_keys, workflows
from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.builders import a_workflow
from tests.support.cxengage_tenants import Tenant, a_tenant
from tests.support.server import Server, running_server

RECOVERY = 15.0
EVENT = {"key": "1", "type": "late"}


@pytest.fixture(scope="module")
def hurried(own_context: AppContext) -> Iterator[Server]:
    """A web process with short time-outs and one connection in its pool."""
    limits = {"STATEMENT_TIMEOUT": "0.5", "CONNECT_TIMEOUT": "1", "DATABASE_POOL": "1"}
    with running_server(**settings_of(own_context), **limits) as running:
        yield running


@pytest.fixture
def tenant(own_context: AppContext, hurried: Server) -> Tenant:
    """A tenant in the account cache, with a workflow that each event starts."""
    known = a_tenant(own_context, hurried)
    workflows.apply_workflow(own_context, known.account_id, a_workflow(on="late"))
    assert known.post({"key": "1"}).status_code == 200
    return known


@contextmanager
def locked(postgres: EmbeddedPostgres, table: str) -> Iterator[None]:
    """Another transaction holds a lock on a table."""
    with closing(psycopg2.connect(postgres.url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


def count(postgres: EmbeddedPostgres, table: str, tenant: Tenant) -> object:
    with closing(psycopg2.connect(postgres.url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE account_id = %s", (tenant.account_id,))
        return cursor.fetchone()


def assert_timed_out(answer: Any) -> None:
    assert (answer.status_code, answer.json) == (403, {"error": "Timeout ocurred"}), answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    assert int(answer.headers["Retry-After"]) > 0


def until_accepted(post: Callable[[], Any]) -> Any:
    """Post again until the event is accepted."""
    deadline = time.monotonic() + RECOVERY
    while (answer := post()).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    return answer


@pytest.mark.parametrize("table", ["accounts", "events", "runs", "idempotency_keys"])
def test_a_statement_that_times_out_stores_nothing(own_postgres: EmbeddedPostgres, tenant: Tenant, table: str) -> None:
    with locked(own_postgres, table):
        assert_timed_out(tenant.post(EVENT, Idempotency_Key="late"))
    assert [count(own_postgres, name, tenant) for name in ("events", "runs", "idempotency_keys")] == [(1,), (0,), (0,)]
    first = until_accepted(lambda: tenant.post(EVENT, Idempotency_Key="late"))
    assert first.json["contributing?"] is True
    assert [count(own_postgres, name, tenant) for name in ("events", "runs")] == [(2,), (1,)]


def test_an_exhausted_pool_is_not_an_error_of_the_sender(
    own_postgres: EmbeddedPostgres, own_context: AppContext, hurried: Server
) -> None:
    strangers = [a_tenant(own_context, hurried) for _ in range(4)]
    with locked(own_postgres, "keys"), ThreadPoolExecutor(len(strangers)) as threads:
        answers = list(threads.map(lambda stranger: stranger.post(EVENT), strangers))
    for answer in answers:
        assert_timed_out(answer)
    assert [count(own_postgres, "events", stranger) for stranger in strangers] == [(0,)] * 4
    for stranger in strangers:
        until_accepted(lambda: stranger.post(EVENT))  # noqa: B023


def test_reading_times_out_with_the_same_text(
    own_postgres: EmbeddedPostgres, own_context: AppContext, tenant: Tenant, hurried: Server
) -> None:
    client_id, secret = api_keys.create_client(own_context, tenant.account_id, "")
    basic = "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()
    with locked(own_postgres, "events"):
        assert_timed_out(tenant.call("/event/history"))
    with locked(own_postgres, "clients"):
        assert_timed_out(hurried.post("/1.0/token", data=b"", headers={"Authorization": basic}))
    with locked(own_postgres, "accounts"):
        assert_timed_out(tenant.call("/key-attribute", "POST", {"key": "other"}))
    assert until_accepted(lambda: tenant.call("/key-attribute")).json == {"key": "key"}


def test_requests_fail_while_postgres_is_down_and_succeed_afterwards(
    own_postgres: EmbeddedPostgres, tenant: Tenant, hurried: Server
) -> None:
    own_postgres.stop()
    try:
        assert_timed_out(tenant.post(EVENT))
        assert tenant.post("{").status_code == 400
        assert tenant.post({"type": "late"}).status_code == 400
    finally:
        own_postgres.start()
    until_accepted(lambda: tenant.post(EVENT))
    assert count(own_postgres, "events", tenant) == (2,)
    assert "database unavailable" in hurried.output()
