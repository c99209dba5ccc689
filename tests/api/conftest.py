"""Fixtures for the API tests: a real gunicorn, and senders that post to it over the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2
import pytest

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.core import config
from app.services.context import AppContext
from tests.support.builders import Sender, a_sender
from tests.support.own_postgres import an_own_postgres
from tests.support.server import Redis, Server, running_redis, running_server

Rows = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(scope="session")
def server(context: AppContext) -> Iterator[Server]:
    """gunicorn as `make run` starts it: one process with threads, the rate limit in its memory."""
    with running_server(**settings_of(context)) as running:
        yield running


def settings_of(context: AppContext) -> dict[str, str]:
    """The settings with which another process shares the context's database."""
    return {"DATABASE_URL": context.settings.database_url, "ENCRYPTION_KEY": ",".join(context.settings.encryption_keys)}


@pytest.fixture
def acme(context: AppContext, server: Server) -> Sender:
    """The account that sends."""
    return a_sender(context, server, "acme")


@pytest.fixture
def globex(context: AppContext, server: Server) -> Sender:
    """The account that must never see what acme sent."""
    return a_sender(context, server, "globex")


@pytest.fixture(scope="session")
def rows(database_url: str) -> Iterator[Rows]:
    """Asks the database: `rows("SELECT … WHERE account_id = %s", 17)`."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def query(question: str, *values: object) -> list[tuple[object, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(question, values)
            return cursor.fetchall() if cursor.description else []

    yield query
    connection.close()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A Redis that runs at the beginning and at the end of each test."""
    with running_redis() as running:
        yield running


@pytest.fixture(scope="session")
def two_processes(context: AppContext, redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """gunicorn with two web processes, which count together: the rate limit in Redis, the metrics in a folder."""
    folder = tmp_path_factory.mktemp("metrics")
    environment = settings_of(context) | {"REDIS_URL": redis.url, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with running_server(**environment, WEB_CONCURRENCY="2") as running:
        yield running


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A Postgres that a test may stop, fill up and look over the shoulder; running, migrated."""
    with an_own_postgres() as postgres:
        yield postgres


@pytest.fixture(scope="session")
def own_context(own_postgres: EmbeddedPostgres, context: AppContext) -> AppContext:
    """An app context on that Postgres."""
    environment = settings_of(context) | {"DATABASE_URL": own_postgres.url}
    return AppContext(config.from_environment(environment))
