"""A database with two accounts, in which there is something to ask about; its roles, and connections as each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extras import RealDictCursor

from app import create_app
from app.core import config
from app.core.ids import now, uuid7
from app.db import circuits, deliveries, sources
from app.db.circuits import OpenCircuit
from app.db.connection import driver_connection
from app.db.deliveries import NewDelivery
from app.db.document_versions import NewVersion
from app.db.job_queue import Worker, announce_worker
from app.db.migrate import upgrade
from app.db.roles import Roles
from app.db.table_sizes import record_table_sizes
from app.services import integrations, roles, workflows
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender, a_workflow, an_event
from tests.support.http_target import Answer, an_http_target
from tests.support.run_execution import execute_run
from tests.support.sources import DOCUMENT

NAMES = Roles(f"sql_{os.getpid()}")
Connect = Callable[[str], Connection]


@pytest.fixture(scope="package")
def sql_url(database_url: str) -> Iterator[str]:
    """The URL of a migrated database; its roles are dropped with it."""
    name = NAMES.prefix
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
        try:
            upgrade(url)
            yield url
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
            cursor.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (f"{name}_",))
            for (role,) in cursor.fetchall():
                cursor.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="package")
def sql_context(sql_url: str) -> AppContext:
    """The context of an application on that database, as its owner."""
    environment = {
        "DATABASE_URL": sql_url,
        "ENCRYPTION_KEY": "0" * 43 + "=",
        "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8",
        "LOG_LEVEL": "error",
    }
    found: AppContext = create_app(config.from_environment(environment)).extensions["context"]
    return found


@pytest.fixture(scope="package")
def senders(sql_context: AppContext) -> Iterator[tuple[Sender, Sender]]:
    """Two accounts with rows in all tables that people ask about: acme, and globex; and a worker that is present."""
    client = create_app(sql_context.settings).test_client()
    acme, globex = (a_sender(sql_context, client, name) for name in ("acme", "globex"))
    for sender in (acme, globex):
        _fill(sql_context, sender)
    worker = Worker(["run"], lease=15.0)
    with sql_context.database.transaction() as connection:
        record_table_sizes(connection, now())
        connection.exec_driver_sql(
            "INSERT INTO workers (id, host, pid, version, started_at, seen_at) "
            # Later than now: it still runs when the slowest test asks.
            "VALUES (%s, 'host', 1, '0', now(), now() + interval '1 hour')",
            (str(worker.id),),
        )
    with closing(sql_context.database.dedicated_connection()) as presence:
        announce_worker(presence, worker)
        yield acme, globex


def _fill(context: AppContext, sender: Sender) -> None:
    account = sender.account_id
    with an_http_target(Answer(200, b"{}")) as target:
        documents = [
            a_workflow(steps=[{"wait": "1d"}, {"log": "later"}]),
            a_workflow(name="rich", on={"event": "product_view", "where": "data.price > 1000"}),
            a_workflow(name="broken", steps=[{"http": {"url": "http://10.0.0.1/"}}]),
            a_workflow(name="notify", steps=[{"http": {"url": f"{target.url}/orders/12345", "method": "POST"}}]),
            a_workflow(name="abandoned", on={"seq": ["product_view", {"none": "order_placed", "for": "1d"}]}),
        ]
        for document in documents:
            workflows.apply_workflow(context, account, document)
        answer = sender.post(an_event(note="unknown"), Idempotency_Key="k-1").get_json()
        for run in answer["runs"]:
            execute_run(context, account, run)
    late = _start_late_run(context, sender)
    workflows.apply_workflow(context, account, a_workflow(name="paused"))
    workflows.disable_workflow(context, account, "paused")
    refused = sender.post({"event": "product_view"})
    refused.close()
    assert refused.status_code == 422
    sender.client.application.extensions["refusals"].flush()
    _deliver(context, account)
    integrations.disable_target(context, account, "https://gone.example/hook", "answered 410", UUID(answer["runs"][0]))
    circuit = OpenCircuit("POST https://slow.example/hook", 7, now(), now() + timedelta(minutes=1))
    with context.database.transaction() as connection:
        circuits.save_open_circuit(connection, account, circuit)
        values = {"account": account, "run": late, "job": f"{account}:{late}:%"}
        connection.exec_driver_sql(
            "UPDATE runs SET wake_at = now() - interval '1 hour' WHERE account_id = %(account)s AND id = %(run)s",
            values,
        )
        connection.exec_driver_sql(
            "UPDATE jobs SET due_at = now() - interval '1 hour' WHERE payload LIKE %(job)s", values
        )


def _deliver(context: AppContext, account: int) -> None:
    """A source, and a delivery that was not mapped."""
    source_id = uuid7()
    with context.database.transaction() as connection:
        sources.save_version(connection, account, NewVersion(source_id, "shop", 1, "name: shop", DOCUMENT), now())
        row = NewDelivery(account, uuid7(), source_id, 1, now(), "POST", {}, b"{}", True, "unmapped", "request")
        deliveries.insert_delivery(driver_connection(connection), row, [], 0)


def _start_late_run(context: AppContext, sender: Sender) -> str:
    """A run whose job no worker claims, of an event that was reported late."""
    workflows.apply_workflow(context, sender.account_id, a_workflow(name="late", on="signup"))
    happened_at = (now() - timedelta(hours=2)).isoformat()
    body = an_event(event="signup", distinct_id="918888888888", phone=..., occurred_at=happened_at)
    answer = sender.post(body).get_json()
    run: str = answer["runs"][0]
    return run


@pytest.fixture(scope="package")
def with_roles(sql_context: AppContext, senders: tuple[Sender, Sender]) -> None:
    """The roles of the database, and that of each account."""
    ids = [sender.account_id for sender in senders]
    for _ in roles.make_roles(sql_context, NAMES.prefix, roles.plan_roles(sql_context, NAMES.prefix, ids)):
        pass


@pytest.fixture
def connect(sql_url: str, with_roles: None) -> Iterator[Connect]:
    """Opens connections as a role; "": as the owner."""
    opened = []

    def open_connection(role: str = "") -> Connection:
        parts = urlsplit(sql_url)
        url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")) if role else sql_url
        connection = psycopg2.connect(url, options="-c timezone=UTC", cursor_factory=RealDictCursor)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()


def query(connection: Connection, statement: str, values: Any = None) -> list[dict[str, Any]]:
    """The rows of a statement, rolled back afterwards."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return [dict(row) for row in cursor.fetchall()] if cursor.description is not None else []
    finally:
        connection.rollback()
