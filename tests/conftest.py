"""Fixtures for all tests: a real PostgreSQL, migrated once per session, the application, and two accounts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from argon2 import PasswordHasher, profiles
from cryptography.fernet import Fernet
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings

from app import create_app
from app.core import config, passwords
from app.core.work_shares import WorkShares
from app.db.migrate import upgrade
from app.ingest import matching_step
from app.ingest.accept import EventAcceptor
from app.ingest.account_cache import AccountCache
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender
from tests.support.own_postgres import an_own_postgres

# No test measures time: a busy machine would decide.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A hash for real takes 0.2 s of CPU; thousands of tests have users. test_passwords.py tests the parameters of the product.
passwords._hasher = PasswordHasher.from_parameters(profiles.CHEAPEST)

# Settings of the developer's shell must not influence the tests.
FOREIGN = ("DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "ALLOWED_PRIVATE_TARGETS", "MAX_EVENT_BYTES", "BODY_TIMEOUT")
FOREIGN += ("MAX_BATCH_EVENTS", "MAX_BATCH_BYTES", "MAX_BATCH_UNPACKED_BYTES")
FOREIGN += ("WHATSAPP_BASE_URL", "TWILIO_BASE_URL", "SENDGRID_BASE_URL")
FOREIGN += ("STATEMENT_TIMEOUT", "CONNECT_TIMEOUT", "DATABASE_POOL", "WORKER_CONCURRENCY", "HEARTBEAT_TIMEOUT")
FOREIGN += ("TRUSTED_PROXIES", "ACCESS_LOG", "OPERATOR_NETWORKS", "WORKER_METRICS_PORT", "WORKER_METRICS_HOST")
FOREIGN += ("LOG_LEVEL", "LOG_FORMAT", "PORT", "BIND", "WEB_CONCURRENCY", "PROMETHEUS_MULTIPROC_DIR")
for name in [name for name in os.environ if name in FOREIGN or name.startswith(("PG", "FLASK_", "GUNICORN_"))]:
    del os.environ[name]


# The tests start hundreds of servers, workers and commands. Without compiled files each would compile all of app again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The files that take longest. They begin first, so that of several processes none is left alone with one of them at the end.
SLOW_FILES = (
    "cli/test_every_command.py",
    "workflows/matching/test_pattern_search.py",
    "console/test_every_page.py",
    "workflows/matching/test_pattern_bounds.py",
    "console/test_walk.py",
    "api/management/test_schemathesis.py",
    "api/management/test_receivers_schemathesis.py",
    "test_soak.py",
    "worker/test_kills.py",
    "worker/test_par_kills.py",
    "api/server/test_outages_are_seen.py",
    "cli/devserver/test_up.py",
    "cli/test_startup_checks.py",
    "api/limechat/test_postgres_outage.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the longest files first. `--no-loadscope-reorder` keeps this order."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A migrated database for the session: an embedded one, or the empty one of TEST_DATABASE_URL."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        upgrade(given)
        yield given
        return
    with an_own_postgres() as postgres:
        yield postgres.url


@pytest.fixture
def empty_database(database_url: str) -> Iterator[str]:
    """A second database, without tables."""
    name = f"empty_{os.getpid()}"
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"create database {name}")
            yield urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
            cursor.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def app(database_url: str) -> Flask:
    """The application on that database. Loopback addresses are allowed as targets."""
    environment = {
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "ALLOWED_PRIVATE_TARGETS": "127.0.0.0/8,::1",
        "LOG_LEVEL": "error",
    }
    return create_app(config.from_environment(environment))


@pytest.fixture(scope="session")
def context(app: Flask) -> AppContext:
    """The application's context."""
    found: AppContext = app.extensions["context"]
    return found


@pytest.fixture(autouse=True)
def own_shares(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accounts of earlier tests do not count as active: a test's account is alone in the process. Nor does a busy machine
    decide what is left to a worker."""
    monkeypatch.setattr(matching_step, "MAX_SECONDS", 60)
    if "app" in request.fixturenames:
        request.getfixturevalue("context").limits.shares = WorkShares()


@pytest.fixture(scope="session")
def accounts(app: Flask) -> AccountCache:
    """The application's account cache."""
    found: AccountCache = app.extensions["accounts"]
    return found


@pytest.fixture(scope="session")
def acceptor(app: Flask) -> EventAcceptor:
    """The application's event acceptor."""
    found: EventAcceptor = app.extensions["acceptor"]
    return found


@pytest.fixture(scope="session")
def client(app: Flask) -> FlaskClient:
    """Flask's test client."""
    return app.test_client()


@pytest.fixture
def acme(context: AppContext, client: FlaskClient) -> Sender:
    """The account that sends; new for each test."""
    return a_sender(context, client, "acme")


@pytest.fixture
def globex(context: AppContext, client: FlaskClient) -> Sender:
    """The account that must never see what acme sent; new for each test."""
    return a_sender(context, client, "globex")
