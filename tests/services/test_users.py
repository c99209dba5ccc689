"""Users and their roles."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.core.ids import uuid7
from app.core.models import VIEWER
from app.db.accounts import lock_account
from app.db.users import UserRow, find_user, insert_user
from app.services import accounts, users
from app.services.context import AppContext
from tests.support.builders import Sender


def test_a_role_is_set_with_the_account_locked_before_the_user(context: AppContext, acme: Sender) -> None:
    account, email = accounts.find_account(context, acme.slug), f"{acme.slug}@example.com"
    assert account is not None
    with context.database.transaction() as connection:
        # A hash of a password takes its time.
        insert_user(connection, UserRow(uuid7(), email, False, context.clock(), context.clock(), None), "no hash")
    with ThreadPoolExecutor() as pool:
        with context.database.transaction() as connection:
            # As a request of the management API does.
            lock_account(connection, account.id)
            change = pool.submit(users.set_role, context, email, account, VIEWER)
            _wait_for_one_that_waits(context, connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            assert find_user(connection, email, lock=True) is not None
        change.result()
    assert users.find_member(context, account.id, email) is not None


def _wait_for_one_that_waits(context: AppContext, blocking: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with context.database.transaction() as connection:
            query = "SELECT FROM pg_stat_activity WHERE %(by)s = ANY (pg_blocking_pids(pid))"
            if connection.exec_driver_sql(query, {"by": blocking}).rowcount:
                return
        time.sleep(0.02)
    pytest.fail("nobody waits for the transaction")
