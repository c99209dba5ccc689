"""Refusals in Postgres: written in batches, found by index, deleted in batches."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2
import pytest
import sqlalchemy as sa

from app.core.ids import uuid7
from app.db import refusals
from app.db.migrate import DIRECTORY, upgrade
from app.db.refusals import NewRefusal, RefusalFilter
from app.services import refusals as use_cases
from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.statements import statements

NOW = datetime(2031, 7, 10, 12, tzinfo=UTC)


def a_refusal(account_id: int, at: datetime = NOW, body: bytes | None = b"{", **changes: Any) -> NewRefusal:
    """A refusal of malformed JSON, with `changes`."""
    values: dict[str, Any] = {
        "account_id": account_id,
        "id": uuid7(at),
        "refused_at": at,
        "route": "/api/v1/cvf-events",
        "key_prefix": "abcdefgh",
        "status": 400,
        "type": "malformed-body",
        "detail": "The body is not JSON.",
        "errors": None,
        "items": None,
        "request_id": "one",
        "idempotency_key": None,
        "is_webhook_id": False,
        "content_type": "application/json",
        "content_encoding": None,
        "body": None if body is None else zlib.compress(body),
        "body_bytes": len(body or b""),
        "replayable": body is not None,
    }
    return NewRefusal(**{**values, **changes})


def insert(context: AppContext, *new: NewRefusal, not_kept: dict[int, int] | None = None) -> None:
    with context.database.transaction() as connection:
        if new:
            refusals.insert_refusals(connection, new)
        refusals.count_not_kept(connection, not_kept or {})


def find(context: AppContext, account_id: int, **wanted: Any) -> list[UUID]:
    with context.database.transaction() as connection:
        found = refusals.find_latest_refusals(connection, account_id, RefusalFilter(**wanted), 100)
        return [row.id for row in found]


@pytest.mark.parametrize(
    "wanted",
    [
        {"status": 422},
        {"type": "validation-failed"},
        {"key_prefix": "zyxwvuts"},
        {"route": "/api/v1/cvf-events/batch"},
        {"request_id": "two"},
        {"since": NOW + timedelta(seconds=1)},
    ],
)
def test_each_filter_finds_its_refusals(wanted: dict[str, Any], context: AppContext, acme: Sender) -> None:
    later = NOW + timedelta(seconds=1)
    changes = {"status": 422, "type": "validation-failed", "key_prefix": "zyxwvuts", "request_id": "two"}
    other = a_refusal(acme.account_id, later, route="/api/v1/cvf-events/batch", **changes)
    first = a_refusal(acme.account_id)
    insert(context, first, other)
    assert find(context, acme.account_id, **wanted) == [other.id]
    assert find(context, acme.account_id) == [other.id, first.id]
    assert find(context, acme.account_id, until=later) == find(context, acme.account_id, before=other.id) == [first.id]


def test_a_refusal_of_a_deleted_account_is_left_out(context: AppContext, acme: Sender) -> None:
    kept = a_refusal(acme.account_id)
    insert(context, kept, a_refusal(0))
    assert find(context, acme.account_id) == [kept.id]


def test_writing_a_batch_again_changes_nothing(context: AppContext, acme: Sender) -> None:
    kept = a_refusal(acme.account_id)
    insert(context, kept)
    insert(context, kept)
    assert find(context, acme.account_id) == [kept.id]


def test_what_is_not_kept_is_counted_by_the_latest_refusal(context: AppContext, acme: Sender, globex: Sender) -> None:
    first, second = a_refusal(acme.account_id), a_refusal(acme.account_id, NOW + timedelta(seconds=1))
    insert(context, first, second, a_refusal(globex.account_id), not_kept={acme.account_id: 3})
    with context.database.transaction() as connection:
        assert refusals.count_not_kept(connection, {acme.account_id: 4, 0: 1}) == {acme.account_id}
        rows = refusals.find_latest_refusals(connection, acme.account_id, RefusalFilter(), 10)
        others = refusals.find_latest_refusals(connection, globex.account_id, RefusalFilter(), 10)
    assert [row.not_kept for row in rows] == [7, 0]
    assert [row.not_kept for row in others] == [0]


def test_a_body_comes_back_as_it_was_sent(context: AppContext, acme: Sender) -> None:
    sent = bytes(range(256)) * 100
    kept, missing = a_refusal(acme.account_id, body=sent), a_refusal(acme.account_id, body=None)
    insert(context, kept, missing)
    with context.database.transaction() as connection:
        assert refusals.find_body(connection, acme.account_id, kept.id) == sent
        assert refusals.find_body(connection, acme.account_id, missing.id) is None
        assert refusals.find_accounts_with_refusal(connection, kept.id) == [acme.account_id]


@pytest.mark.parametrize("of_all", [True, False])
def test_old_refusals_are_deleted_in_batches(of_all: bool, context: AppContext, acme: Sender, globex: Sender) -> None:
    # Older than those of other tests.
    old = datetime(2001, 1, 1, tzinfo=UTC)
    kept = a_refusal(acme.account_id, old + timedelta(hours=1))
    insert(context, *(a_refusal(acme.account_id, old) for _ in range(5)), kept, a_refusal(globex.account_id, old))
    owner = None if of_all else acme.account_id
    with context.database.transaction() as connection:
        deleted = [refusals.delete_older(connection, kept.refused_at, account_id=owner, limit=3) for _ in range(3)]
        others = refusals.delete_older(connection, kept.refused_at, account_id=globex.account_id)
    assert deleted == ([3, 3, 0] if of_all else [3, 2, 0])
    assert others == (0 if of_all else 1)
    assert find(context, acme.account_id) == [kept.id]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (RefusalFilter(status=400), "refusals_pkey"),
        (RefusalFilter(request_id="one"), "refusals_request_id_idx"),
    ],
)
def test_a_list_reads_a_range_of_an_index(
    wanted: RefusalFilter, index: str, context: AppContext, acme: Sender, globex: Sender
) -> None:
    many = [a_refusal(globex.account_id, request_id=str(number)) for number in range(2_000)]
    insert(context, *many, *(a_refusal(acme.account_id, request_id=str(number)) for number in range(1_000)))
    query = refusals._SELECT + refusals._FILTER + "ORDER BY id DESC LIMIT :limit"
    values = refusals._values(wanted) | {"account": acme.account_id, "limit": 10}
    with context.database.transaction() as connection:
        connection.exec_driver_sql("ANALYZE refusals")
        plan = connection.execute(sa.text(f"EXPLAIN {query}"), values).scalars().all()
    assert any(index in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan


def test_what_can_be_replayed_is_read_in_the_order_of_its_ids(context: AppContext, acme: Sender) -> None:
    insert(context, *(a_refusal(acme.account_id) for _ in range(4_000)))
    with context.database.transaction() as connection, statements() as found:
        connection.exec_driver_sql("ANALYZE refusals")
        assert len(refusals.find_first_waiting(connection, acme.account_id, RefusalFilter(), 500)) == 500
        statement, values = found[-1]
        plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", values)]
    assert any("refusals_pkey" in line for line in plan), plan
    assert not any("Sort" in line for line in plan), plan


def test_a_plan_reads_one_more_than_it_chooses(context: AppContext, acme: Sender) -> None:
    insert(context, *(a_refusal(acme.account_id) for _ in range(4)))
    with statements() as found:
        plan = use_cases.plan_replay(context, acme.account_id, RefusalFilter(), 2)
    assert (len(plan.chosen), plan.is_cut) == (2, True)
    assert [given["limit"] for statement, given in found if "FROM refusals" in statement] == [3]


def test_the_migration_can_be_undone_and_repeated(empty_database: str) -> None:
    from alembic import command
    from alembic.config import Config

    upgrade(empty_database)
    engine = sa.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(empty_database))
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(DIRECTORY))
        config.attributes["connection"] = connection
        command.downgrade(config, "0015")
        connection.commit()
        assert connection.exec_driver_sql("SELECT to_regclass('refusals')").scalar() is None
    engine.dispose()
    upgrade(empty_database)
