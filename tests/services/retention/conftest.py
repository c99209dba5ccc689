"""A database of its own for each test of retention."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from app.db.migrate import upgrade
from app.services.context import AppContext
from app.services.partitions import make_partitions

# All partitions of these tests have ended: the function that drops one compares with the server's clock, too.
from tests.support.retention_rows import context_of, database_named, run_alone


@pytest.fixture(scope="module")
def template(database_url: str) -> Iterator[str]:
    """The name of a migrated database with two accounts, and with partitions from January to October 2021."""
    name = f"retention_template_{os.getpid()}"
    run_alone(database_url, f"CREATE DATABASE {name}")
    url = database_named(database_url, name)
    upgrade(url)
    run_alone(
        url, "INSERT INTO accounts (slug, plan, signing_secret) VALUES ('acme', 'trial', ''), ('globex', 'trial', '')"
    )
    context = context_of(url)
    make_partitions(context, [datetime(2021, month, 1, tzinfo=UTC) for month in range(1, 11)])
    context.database.close()
    yield name
    run_alone(database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def context(database_url: str, template: str) -> Iterator[AppContext]:
    name = f"retention_{os.getpid()}"
    run_alone(database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    context = context_of(database_named(database_url, name))
    yield context
    context.database.close()
    run_alone(database_url, f"DROP DATABASE {name} WITH (FORCE)")
