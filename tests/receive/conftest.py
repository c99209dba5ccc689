"""For the tests of receiving: a real gunicorn, and senders that post to it over the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg2
import pytest

from app.journey import Journey
from tests.builders import Sender, a_sender
from tests.server import Server, running_server

Rows = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(scope="session")
def server(house: Journey) -> Iterator[Server]:
    """gunicorn as `make run` starts it: one process with threads, the rate limit in its memory."""
    with running_server(**settings_of(house)) as running:
        yield running


def settings_of(house: Journey) -> dict[str, str]:
    """The settings with which another process shares the house's database."""
    return {"DATABASE_URL": house.settings.database_url, "ENCRYPTION_KEY": ",".join(house.settings.encryption_keys)}


@pytest.fixture
def acme(house: Journey, server: Server) -> Sender:
    """The account that sends."""
    return a_sender(house, server, "acme")


@pytest.fixture
def globex(house: Journey, server: Server) -> Sender:
    """The account that must never see what acme sent."""
    return a_sender(house, server, "globex")


@pytest.fixture(scope="session")
def rows(database_url: str) -> Iterator[Rows]:
    """Asks the database: `rows("SELECT … WHERE account_id = %s", 17)`."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def ask(question: str, *values: object) -> list[tuple[object, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(question, values)
            return cursor.fetchall() if cursor.description else []

    yield ask
    connection.close()
