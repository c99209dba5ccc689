"""A database whose transactions are savepoints in one that is open."""

from __future__ import annotations

import pytest

from app.db.connection import run_sql
from app.services.context import AppContext


def test_a_transaction_that_raises_is_undone_alone(context: AppContext) -> None:
    with context.database.transaction() as connection:
        joined = context.database.joined(connection)
        run_sql(connection, "CREATE TEMPORARY TABLE kept (name text) ON COMMIT DROP")
        with joined.transaction() as same:
            run_sql(same, "INSERT INTO kept VALUES ('first')")
        with pytest.raises(ValueError, match="second"), joined.transaction() as same:
            run_sql(same, "INSERT INTO kept VALUES ('second')")
            raise ValueError("second")
        assert run_sql(connection, "SELECT name FROM kept").scalars().all() == ["first"]


def test_the_pool_is_shared_after_a_connection_was_lost(context: AppContext) -> None:
    with context.database.transaction() as connection:
        joined = context.database.joined(connection)
        with joined.autocommit_connection() as lost:
            lost.close()
        with joined.autocommit_connection() as opened:
            pass
    with context.database.autocommit_connection() as lent:
        assert lent is opened
